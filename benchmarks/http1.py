"""Calls over HTTP/1.1, by hand: what the load needs of it, so that it leaves the cores to the server."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

Done = Callable[[str, float, float], None]
"""Told once of every call, never before `call` returns: "ok" or else its status, when it began and ended."""

CONNECT_S = 10.0
SWEEP_S = 0.1
PAUSE_S = 0.05
_END = b"\r\n\r\n"


class _Call:
    __slots__ = ("began", "done", "line", "number", "request")

    def __init__(self, number: int, request: bytes, done: Done) -> None:
        self.number, self.request, self.done, self.began = number, request, done, time.perf_counter()
        self.line: _Line | None = None


class _Line(asyncio.Protocol):
    """One connection, which takes one call at a time."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._call: _Call | None = None
        self._kept = False
        self.ended = asyncio.get_running_loop().create_future()
        self._begin_answer()

    def _begin_answer(self) -> None:
        self._got, self._size, self._status, self._keep = b"", -1, "", True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def take(self, call: _Call) -> None:
        self._call, call.line = call, self
        self.transport.write(call.request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._got = self._got + data if self._got else data
        if self._size < 0 and (end := self._got.find(_END)) >= 0:
            self._read_head(self._got[: end + 2].lower(), end + len(_END))
        if 0 <= self._size <= len(self._got):
            self._answered(now)

    def _read_head(self, head: bytes, size: int) -> None:
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0].strip()
        if length.isdigit():
            self._size, self._status = size + int(length), head[9:12].decode("latin-1")
            self._keep = b"\r\nconnection: close\r\n" not in head
        else:
            self.transport.abort()  # an answer of unknown length

    def _answered(self, now: float) -> None:
        call, self._call = self._call, None
        code = "ok" if self._status == "200" else self._status
        if call is not None and self._keep:
            self._kept = True
            self._begin_answer()
            self._client.keep(call.number, self)
        else:
            self.transport.close()
        if call is not None:
            self._client.end(call, code, now)

    def connection_lost(self, exc: Exception | None) -> None:
        call, self._call = self._call, None
        self._client.lost(self)
        self.ended.set_result(None)
        if call is not None and self._kept and not self._got:  # it was closed while it was idle
            self._client.begin(call)
        elif call is not None:
            self._client.end(call, "closed", time.perf_counter())


class Client:
    """Calls over connections that are kept open; one that is not answered within `limit_s` is given up."""

    def __init__(self, address: str, limit_s: float) -> None:
        host, port = address.rsplit(":", 1)
        self._where = (host.strip("[]"), int(port))
        self._limit_s = limit_s
        self._free: dict[int, list[_Line]] = defaultdict(list)
        self._calls: dict[_Call, None] = {}  # oldest first
        self._lines: set[_Line] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connections are opened by the calls."""
        self._sweep()

    async def close(self) -> None:
        """End all."""
        self._sweeper.cancel()
        self._calls.clear()
        for task in self._connecting:
            task.cancel()
        for line in list(self._lines):
            line.transport.abort()
            await line.ended

    def call(self, number: int, request: bytes, done: Done) -> None:
        """Send the bytes of a request for one of the clients."""
        call = _Call(number, request, done)
        self._calls[call] = None
        self.begin(call)

    def begin(self, call: _Call) -> None:
        """On a connection of that client that is free, or on a new one."""
        free = self._free[call.number]
        while free:
            line = free.pop()
            if not line.transport.is_closing():
                line.take(call)
                return
        task = asyncio.ensure_future(self._connect(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, call: _Call) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                _, line = await asyncio.get_running_loop().create_connection(lambda: _Line(self), *self._where)
        except OSError:
            await asyncio.sleep(PAUSE_S)  # a caller who tries again at once must not keep the core busy with that
            self.end(call, "unreachable", time.perf_counter())
            return
        self._lines.add(line)
        if call in self._calls:
            line.take(call)
        else:  # it was given up meanwhile
            line.transport.abort()

    def keep(self, number: int, line: _Line) -> None:
        """For the next call of that client."""
        self._free[number].append(line)

    def lost(self, line: _Line) -> None:
        """It is not there any more."""
        self._lines.discard(line)

    def end(self, call: _Call, code: str, now: float) -> None:
        """Tell of a call, unless it was told of already."""
        if call in self._calls:
            del self._calls[call]
            call.done(code, call.began, now)

    def _sweep(self) -> None:
        now = time.perf_counter()
        while self._calls and now - (call := next(iter(self._calls))).began > self._limit_s:
            self.end(call, "unanswered", now)
            if call.line is not None:
                call.line.transport.abort()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
