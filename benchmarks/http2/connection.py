"""One connection, and the calls on it."""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable

from hpack import Encoder, HPACKError

from .frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEAD_SIZE,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW,
    LATE,
    LOST,
    MAX_FRAME,
    MAX_STREAMS,
    MAX_WINDOW,
    MESSAGE,
    NUMBER,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    REFUSED,
    RESETS,
    RST_STREAM,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
)
from .statuses import Statuses

Done = Callable[[str, float, float], None]
"""Told once of every call, never before `call` returns: its code ("ok" or that of gRPC), when it began and ended."""

CONNECT_S = 10.0
SWEEP_S = 0.02
PAUSE_S = 0.05
_TABLE = 4096


class ProtocolError(Exception):
    """The server does not speak HTTP/2 as the standard has it."""


class _Call:
    """One call: `at` of its body is sent, `window` may follow; `head` and `got` of the answer."""

    __slots__ = ("at", "began", "body", "done", "got", "head", "stream", "window")

    def __init__(self, body: bytes, done: Done) -> None:
        self.body, self.done, self.began = body, done, time.perf_counter()
        self.at = self.window = self.stream = self.got = 0
        self.head = b""

    def answered(self) -> bool:
        """With one whole message that is not empty."""
        return len(self.head) == MESSAGE.size and 0 < MESSAGE.unpack(self.head)[1] == self.got - MESSAGE.size


