"""What only gRPC has: bytes that are no message, streams, statuses in metadata, memory over all RPCs."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from live_server import LiveServer, live_server, wait_until
from photos import encode

from service.domain import ModelInfo, Photo
from service.errors import InvalidRequestError, OverloadedError
from service.grpc_api.server import GrpcOptions, GrpcParts, GrpcServer
from service.grpc_api.window import STREAM_WINDOW
from service.metrics import Metrics
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc
from service.security.access import Access

EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))
LONG = "字" * 20_000
NOT_A_MESSAGE = b"\xff\xff\xff"
NOT_UTF8 = b"\x0a\x01\xff"  # field 1, a string, of one byte
EMBED_STREAM = "/face_embedding.v1.FaceEmbedding/EmbedStream"


def _error(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), dict(caught.value.trailing_metadata())["error-code"], caught.value.details()


def _photo(key: str, image: bytes = EMPTY) -> pb.EmbedStreamRequest:
    return pb.EmbedStreamRequest(id=key, request=pb.EmbedRequest(image=image))


def _count(server: LiveServer, route: str, code: str) -> float:
    text = server.client.get("/metrics").text
    found = re.search(rf'facesphere_requests_total{{code="{code}",protocol="grpc",route="{route}"}} ([0-9.]+)', text)
    return float(found[1]) if found else 0.0


def _open(server: LiveServer) -> float:
    found = re.search(r'facesphere_requests_open{protocol="grpc"} ([0-9.]+)', server.client.get("/metrics").text)
    return float(found[1]) if found else 0.0


# Messages of errors


def test_a_long_name_in_a_message_does_not_lose_the_status(server: LiveServer) -> None:
    status, code, message = _error(lambda: server.gallery.GetCollection(pb.GetCollectionRequest(name=LONG)))

    assert (status, code) == (grpc.StatusCode.NOT_FOUND, "not_found")
    assert len(message) == 500
    assert message.endswith("…")


def test_a_contract_id_that_cannot_be_one_is_refused_and_not_repeated(server: LiveServer) -> None:
    probe = pb.Probe(embedding=pb.Embedding(values=[1.0] * 128, contract_id=LONG))
    status, code, message = _error(lambda: server.faces.Verify(pb.VerifyRequest(a=probe, b=probe)))

    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
    assert len(message) < 100


def test_the_message_of_an_item_of_a_stream_is_cut_too(server: LiveServer) -> None:
    request = pb.IdentifyRequest(collection=LONG, probe=pb.Probe(embedding=pb.Embedding(values=[1.0] * 128)))
    (answer,) = server.gallery.IdentifyStream(iter([pb.IdentifyStreamRequest(id="a", request=request)]))

    assert answer.error.code == "not_found"
    assert len(answer.error.message) == 500


# Bytes that are no message


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("/face_embedding.v1.FaceEmbedding/Detect", NOT_A_MESSAGE),
        ("/face_embedding.v1.Gallery/GetCollection", NOT_A_MESSAGE),
        ("/face_embedding.v1.Gallery/GetCollection", NOT_UTF8),
    ],
)
def test_bytes_that_are_no_message_are_an_invalid_request(server: LiveServer, method: str, raw: bytes) -> None:
    route = method.rpartition("/")[2]
    before = _count(server, route, "invalid_request")
    status, code, _ = _error(lambda: server.channel.unary_unary(method)(raw))

    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
    assert _count(server, route, "invalid_request") == before + 1
    assert "Traceback" not in "".join(server.log)


@pytest.mark.parametrize("raw", [NOT_A_MESSAGE, NOT_UTF8])
def test_bytes_that_are_no_message_end_a_stream(server: LiveServer, raw: bytes) -> None:
    before = _count(server, "EmbedStream", "invalid_request")
    items = iter([_photo("a").SerializeToString(), raw])
    status, code, _ = _error(lambda: list(server.channel.stream_stream(EMBED_STREAM)(items)))

    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_request")
    assert _count(server, "EmbedStream", "invalid_request") == before + 1
    assert "Traceback" not in "".join(server.log)


# Streams


def test_items_of_a_stream_are_counted_by_their_outcome(server: LiveServer) -> None:
    before = {code: _count(server, "EmbedStream", code) for code in ("ok", "invalid_image", "item")}
    answers = list(server.faces.EmbedStream(iter([_photo("a"), _photo("b"), _photo("c", EMPTY[: len(EMPTY) // 2])])))

    assert {answer.id: answer.error.code for answer in answers} == {"a": "", "b": "", "c": "invalid_image"}
    assert _count(server, "EmbedStream", "ok") == before["ok"] + 2
    assert _count(server, "EmbedStream", "invalid_image") == before["invalid_image"] + 1
    assert _count(server, "EmbedStream", "item") == 0


def test_a_stream_that_is_refused_is_counted(models_dir: Path, tmp_path: Path) -> None:
    key = "a-key-of-enough-characters"
    with live_server(tmp_path, models_dir=str(models_dir), api_key=key) as running:
        running.client.headers["authorization"] = f"Bearer {key}"
        status, code, _ = _error(lambda: list(running.faces.EmbedStream(iter([_photo("a")]))))

        assert (status, code) == (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
        assert _count(running, "EmbedStream", "unauthenticated") == 1
        assert _open(running) == 0


def test_a_stream_is_open_until_it_is_cancelled(server: LiveServer) -> None:
    hold = threading.Event()

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        yield _photo("a")
        hold.wait(30)

    call = server.faces.EmbedStream(requests())
    try:
        assert next(call).id == "a"
        assert _open(server) == 1
        call.cancel()
        wait_until(lambda: _open(server) == 0)
    finally:
        hold.set()
    assert "Traceback" not in "".join(server.log)


def test_a_client_that_stops_reading_and_goes_leaves_nothing_open(server: LiveServer) -> None:
    # Names of 64 KiB come back with the answers: soon more than the connection holds unread, and the server must wait.
    name = "n" * 2**16
    channel = grpc.insecure_channel(server.grpc)
    call = pb_grpc.FaceEmbeddingStub(channel).EmbedStream(_photo(name) for _ in range(500))
    next(call)
    wait_until(lambda: _open(server) == 1)
    channel.close()

    wait_until(lambda: _open(server) == 0)
    assert [each.id for each in server.faces.EmbedStream(iter([_photo("a")]))] == ["a"]
    assert "Traceback" not in "".join(server.log)


# The same server in this process, with photos that take as long as a test wants


class SlowFaces:
    """Stands for the work on photos, which ends when it is let go."""

    model = ModelInfo("test", "0123456789abcdef", 4)

    def __init__(self) -> None:
        self.running = 0
        self.go = asyncio.Event()
        self.asked_within_s: list[float] = []
        self.is_full = False

    def check_room(self, within_s: float) -> None:
        self.asked_within_s.append(within_s)
        if self.is_full:
            raise OverloadedError("no room", 7)

    async def detect(self, image: bytes) -> Photo:
        self.running += 1
        try:
            await self.go.wait()
        finally:
            self.running -= 1
        return Photo(width=1, height=1, faces=[])

    async def embed(self, image: bytes, select: str, aligned: bool) -> Photo:
        if image == b"bug":
            raise ZeroDivisionError
        if image == b"refused":
            raise InvalidRequestError("refused")
        return await self.detect(image)


@contextlib.asynccontextmanager
async def _slow_server(
    max_pending_bytes: int, timeout_s: float = 30, key: str | None = None
) -> AsyncIterator[SimpleNamespace]:
    faces, metrics = SlowFaces(), Metrics()
    served = SimpleNamespace(default=faces)
    options = GrpcOptions("127.0.0.1", 0, 2**22, timeout_s, max_pending_bytes)
    server = GrpcServer(GrpcParts(served, None, None, None, Access(key), metrics), options)  # type: ignore[arg-type]
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = pb_grpc.FaceEmbeddingStub(channel)
            yield SimpleNamespace(
                faces=faces,
                stub=stub,
                open=lambda: metrics.registry.get_sample_value("facesphere_requests_open", {"protocol": "grpc"}),
                counted=lambda route, code: metrics.registry.get_sample_value(
                    "facesphere_requests_total", {"protocol": "grpc", "route": route, "code": code}
                ),
            )
    finally:
        await server.stop(0)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - counters of the server have no event
            await asyncio.sleep(0.01)


def _tasks() -> set[str]:
    """Tasks of this service's code; gRPC's own poll the connections."""
    names = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("Window.", "Calls.", "_answer_all", "_handle_exceptions"))}


def test_a_photo_for_which_there_is_no_room_is_refused_before_anything_is_done_about_it() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000) as running:
            running.faces.is_full = True
            for ask in (
                lambda: running.stub.Detect(pb.DetectRequest()),
                lambda: running.stub.Embed(pb.EmbedRequest(), timeout=5),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await ask()
                trailing = dict(refused.value.trailing_metadata())
                assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                assert (trailing["error-code"], trailing["retry-after"]) == ("overloaded", "7")
            assert running.counted("Detect", "overloaded") == running.counted("Embed", "overloaded") == 1
            unbounded, bounded = running.faces.asked_within_s
            assert unbounded == 30
            assert 0 < bounded < 6

    asyncio.run(scenario())


def test_a_stranger_is_told_that_and_nothing_of_the_load() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000, key="0123456789abcdef") as running:
            running.faces.is_full = True
            for key, expected in (("wrong", "UNAUTHENTICATED"), ("0123456789abcdef", "RESOURCE_EXHAUSTED")):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await running.stub.Embed(pb.EmbedRequest(), metadata=(("authorization", f"Bearer {key}"),))
                assert refused.value.code().name == expected

    asyncio.run(scenario())


def test_messages_in_work_are_bounded_over_all_calls() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000) as running:
            first = running.stub.Detect(pb.DetectRequest(image=bytes(900)))
            await _until(lambda: running.faces.running == 1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await running.stub.Detect(pb.DetectRequest(image=bytes(200)))
            (item,) = [each async for each in running.stub.EmbedStream(iter([_photo("a", bytes(200))]))]
            running.faces.go.set()
            await first

            trailing = dict(refused.value.trailing_metadata())
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (trailing["error-code"], trailing["retry-after"]) == ("overloaded", "1")
            assert (item.id, item.error.code) == ("a", "overloaded")
            await running.stub.Detect(pb.DetectRequest(image=bytes(900)))  # there is room again

    asyncio.run(scenario())


def test_one_message_alone_may_be_over_the_bound() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000) as running:
            running.faces.go.set()
            await running.stub.Detect(pb.DetectRequest(image=bytes(5000)))

    asyncio.run(scenario())


def test_a_call_that_is_cancelled_gives_its_memory_back() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000) as running:
            call = running.stub.Detect(pb.DetectRequest(image=bytes(900)))
            await _until(lambda: running.faces.running == 1)
            call.cancel()
            await _until(lambda: running.open() == 0)
            running.faces.go.set()
            await running.stub.Detect(pb.DetectRequest(image=bytes(900)))

    asyncio.run(scenario())


def test_each_item_of_a_stream_has_a_deadline() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000, timeout_s=0.05) as running:
            items = iter([_photo("a"), _photo("b", b"refused"), _photo("c")])
            answers = {each.id: each.error.code async for each in running.stub.EmbedStream(items)}

            assert answers == {"a": "deadline_exceeded", "b": "invalid_request", "c": "deadline_exceeded"}
            assert running.counted("EmbedStream", "deadline_exceeded") == 2
            assert running.faces.running == 0

    asyncio.run(scenario())


def test_a_bug_in_one_item_is_named_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=1000) as running:
            items = iter([_photo("a", b"bug"), _photo("b", b"refused")])
            answers = {each.id: each.error async for each in running.stub.EmbedStream(items)}

            assert (answers["a"].code, answers["b"].code) == ("internal", "invalid_request")
            assert "Zero" not in answers["a"].message

    asyncio.run(scenario())
    assert "ZeroDivisionError" in caplog.text


def test_a_stream_that_is_cancelled_leaves_no_task_and_no_memory_behind() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=100_000) as running:
            call = running.stub.EmbedStream(_photo(str(n), bytes(1000)) for n in range(3 * STREAM_WINDOW))
            await _until(lambda: running.faces.running == STREAM_WINDOW)
            assert running.open() == 1
            call.cancel()

            await _until(lambda: not _tasks())
            assert (running.faces.running, running.open()) == (0, 0)
            running.faces.go.set()
            await running.stub.Detect(pb.DetectRequest(image=bytes(99_000)))

    asyncio.run(scenario())


def test_a_client_that_stops_reading_leaves_no_task_once_it_goes() -> None:
    async def scenario() -> None:
        async with _slow_server(max_pending_bytes=2**30) as running:
            running.faces.go.set()
            call = running.stub.EmbedStream(_photo(f"{n}" * 2**16, b"x") for n in range(500))
            await call.read()
            await asyncio.sleep(0.5)  # the window of the connection fills
            assert running.open() == 1
            call.cancel()

            await _until(lambda: not _tasks())
            assert (running.faces.running, running.open()) == (0, 0)

    asyncio.run(scenario())
