"""Callers who take their time: they are cut off, and nobody else waits for them."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
from live_server import LiveServer

COUNT = 200  # on each port
WITHIN_S = 10.0
_HEAD = b"POST /detect HTTP/1.1\r\nhost: 127.0.0.1\r\n"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

ATTACKS: dict[str, tuple[str, bytes, bytes]] = {
    # name: port, what is sent first, and what is then sent again and again
    "says nothing over http": ("http", b"", b""),
    "begins a header": ("http", b"POST /det", b""),
    "sends a header letter by letter": ("http", _HEAD + b"x: ", b"y"),
    "begins a body": ("http", _HEAD + b"content-type: image/png\r\ncontent-length: 5000\r\n\r\n", b""),
    "sends a body byte by byte": ("http", _HEAD + b"content-type: image/png\r\ncontent-length: 5000\r\n\r\n", b"z"),
    "sends small chunks": (
        "http",
        _HEAD + b"content-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n",
        b"1\r\nz\r\n",
    ),
    "says nothing over gRPC": ("grpc", b"", b""),
    "begins the preface of gRPC": ("grpc", _PREFACE[:10], b""),
    "falls silent after the preface": ("grpc", _PREFACE + _SETTINGS, b""),
}


@dataclass
class Caller:
    """One connection of an attack."""

    attack: str
    line: socket.socket
    again: bytes
    began: float
    lasted: float | None = None


def test_hundreds_of_callers_who_take_their_time_are_cut_off_within_ten_seconds(server: LiveServer) -> None:
    with ExitStack() as stack:
        callers = [
            _connected(server, attack, stack)
            for attack, (port, _, _) in ATTACKS.items()
            for _ in range(-(-COUNT // sum(each[0] == port for each in ATTACKS.values())))
        ]
        end = time.monotonic() + WITHIN_S + 2
        while time.monotonic() < end and any(each.lasted is None for each in callers):
            _serves(server)
            _look(callers)

    assert {each.attack for each in callers if each.lasted is None or each.lasted > WITHIN_S} == set()


def _connected(server: LiveServer, attack: str, stack: ExitStack) -> Caller:
    port, first, again = ATTACKS[attack]
    host, _, number = (server.http.removeprefix("http://") if port == "http" else server.grpc).rpartition(":")
    line = stack.enter_context(socket.create_connection((host, int(number))))
    line.setblocking(False)
    line.sendall(first)
    return Caller(attack, line, again, time.monotonic())


def _look(callers: list[Caller]) -> None:
    """Send what is sent again and again, and note who was cut off."""
    left = {each.line: each for each in callers if each.lasted is None}
    readable, _, _ = select.select(list(left), [], [], 0.2)
    for line, caller in left.items():
        try:
            closed = line in readable and line.recv(65536) == b""
            if caller.again and not closed:
                line.send(caller.again)
        except BlockingIOError:
            continue
        except OSError:
            closed = True
        if closed:
            caller.lasted = time.monotonic() - caller.began


def _serves(server: LiveServer) -> None:
    """Others are served meanwhile."""
    assert httpx.get(f"{server.http}/health/live", timeout=2).status_code == 200


def test_a_slow_upload_that_keeps_its_pace_is_waited_for(server: LiveServer) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(12):
            yield b"\x00" * 1500
            time.sleep(1)

    answer = server.client.post("/detect", content=pieces(), headers={"content-type": "image/png"})

    assert answer.status_code == 422  # no image, but read to its end
