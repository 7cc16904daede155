"""The load's own HTTP/2 client, against the server of grpc.aio and against one that says what it is told to."""

import asyncio
import contextlib
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from hpack import Encoder

from benchmarks.http2 import CODES, Client, framed

PATH = "/test.Echo/Echo"
Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, *options: tuple[str, int]) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    server = grpc.aio.server(options=list({"grpc.max_receive_message_length": -1, **dict(options)}.items()))
    method = grpc.unary_unary_rpc_method_handler(handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def client(address: str, deadline_s: float = 20.0, connections: int = 1) -> AsyncIterator[Client]:
    made = Client(address, PATH, deadline_s, connections)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def code(made: Client, message: bytes = b"x", number: int = 0) -> str:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    made.call(number, framed(message), lambda code, _began, _ended: told.set_result(code))
    async with asyncio.timeout(30):
        return await told


def bodies() -> list[bytes]:
    """No two alike; many small ones, some of several frames, and some of more than any window."""
    sizes = [0] * 20 + [10] * 60 + [20_000] * 40 + [300_000] * 12
    return [(number.to_bytes(2) + bytes(range(251)) * (size // 251 + 1))[:size] for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "options",
    [
        (),
        (("grpc.max_concurrent_streams", 3), ("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0)),
        (("grpc.http2.max_frame_size", 2**20), ("grpc.http2.hpack_table_size.decoder", 100)),
    ],
    ids=["as it comes", "few streams and small windows", "large frames and a small table"],
)
def test_bodies_of_every_size_arrive_as_they_are_from_many_calls_at_once(options: tuple[tuple[str, int], ...]) -> None:
    received: list[bytes] = []

    async def handler(message: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        received.append(message)
        return message or b"nothing"

    async def run() -> list[str]:
        async with serving(handler, *options) as (address, _), client(address, connections=4) as made:
            return await asyncio.gather(*(code(made, body, number) for number, body in enumerate(bodies())))

    assert Counter(asyncio.run(run())) == {"ok": len(bodies())}
    assert sorted(received) == sorted(bodies())


def test_errors_come_with_their_code_and_an_empty_answer_is_not_a_good_one() -> None:
    async def handler(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if message:
            await context.abort(next(each for each in grpc.StatusCode if each.name.encode() == message), "déjà vu")
        return b""

    async def run() -> list[str]:
        async with serving(handler) as (address, _), client(address) as made:
            return [await code(made, name) for name in [*names, *names, b""]]  # twice: the second time it is known

    names = [name.encode() for name in CODES if name != "ok"]
    assert len(names) == len(grpc.StatusCode) - 1
    assert asyncio.run(run()) == [name.decode() for name in names] * 2 + ["INTERNAL"]


def test_a_slow_server_misses_the_deadline_which_it_is_told_and_calls_that_wait_for_a_stream_miss_theirs() -> None:
    left: list[float] = []

    async def handler(message: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        left.append(context.time_remaining())
        await asyncio.sleep(10 if message == b"slow" else 0)
        return b"x"

    async def run() -> tuple[list[str], float, str]:
        options = ("grpc.max_concurrent_streams", 2)
        async with serving(handler, options) as (address, _), client(address, deadline_s=0.3) as made:
            began = time.monotonic()
            codes = await asyncio.gather(*(code(made, b"slow") for _ in range(6)))
            return codes, time.monotonic() - began, await code(made)

    codes, taken, after = asyncio.run(run())
    assert codes == ["DEADLINE_EXCEEDED"] * 6
    assert taken < 5
    assert after == "ok"
    assert 0 < max(left) <= 0.3


def test_an_answer_to_a_body_that_is_still_being_sent_ends_the_call_and_harms_no_other() -> None:
    async def handler(message: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return message

    async def run() -> list[str]:
        async with (
            serving(handler, ("grpc.max_receive_message_length", 1000)) as (address, _),
            client(address) as made,
        ):
            return await asyncio.gather(*(code(made, b"x" * size) for size in (500_000, 10, 500_000, 1000)))

    assert asyncio.run(run()) == ["RESOURCE_EXHAUSTED", "ok", "RESOURCE_EXHAUSTED", "ok"]


def test_calls_end_when_the_server_goes_away_and_go_on_when_it_is_back() -> None:
    entered: asyncio.Queue[bytes] = asyncio.Queue()

    async def handler(message: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        entered.put_nowait(message)
        await asyncio.sleep(10 if message == b"slow" else 0)
        return message

    async def run() -> tuple[list[str], str, str]:
        async with serving(handler) as (address, server), client(address, connections=2) as made:
            calls = [asyncio.create_task(code(made, b"slow", number)) for number in range(4)]
            for _ in calls:
                await entered.get()
            await server.stop(0)
            codes = await asyncio.gather(*calls)
            gone = await code(made)
            again = grpc.aio.server()
            method = grpc.unary_unary_rpc_method_handler(handler)
            again.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),))
            again.add_insecure_port(address)
            await again.start()
            async with asyncio.timeout(10):
                while (back := await code(made)) != "ok":
                    pass
            await again.stop(0)
            return codes, gone, back

    codes, gone, back = asyncio.run(run())
    assert set(codes) <= {"UNAVAILABLE", "CANCELLED"}  # by which the server says that it ended them
    assert (gone, back) == ("UNAVAILABLE", "ok")


# A server of a few frames, for what that of grpc.aio does not do.


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def headers(*pairs: tuple[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(pairs)


INITIAL, GOOD = headers((":status", "200"), ("content-type", "application/grpc")), headers(("grpc-status", "0"))
ANSWER = framed(b"answer")
HEAD, BODY, TRAILERS = frame(1, 4, 1, INITIAL), frame(0, 0, 1, ANSWER), frame(1, 5, 1, GOOD)
LIMITS = struct.pack(">HL", 5, 2**15) + struct.pack(">HL", 4, 2**10)


def told(answer: bytes, close: bool = False, calls: int = 1, deadline_s: float = 0.5) -> list[str]:
    """What becomes of calls that are answered so, byte for byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(frame(4, 0, 0) + frame(4, 1, 0))
            for _ in range(calls):
                await reader.readuntil(framed(b"x"))
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            if not close:
                await reader.read()
        writer.close()

    async def run() -> list[str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", deadline_s) as made:
            return await asyncio.gather(*(code(made) for _ in range(calls)))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HEAD + BODY + TRAILERS, "ok"),
        (HEAD + frame(0, 0, 1, ANSWER[:3]) + frame(6, 0, 0, b"12345678") + frame(0, 0, 1, ANSWER[3:]) + TRAILERS, "ok"),
        (HEAD + frame(0, 8, 1, b"\2" + ANSWER + b"\0\0") + frame(1, 5 + 8, 1, b"\1" + GOOD + b"\0"), "ok"),
        (HEAD + BODY + frame(1, 1 + 32, 1, b"\0\0\0\0\1" + GOOD[:3]) + frame(9, 4, 1, GOOD[3:]), "ok"),
        (frame(4, 0, 0, LIMITS) + frame(42, 0, 0, b"of some extension") + HEAD + BODY + TRAILERS, "ok"),
        (HEAD + TRAILERS, "INTERNAL"),
        (HEAD + frame(0, 0, 1, ANSWER[:-1]) + TRAILERS, "INTERNAL"),
        (HEAD + BODY + frame(1, 5, 1, headers(("x-other", "0"))), "UNKNOWN"),
        (HEAD + frame(0, 1, 1, ANSWER), "UNKNOWN"),
        (frame(1, 5, 1, headers((":status", "200"), ("grpc-status", "8"))), "RESOURCE_EXHAUSTED"),
        (HEAD + BODY + frame(3, 0, 1, struct.pack(">L", 11)), "RESOURCE_EXHAUSTED"),
        (frame(7, 0, 0, struct.pack(">LL", 0, 0)), "UNAVAILABLE"),
        (frame(7, 0, 0, struct.pack(">LL", 1, 0)) + HEAD + BODY + TRAILERS, "ok"),
        (HEAD + BODY, "DEADLINE_EXCEEDED"),
        (frame(1, 1, 1, GOOD) + frame(6, 0, 0, b"12345678"), "UNAVAILABLE"),
        (frame(1, 4, 1, b"\xff\xff\xff\xff"), "UNAVAILABLE"),
        (frame(1, 5, 1, b"\x3f\xe1\x1f" + GOOD), "UNAVAILABLE"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "UNAVAILABLE"),
    ],
    ids=[
        "plain",
        "a message in parts",
        "padded",
        "continued, with a priority",
        "other settings and an unknown frame",
        "no message",
        "half a message",
        "no status",
        "no trailers",
        "trailers only",
        "reset",
        "never begun at a server that leaves",
        "begun at a server that leaves",
        "never ended",
        "a header block that is broken off",
        "nonsense for headers",
        "a table, which was not allowed",
        "another protocol",
    ],
)
def test_what_frames_make_of_a_call(answer: bytes, expected: str) -> None:
    assert told(answer) == [expected]


def test_calls_end_with_their_connection() -> None:
    assert told(HEAD + BODY, close=True, calls=3) == ["UNAVAILABLE"] * 3


def test_a_server_that_keeps_a_table_all_the_same_is_not_believed() -> None:
    """Or a byte that stands for a place in it could be taken for what it stood for before."""
    encoder = Encoder()
    first, second = (encoder.encode([("grpc-status", "8")]) for _ in range(2))
    assert first != second
    assert told(frame(1, 5, 1, first) + frame(1, 5, 3, second), calls=2) == ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]


def test_streams_and_windows_are_kept_to_also_when_they_change_during_a_call() -> None:
    steps = [
        (b"", [(1, 1, 0), (0, 1, 2)]),  # one call of two, of which two bytes may be sent
        (frame(4, 0, 0, struct.pack(">HL", 4, 3)), [(0, 1, 1)]),
        (frame(8, 0, 1, struct.pack(">L", 2)), [(0, 1, 2)]),
        (frame(4, 0, 0, struct.pack(">HL", 4, 1)), []),  # two less: there is a debt of two
        (frame(8, 0, 1, struct.pack(">L", 2)), []),
        (frame(8, 0, 1, struct.pack(">L", 9)), [(0, 1, 1)]),
        (HEAD + BODY + TRAILERS, [(1, 3, 0), (0, 3, 1)]),
        (frame(4, 0, 0, struct.pack(">HL", 4, 99)), [(0, 3, 5)]),
        (frame(1, 4, 3, INITIAL) + frame(0, 0, 3, ANSWER) + frame(1, 5, 3, GOOD), []),
    ]
    seen: list[list[tuple[int, int, int]]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limits = struct.pack(">HL", 3, 1) + struct.pack(">HL", 4, 2)
        writer.write(frame(4, 0, 0, limits) + frame(4, 1, 0))
        await reader.readexactly(24)
        with contextlib.suppress(asyncio.IncompleteReadError):
            for kind in (4, 8, 4):  # its settings, its window, its word that it has ours
                assert (await read(reader))[0] == kind
            for sent, _ in steps:
                seen.append([])
                writer.write(sent + frame(6, 0, 0, b"12345678"))  # whose answer comes after all that there is to come
                while (got := await read(reader))[0] != 6:
                    if got[0] != 4:
                        seen[-1].append(got)
        writer.close()

    async def read(reader: asyncio.StreamReader) -> tuple[int, int, int]:
        high, low, kind, _, stream = struct.unpack(">HBBBL", await reader.readexactly(9))
        await reader.readexactly(high << 8 | low)
        return kind, stream, (high << 8 | low) if kind == 0 else 0

    async def run() -> list[str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 5) as made:
            return await asyncio.gather(code(made), code(made))

    assert asyncio.run(run()) == ["ok", "ok"]
    assert seen[: len(steps)] == [expected for _, expected in steps]
