"""Photos over REST for which there is no room: refused at once, and the connection goes on where that is safe."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from live_server import wait_until
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from service.errors import OverloadedError, UnauthenticatedError
from service.metrics import Metrics
from service.rest.app import Measure
from service.rest.middleware import RequestId
from service.rest.protocol import HttpProtocol
from service.rest.room import Room

WAIT_S = 20
PHOTO = b"\xff\xd8\xff" + bytes(5000)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """A real server of the three layers, over an application that tells how much it was sent."""
    state = SimpleNamespace(is_full=False, asked_within_s=[], authorized=[], metrics=Metrics())

    def check(within_s: float) -> None:
        state.asked_within_s.append(within_s)
        if state.is_full:
            raise OverloadedError("no room", 7)

    def authorize(authorization: str | None, operation: str) -> None:
        state.authorized.append(operation)
        if authorization == "Bearer wrong":
            raise UnauthenticatedError("send a valid key")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await JSONResponse({"size": size})(scope, receive, send)

    layers = RequestId(Measure(Room(application, check, authorize, 30.0), state.metrics))
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(layers, http=HttpProtocol, lifespan="off", log_config=None, access_log=False)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve([listening])))
    thread.start()
    state.port = listening.getsockname()[1]
    state.url = f"http://127.0.0.1:{state.port}"
    yield state
    running.should_exit = True
    thread.join(WAIT_S)


def _read_answer(line: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and headers of the next answer, whose body is read too."""
    with line.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while text := file.readline().strip().decode():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        file.read(int(headers["content-length"]))
    return status, headers


def _head(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "host: 127.0.0.1", *headers, "", "")).encode()


@pytest.mark.parametrize("path", ["/embed", "/detect"])
def test_it_is_told_when_to_come_again_and_counted_by_its_route(server: SimpleNamespace, path: str) -> None:
    server.is_full = True
    answer = httpx.post(server.url + path, content=PHOTO, params={"aligned": "true"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["code"] == "overloaded"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    labels = {"protocol": "rest", "route": path, "code": "429"}
    # The answer is sent before it is counted.
    wait_until(lambda: server.metrics.registry.get_sample_value("facesphere_requests_total", labels) == 1)
    assert server.asked_within_s == [30.0]
    assert server.authorized == [f"POST {path}"]


def test_a_stranger_is_told_that_and_nothing_of_the_load(server: SimpleNamespace) -> None:
    server.is_full = True
    answer = httpx.post(f"{server.url}/embed", content=PHOTO, headers={"authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


def test_where_there_is_room_the_whole_photo_arrives(server: SimpleNamespace) -> None:
    assert httpx.post(f"{server.url}/embed", content=PHOTO).json() == {"size": len(PHOTO)}
    assert server.authorized == []  # the application asks, and counts the call


@pytest.mark.parametrize(("method", "path"), [("GET", "/embed"), ("POST", "/verify"), ("POST", "/embed/batch")])
def test_what_may_bring_no_photo_is_not_asked_about(server: SimpleNamespace, method: str, path: str) -> None:
    server.is_full = True
    assert httpx.request(method, server.url + path).status_code == 200
    assert server.asked_within_s == []


def test_a_photo_that_was_refused_leaves_the_connection_usable(server: SimpleNamespace) -> None:
    server.is_full = True
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as line:
        for _ in range(3):
            line.sendall(_head("/embed", f"content-length: {len(PHOTO)}") + PHOTO)
            status, headers = _read_answer(line)
            assert (status, headers.get("connection")) == (429, None)
        server.is_full = False
        line.sendall(_head("/embed", f"content-length: {len(PHOTO)}") + PHOTO)
        assert _read_answer(line)[0] == 200


def test_a_long_photo_or_one_of_unknown_length_is_left_to_the_application_which_reads_all_of_it(
    server: SimpleNamespace,
) -> None:
    server.is_full = True
    long = bytes(2**20 + 1)
    assert httpx.post(f"{server.url}/embed", content=long).json() == {"size": len(long)}
    assert httpx.post(f"{server.url}/embed", content=iter([PHOTO])).json() == {"size": len(PHOTO)}
    assert server.asked_within_s == []


def test_the_longest_photo_that_is_refused_is_read_to_its_end_first(server: SimpleNamespace) -> None:
    server.is_full = True
    for _ in range(5):
        assert httpx.post(f"{server.url}/embed", content=bytes(2**20)).status_code == 429


def test_a_caller_who_hangs_up_while_it_is_refused_leaves_the_server_at_work(server: SimpleNamespace) -> None:
    server.is_full = True
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as line:
        line.sendall(_head("/embed", "content-length: 1000") + b"x")
    server.is_full = False
    assert httpx.post(f"{server.url}/embed", content=PHOTO).status_code == 200
