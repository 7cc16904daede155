"""What a load counts, against servers whose answers are known."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from photos import ROOT

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb

IMAGES = (b"first image", b"second image")


async def loaded(folder: Path, **load: Any) -> dict[str, Any]:
    """What the load process tells, within the loop that also serves it."""
    for number, image in enumerate(IMAGES):
        (folder / f"{number}.jpg").write_bytes(image)
    spec = {"bodies": [str(folder / f"{number}.jpg") for number in range(len(IMAGES))], "aligned": True} | load
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks" / "load.py"),
        json.dumps(spec),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


@contextlib.asynccontextmanager
async def grpc_server(handle: Callable[[bytes], tuple[grpc.StatusCode, float]]) -> AsyncIterator[str]:
    """Answers with a code after a while."""

    async def embed(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        code, wait_s = handle(message)
        await asyncio.sleep(wait_s)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, "no")
        return b"an embedding"

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(embed)
    name = "face_embedding.v1.FaceEmbedding"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Embed": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def http_server(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """Answers each request by its head and body; closes the connection after an answer that is empty or says so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                told = answer(head + body)
                writer.write(told[:20])
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(told[20:])
                if not told or b"close" in told.lower():
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_clients_that_wait_send_the_images_in_turn_and_are_counted_once_they_are_in_their_stride(
    tmp_path: Path,
) -> None:
    sent: list[bytes] = []

    def handle(message: bytes) -> tuple[grpc.StatusCode, float]:
        sent.append(message)
        return grpc.StatusCode.OK, 0.05

    async def run() -> dict[str, Any]:
        async with grpc_server(handle) as address:
            return await loaded(tmp_path, protocol="grpc", address=address, clients=2, seconds=1.0)

    told = asyncio.run(run())
    assert 2 <= round(told["per_s"] * 0.75) <= told["count"] - 3  # not the first quarter, nor the last of each client
    assert {pb.EmbedRequest.FromString(each).image for each in sent} == set(IMAGES)
    assert all(pb.EmbedRequest.FromString(each).aligned for each in sent)


def test_arrivals_come_at_their_rate_however_slow_the_answers_and_each_is_told_by_its_code(tmp_path: Path) -> None:
    served = 0

    def handle(_: bytes) -> tuple[grpc.StatusCode, float]:
        nonlocal served
        served += 1
        refused = served % 3 == 0
        return (grpc.StatusCode.RESOURCE_EXHAUSTED, 0.0) if refused else (grpc.StatusCode.OK, 5.0 * (served % 3 == 1))

    async def run() -> dict[str, Any]:
        async with grpc_server(handle) as address:
            load = {"clients": 3, "rate": 100.0, "seconds": 0.6, "deadline_s": 0.5}
            return await loaded(tmp_path, protocol="grpc", address=address, **load)

    told = asyncio.run(run())
    assert set(told["codes"]) == {"ok", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert sum(told["codes"].values()) == served - 3
    assert served - 3 >= 50
    assert 0 < told["per_s"] * 0.45 < told["count"]  # not what came in the first quarter
    assert len(told["refused_ms"]) == 2


def test_rest_keeps_connections_asks_again_where_one_was_closed_idle_and_tells_statuses(tmp_path: Path) -> None:
    asked: list[bytes] = []
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer"
    last = good.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    busy = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
    turns = (good, busy, last, b"", good, b"")  # closed without an answer: once a new connection, once a kept one

    def answer(request: bytes) -> bytes:
        asked.append(request)
        return turns[(len(asked) - 1) % len(turns)]

    async def run() -> dict[str, Any]:
        async with http_server(answer) as address:
            return await loaded(tmp_path, protocol="rest", address=address, seconds=0.5)

    told = asyncio.run(run())
    rounds = len(asked) // len(turns)
    assert rounds >= 3
    assert set(told["codes"]) == {"ok", "429", "closed"}
    for code, count in told["codes"].items():
        assert abs(count - rounds * {"ok": 3, "429": 1, "closed": 1}[code]) <= 3, told["codes"]
    assert all(request.startswith(b"POST /embed?aligned=true&encoding=base64 HTTP/1.1\r\n") for request in asked)
    assert {request.partition(b"\r\n\r\n")[2] for request in asked} == set(IMAGES)
