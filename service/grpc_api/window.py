"""The items of one stream that are worked on at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc

T = TypeVar("T")

# Items of one stream that are worked on at once; reading pauses beyond it, which slows the sender down.
STREAM_WINDOW = 16


class Window(Generic[T]):
    """Reads requests while there is room, begins their work as they come, and gives what is done first.

    An item begins as soon as it is read, even while its answer's reader is slow: a message that only waited to be taken
    would be counted by nobody.
    """

    def __init__(self, read: Callable[[], Awaitable[Any]], begin: Callable[[Any], Awaitable[T]]) -> None:
        self._read = read
        self._begin = begin
        self._items: set[asyncio.Future[T]] = set()
        self._reading: asyncio.Future[None] | None = None
        self._ended = False

    @property
    def open(self) -> bool:
        """Whether there is more to come."""
        return bool(self._items) or not self._ended

    async def done(self) -> list[T]:
        """Wait for something to happen; the items that were done, if that is what happened."""
        if self._reading is None and not self._ended and len(self._items) < STREAM_WINDOW:
            self._reading = asyncio.ensure_future(self._next())
        happened, _ = await asyncio.wait(self._tasks(), return_when=asyncio.FIRST_COMPLETED)
        if self._reading in happened:
            self._reading.result()  # raises what reading raised
            self._reading = None
        finished = happened & self._items
        self._items -= finished
        return [item.result() for item in finished]

    async def close(self) -> None:
        """Cancel what is under way, and wait until it is gone."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self) -> None:
        request = await self._read()
        if request is grpc.aio.EOF:
            self._ended = True
        else:
            self._items.add(asyncio.ensure_future(self._begin(request)))

    def _tasks(self) -> "set[asyncio.Future[Any]]":
        return {*self._items, *([self._reading] if self._reading is not None else [])}
