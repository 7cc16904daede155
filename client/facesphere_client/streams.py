"""Many calls of one kind over one stream of gRPC, which is begun again where it breaks off.

At most `concurrency` items are without an answer, so that a folder of any size takes no more memory than they do.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

from facesphere_client import grpc_messages
from facesphere_client.calls import Call
from facesphere_client.errors import FacesphereError, ProtocolError, TryLaterError
from facesphere_client.grpc_transport import AsyncStream, BrokenError, Stream
from facesphere_client.options import Options
from facesphere_client.pooled import Item
from facesphere_client.retry import Attempts
from facesphere_client.values import Outcome

T = TypeVar("T")


class _Progress(Generic[T]):
    """What is under way in a stream, and whether there is more to come.

    A new stream is sent one item until it has answered: grpcio forgets why a stream was refused while it writes to it.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._items: dict[str, tuple[str, Call[T]]] = {}  # by a number: keys of callers may repeat
        self._unsent: list[str] = []  # of them, in this stream
        self._last = 0
        self._window = 1
        self._attempts: Attempts | None = None
        self._more = True

    @property
    def open(self) -> bool:
        return self._more or bool(self._items)

    @property
    def room(self) -> bool:
        return self._more and len(self._items) < self._window

    @property
    def waiting(self) -> bool:
        return bool(self._items)

    def begin(self, stream: Stream | AsyncStream) -> None:
        """Ask in a new stream for what the one before left without an answer."""
        self._unsent, self._window = list(self._items), 1
        self._send(stream)

    def put(self, stream: Stream | AsyncStream, item: Item[T] | None) -> list[Outcome[T]]:
        """Ask for an item; None: there is no other."""
        if item is None:
            self._more = False
        elif isinstance(item[1], FacesphereError):
            return [Outcome(item[0], None, item[1])]
        else:
            self._last += 1
            self._items[str(self._last)] = (item[0], item[1])
            self._unsent.append(str(self._last))
        self._send(stream)
        return []

    def take(self, stream: Stream | AsyncStream, number: str) -> tuple[str, Call[T]]:
        """The item that an answer is to."""
        if number not in self._items:
            raise BrokenError(ProtocolError("the stream answered what was not asked"))
        # It goes on, and what broke off before is over.
        self._attempts, self._window = None, self._options.concurrency
        found = self._items.pop(number)
        self._send(stream)
        return found

    def _send(self, stream: Stream | AsyncStream) -> None:
        while self._unsent and len(self._items) - len(self._unsent) < self._window:
            number = self._unsent.pop(0)
            stream.put(number, self._items[number][1])
        if not self._more and not self._unsent:
            stream.end()

    def pause_s(self, error: FacesphereError) -> float | None:
        """How long to wait before a stream is begun again; None where that cannot be."""
        repeatable = all(call.repeatable for _, call in self._items.values())
        self._attempts = self._attempts or Attempts(self._options.retry, repeatable)
        try:
            return self._attempts.after(error)
        except FacesphereError:
            return None

    def lost(self, error: FacesphereError) -> list[Outcome[T]]:
        """What becomes of all that is under way where nobody can tell."""
        outcomes: list[Outcome[T]] = [Outcome(key, None, error) for key, _ in self._items.values()]
        self._items.clear()
        self._more = False
        return outcomes


def over_stream(
    begin: Callable[[], Stream], send: Callable[[Call[T]], T], source: Iterator[Item[T]], options: Options
) -> Iterator[Outcome[T]]:
    """Outcomes as they are done. An item that the server has no room for is asked about again by itself.

    Raises:
        FacesphereError: the stream broke off for good. What was under way has an outcome with the error before it.
    """
    progress = _Progress[T](options)
    while progress.open:
        stream = begin()
        try:
            progress.begin(stream)
            while progress.open:
                while progress.room:
                    yield from progress.put(stream, next(source, None))
                if progress.waiting:
                    number, message = stream.answer()
                    key, call = progress.take(stream, number)
                    try:
                        value = send(call) if isinstance(message, TryLaterError) else _value(call, message)
                    except FacesphereError as error:
                        yield Outcome(key, None, error)
                    else:
                        yield Outcome(key, value)
        except BrokenError as broken:
            wait_s = progress.pause_s(broken.error)
            if wait_s is None:
                yield from progress.lost(broken.error)
                raise broken.error from None
            time.sleep(wait_s)
        finally:
            stream.close()


async def over_async_stream(
    begin: Callable[[], AsyncStream],
    send: Callable[[Call[T]], Awaitable[T]],
    source: AsyncIterator[Item[T]],
    options: Options,
) -> AsyncGenerator[Outcome[T], None]:
    """The same in an event loop."""
    progress = _Progress[T](options)
    while progress.open:
        stream = begin()
        try:
            progress.begin(stream)
            while progress.open:
                while progress.room:
                    for outcome in progress.put(stream, await anext(source, None)):
                        yield outcome
                if progress.waiting:
                    number, message = await stream.answer()
                    key, call = progress.take(stream, number)
                    try:
                        value = await send(call) if isinstance(message, TryLaterError) else _value(call, message)
                    except FacesphereError as error:
                        yield Outcome(key, None, error)
                    else:
                        yield Outcome(key, value)
        except BrokenError as broken:
            wait_s = progress.pause_s(broken.error)
            if wait_s is None:
                for outcome in progress.lost(broken.error):
                    yield outcome
                raise broken.error from None
            await asyncio.sleep(wait_s)
        finally:
            stream.close()


def _value(call: Call[T], message: Any) -> T:
    if isinstance(message, FacesphereError):
        raise message
    return grpc_messages.answer(call, message)