class Connection(asyncio.Protocol):
    """One connection; `connect` makes it."""

    def __init__(self, address: str, path: str, deadline_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "facesphere-load"),
            ("grpc-timeout", f"{max(1, round(deadline_s * 1000))}m"),
            ("x-request-id", "load"),  # constant, so that equal answers are equal bytes
        ]
        self._deadline_s = deadline_s
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.over = False
        self.fault = "the connection was lost"
        self._calls: dict[int, _Call] = {}  # oldest first
        self._waiting: deque[_Call] = deque()  # for one of the streams that the server allows
        self._blocked: dict[int, _Call] = {}  # by a window
        self._stream = 1
        self._streams = 2**31
        self._frame_size = DEFAULT_FRAME
        self._initial = self._window = DEFAULT_WINDOW
        self._taken = 0  # of the window that the server has
        self._settled = self._acknowledged = False
        self._encoder, self._block = Encoder(), b""
        self._statuses = Statuses()
        self._rest = b""
        self._parts: tuple[int, int, bytearray] | None = None  # stream, flags, block so far
        self._out: list[bytes | memoryview] = []
        self._flushing = False

    def call(self, body: bytes, done: Done) -> None:
        """Begin a call with a body that is framed."""
        call = _Call(body, done)
        if self.over:  # a caller who tries again at once must not keep the core busy with that
            self._loop.call_later(PAUSE_S, lambda: done(LOST, call.began, time.perf_counter()))
        elif self._waiting or len(self._calls) >= self._streams:
            self._waiting.append(call)
        else:
            self._begin(call)

    def close(self) -> None:
        """End the connection and, with it, what is under way."""
        self._transport.abort()

    # What is sent: gathered, and written once for all that one turn of the loop has brought.

    def _put(self, kind: int, flags: int, stream: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._out += (FRAME.pack(size >> 8, size & 255, kind, flags, stream), payload)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _begin(self, call: _Call) -> None:
        call.stream, call.window = self._stream, self._initial
        self._stream += 2
        self._calls[call.stream] = call
        self._put(HEADERS, END_HEADERS, call.stream, self._block or self._encoded())
        self._send(call)

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._calls) < self._streams:
            self._begin(self._waiting.popleft())

    def _encoded(self) -> bytes:
        """The headers; kept for the calls that follow once they leave the server's table as it is."""
        table = self._encoder.header_table
        before = list(table.dynamic_entries)
        block = self._encoder.encode(self._headers)
        if before == list(table.dynamic_entries):
            self._block = block
        return block

    def _send(self, call: _Call) -> None:
        """What the windows allow of the rest of the body."""
        body, end = call.body, len(call.body)
        while call.at < end:
            size = min(end - call.at, self._frame_size, call.window, self._window)
            if size <= 0:
                self._blocked[call.stream] = call
                return
            part = body if size == end else memoryview(body)[call.at : call.at + size]
            call.at += size
            call.window -= size
            self._window -= size
            self._put(DATA, END_STREAM if call.at == end else 0, call.stream, part)
        self._blocked.pop(call.stream, None)

    def _send_blocked(self) -> None:
        for call in list(self._blocked.values()):
            if self._window <= 0:
                return
            self._send(call)

    # How calls end.

    def _end(self, call: _Call, code: str, now: float, cancel: bool = False) -> None:
        del self._calls[call.stream]
        if cancel or call.at < len(call.body):
            self._blocked.pop(call.stream, None)
            self._put(RST_STREAM, 0, call.stream, NUMBER.pack(CANCEL))
        _tell(call, LATE if now - call.began > self._deadline_s else code, now)
        self._begin_waiting()
        if self.over and not self._calls:
            self._transport.close()

    def _reset(self, call: _Call, reason: int, now: float) -> None:
        if reason != REFUSED or self.over:
            call.at = len(call.body)  # there is no stream any more that could be cancelled
            self._blocked.pop(call.stream, None)
            self._end(call, RESETS.get(reason, "INTERNAL"), now)
        else:
            del self._calls[call.stream]
            self._blocked.pop(call.stream, None)
            call.at = 0
            self._waiting.appendleft(call)  # until another call ends, or the next sweep

    def _refuse(self, now: float, above: int = 0) -> None:
        """No further calls here; those that wait, and those above a stream, will not be answered."""
        self.over = True
        waiting = list(self._waiting)
        self._waiting.clear()
        for call in waiting:
            _tell(call, LOST, now)
        for call in [each for each in self._calls.values() if each.stream > above]:
            self._end(call, LOST, now)

    def _sweep(self) -> None:
        now = time.perf_counter()
        while self._waiting and now - self._waiting[0].began > self._deadline_s:
            _tell(self._waiting.popleft(), LATE, now)
        while self._calls and now - (call := next(iter(self._calls.values()))).began > self._deadline_s:
            self._end(call, LATE, now, cancel=True)
        self._begin_waiting()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The preface, settings, and as large a window as there can be."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._out.append(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        ours = ((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW, MAX_WINDOW))
        self._put(SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in ours))
        self._put(WINDOW_UPDATE, 0, 0, NUMBER.pack(MAX_WINDOW - DEFAULT_WINDOW))
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way."""
        self._sweeper.cancel()
        self._refuse(time.perf_counter())
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(f"no HTTP/2: {exc or self.fault}"))
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Frames, perhaps with a part of one at the end."""
        now = time.perf_counter()
        self._flushing = True  # at the end of this, for all that it brings
        try:
            self._rest = self._frames(self._rest + data if self._rest else data, now)
        except (ProtocolError, HPACKError, struct.error, IndexError) as error:
            self.fault = f"{type(error).__name__}: {error}"
            self._transport.abort()
        self._flush()

    def _frames(self, data: bytes, now: float) -> bytes:
        at, end = 0, len(data)
        while at + HEAD_SIZE <= end:
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            stop = at + HEAD_SIZE + (high << 8 | low)
            if stop - at > HEAD_SIZE + DEFAULT_FRAME:
                raise ProtocolError("a frame is longer than was allowed")
            if stop > end:
                break
            if (self._parts is not None) != (kind == CONTINUATION):
                raise ProtocolError("a header block was broken off, or goes on without a beginning")
            at += HEAD_SIZE
            if kind == DATA:
                self._data(data, at, stop, flags, stream, now)
            elif kind == HEADERS:
                self._head(data[at:stop], flags, stream, now)
            else:
                self._other(kind, data[at:stop], flags, stream, now)
            at = stop
        return data[at:]

    def _data(self, data: bytes, at: int, stop: int, flags: int, stream: int, now: float) -> None:
        self._taken += stop - at
        if self._taken > MAX_WINDOW // 2:
            self._put(WINDOW_UPDATE, 0, 0, NUMBER.pack(self._taken))
            self._taken = 0
        call = self._calls.get(stream)
        if call is None:  # it was given up
            return
        if flags & PADDED:
            at, stop = at + 1, stop - data[at]
        if len(call.head) < MESSAGE.size:
            call.head += data[at : min(stop, at + MESSAGE.size - len(call.head))]
        call.got += stop - at
        if flags & END_STREAM:
            self._end(call, "UNKNOWN", now)  # a status would have followed

    def _head(self, block: bytes, flags: int, stream: int, now: float) -> None:
        if flags & PADDED:
            block = block[1 : len(block) - block[0]]
        if flags & PRIORITY:
            block = block[5:]
        if flags & END_HEADERS:
            self._told(block, flags, stream, now)
        else:
            self._parts = (stream, flags, bytearray(block))

    def _told(self, block: bytes, flags: int, stream: int, now: float) -> None:
        code = self._statuses.code(block)
        call = self._calls.get(stream)
        if call is not None and flags & END_STREAM:
            self._end(call, code if code != "ok" or call.answered() else "INTERNAL", now)

    def _other(self, kind: int, payload: bytes, flags: int, stream: int, now: float) -> None:
        if kind == WINDOW_UPDATE:
            self._widened(NUMBER.unpack(payload)[0], stream)
        elif kind == PING:
            if not flags & ACK:
                self._put(PING, ACK, 0, payload)
        elif kind == SETTINGS:
            self._agreed(payload, flags)
        elif kind == RST_STREAM:
            if stream in self._calls:
                self._reset(self._calls[stream], NUMBER.unpack(payload)[0], now)
        elif kind == GOAWAY:
            self._refuse(now, NUMBER.unpack_from(payload)[0] & MAX_WINDOW)
            if not self._calls:
                self._transport.close()
        elif kind == CONTINUATION:
            self._continued(payload, flags, stream, now)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a push, which was not allowed")

    def _continued(self, payload: bytes, flags: int, stream: int, now: float) -> None:
        assert self._parts is not None
        begun, first, block = self._parts
        if begun != stream:
            raise ProtocolError("a header block goes on in another stream")
        block += payload
        if flags & END_HEADERS:
            self._parts = None
            self._told(bytes(block), first, stream, now)

    def _widened(self, size: int, stream: int) -> None:
        if not stream:
            self._window += size
            self._send_blocked()
        elif stream in self._calls:
            call = self._calls[stream]
            call.window += size
            if stream in self._blocked:
                self._send(call)

    def _agreed(self, payload: bytes, flags: int) -> None:
        if flags & ACK:
            self._acknowledged = True
            self._statuses.without_table()
        else:
            for name, value in SETTING.iter_unpack(payload):
                self._set(name, value)
            self._settled = True
            self._put(SETTINGS, ACK, 0, b"")
            self._send_blocked()
            self._begin_waiting()
        if self._settled and self._acknowledged and not self.ready.done():
            self.ready.set_result(None)

    def _set(self, name: int, value: int) -> None:
        if name == HEADER_TABLE_SIZE:
            self._encoder.header_table_size = min(value, _TABLE)
            self._block = b""
        elif name == MAX_STREAMS:
            self._streams = value
        elif name == MAX_FRAME:
            self._frame_size = value
        elif name == INITIAL_WINDOW:
            for call in self._calls.values():
                call.window += value - self._initial
            self._initial = value


def _tell(call: _Call, code: str, now: float) -> None:
    call.done(code, call.began, now)


async def connect(address: str, path: str, deadline_s: float) -> Connection:
    """A connection on which both sides have agreed.

    Raises:
        OSError: there is none to be had.
    """
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_S):
        _, made = await loop.create_connection(
            lambda: Connection(address, path, deadline_s), host.strip("[]"), int(port)
        )
        try:
            await made.ready
        except BaseException:
            made.close()
            raise
    return made
