"""Many calls of one kind, each by itself, so many at once and no more: what REST has in place of a stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from facesphere_client.calls import Call
from facesphere_client.errors import FacesphereError
from facesphere_client.values import Outcome

T = TypeVar("T")
Item = tuple[str, Call[T] | FacesphereError]  # an error: the item cannot even be asked about


def over_threads(send: Callable[[Call[T]], T], source: Iterator[Item[T]], concurrency: int) -> Iterator[Outcome[T]]:
    """Outcomes as they are done. Items are read as there is room, so that a folder of any size takes no more memory
    than what is under way."""

    def ask(item: Item[T]) -> Outcome[T]:
        key, call = item
        if isinstance(call, FacesphereError):
            return Outcome(key, None, call)
        try:
            return Outcome(key, send(call))
        except FacesphereError as error:
            return Outcome(key, None, error)

    pool, under_way = ThreadPoolExecutor(concurrency, "facesphere"), set[Future[Outcome[T]]]()
    try:
        for item in source:
            under_way.add(pool.submit(ask, item))
            while len(under_way) >= concurrency:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
    finally:
        pool.shutdown(cancel_futures=True)


async def over_tasks(
    send: Callable[[Call[T]], Awaitable[T]], source: AsyncIterator[Item[T]], concurrency: int
) -> AsyncGenerator[Outcome[T], None]:
    """The same in an event loop."""

    async def ask(item: Item[T]) -> Outcome[T]:
        key, call = item
        if isinstance(call, FacesphereError):
            return Outcome(key, None, call)
        try:
            return Outcome(key, await send(call))
        except FacesphereError as error:
            return Outcome(key, None, error)

    under_way = set[asyncio.Task[Outcome[T]]]()
    try:
        async for item in source:
            under_way.add(asyncio.create_task(ask(item)))
            while len(under_way) >= concurrency:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        while under_way:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                yield each.result()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
