"""How long a request may take, and what becomes of it when its caller hangs up, by a real server of these layers."""

import asyncio
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from models.errors import FaceError
from service.rest.deadline import Deadline, Uploads
from service.rest.errors import error_response
from service.rest.middleware import RequestId, Unexpected, request_id
from service.rest.protocol import HttpProtocol

WAIT_S = 20
DEADLINE_S = 0.3


class Application:
    """Reads the body, then does as its path says; tells what became of each request."""

    def __init__(self) -> None:
        self.told: queue.Queue[str] = queue.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            size, more = 0, True
            while more:
                message = await receive()
                size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            self.told.put("read")
            if scope["path"] == "/own":
                raise TimeoutError("of the application itself")
            if scope["path"] != "/quick":
                await asyncio.sleep(3600)
        except FaceError as error:
            await error_response(error, request_id(scope))(scope, receive, send)
            return
        except asyncio.CancelledError:
            self.told.put("cancelled")
            if scope["path"] == "/spoilt":
                raise RuntimeError("what it made of that") from None
            raise
        await JSONResponse({"size": size})(scope, receive, send)


@pytest.fixture
def start() -> Iterator[Callable[[float], SimpleNamespace]]:
    """Starts servers with a deadline, and stops them when the test is over."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(seconds: float) -> SimpleNamespace:
        state = SimpleNamespace(application=Application(), uploads=Uploads(), loop=None)
        layers = RequestId(Unexpected(Deadline(state.application, seconds, state.uploads)))
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(layers, http=HttpProtocol, lifespan="off", log_config=None, access_log=False)
        server, known = uvicorn.Server(config), threading.Event()

        async def serve() -> None:
            state.loop = asyncio.get_running_loop()
            known.set()
            await server.serve([listening])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        running.append((server, thread))
        assert known.wait(WAIT_S)
        state.port = listening.getsockname()[1]
        state.url = f"http://127.0.0.1:{state.port}"
        return state

    yield begin
    for server, thread in running:
        server.should_exit = True
        thread.join(WAIT_S)


def _request(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()


# Above 64 KiB uvicorn stops reading until it is asked for more.
@pytest.mark.parametrize("size", [0, 1000, 70_000, 200_000, 2_000_000])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_done_for_a_caller_ends_when_they_hang_up(
    start: Callable[[float], SimpleNamespace], size: int, parts: int
) -> None:
    server = start(3600)
    with socket.create_connection(("127.0.0.1", server.port)) as caller:
        caller.sendall(_request("/slow", size))
        for _ in range(parts):
            caller.sendall(b"x" * (size // parts))
            time.sleep(0.01)
        caller.sendall(b"x" * (size % parts))
        assert server.application.told.get(timeout=WAIT_S) == "read"
    assert server.application.told.get(timeout=WAIT_S) == "cancelled"


@pytest.mark.parametrize("path", ["/slow", "/spoilt"])
def test_after_the_deadline_the_work_is_cancelled_and_the_caller_told(
    start: Callable[[float], SimpleNamespace], path: str
) -> None:
    server = start(DEADLINE_S)
    answer = httpx.post(server.url + path, content=b"photo", timeout=WAIT_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert [server.application.told.get(timeout=WAIT_S) for _ in range(2)] == ["read", "cancelled"]


def test_a_time_limit_of_the_application_is_not_taken_for_the_deadline(
    start: Callable[[float], SimpleNamespace], caplog: pytest.LogCaptureFixture
) -> None:
    assert httpx.post(start(3600).url + "/own", content=b"photo", timeout=WAIT_S).status_code == 500
    assert "of the application itself" in caplog.text


def test_what_cancelled_work_fails_with_is_no_error_where_nobody_hears_of_it(
    start: Callable[[float], SimpleNamespace], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(3600)
    with caplog.at_level(logging.DEBUG, "facesphere.rest"):
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(_request("/spoilt", 5) + b"photo")
            assert server.application.told.get(timeout=WAIT_S) == "read"
        assert server.application.told.get(timeout=WAIT_S) == "cancelled"
        assert httpx.post(server.url + "/quick", content=b"photo", timeout=WAIT_S).json() == {"size": 5}
    ours = [record for record in caplog.records if "what it made of that" in record.getMessage()]
    assert [record.levelname for record in ours] == ["DEBUG"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_when_uploads_end_those_that_wait_and_those_that_begin_are_not_waited_for(
    start: Callable[[float], SimpleNamespace],
) -> None:
    server = start(3600)
    for told_before in (True, False):
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as caller:
            caller.sendall(_request("/quick", 1000) + b"half")
            if told_before:
                time.sleep(0.05)
                server.loop.call_soon_threadsafe(server.uploads.end)
            answer = caller.makefile("rb").read().lower()  # to the end: the connection is closed
        assert answer.startswith(b"http/1.1 503")
        assert b"connection: close" in answer
        assert b"the server is stopping" in answer
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as caller:
        caller.sendall(_request("/quick", 5) + b"photo")  # one that is whole is answered
        assert caller.recv(4096).startswith(b"HTTP/1.1 200")
