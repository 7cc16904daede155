"""Items of many requests to batches: one leaves as soon as a worker is free, with all that is waiting, up to a limit.

There is no timer: under light load an item leaves at once and alone, under heavy load batches fill by themselves.
The queue is bounded; when it is full the answer is OverloadedError, not a longer queue. A batch that fails is halved
until the bad item is alone, so only that item fails. Items whose caller has gone are dropped before they cost anything.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import NotReadyError, OverloadedError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatcherOptions:
    """`max_queue` counts waiting items; `workers` batches run at the same time."""

    max_batch: int = 8
    max_queue: int = 256
    workers: int = 1


class Batcher(Generic[Item, Result]):
    """Runs `function` on batches of what is submitted from any thread."""

    def __init__(self, name: str, function: Callable[[list[Item]], Sequence[Result]], options: BatcherOptions) -> None:
        self._function = function
        self._options = options
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(options.workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._waiting)

    def submit(self, items: Sequence[Item]) -> list[Future[Result]]:
        """Queue items that belong together: all are taken, or none.

        A photo with more faces than the whole queue is taken when nothing else waits.

        Returns:
            One future an item, in order. Cancelling one before its batch left frees its place.

        Raises:
            OverloadedError: the queue has no room for all of them.
            NotReadyError: closed.
        """
        futures: list[Future[Result]] = [Future() for _ in items]
        with self._changed:
            if self._closed:
                raise NotReadyError("the server is stopping")
            if len(self._waiting) + len(items) > self._options.max_queue:
                self._drop_cancelled()
            if self._waiting and len(self._waiting) + len(items) > self._options.max_queue:
                raise OverloadedError(f"{len(self._waiting)} items are waiting already")
            self._waiting.extend(zip(items, futures, strict=True))
            self._changed.notify(len(items))
        return futures

    def close(self) -> None:
        """Finish what is queued, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _drop_cancelled(self) -> None:
        kept = [entry for entry in self._waiting if not entry[1].cancelled()]
        self._waiting.clear()
        self._waiting.extend(kept)

    def _work(self) -> None:
        while batch := self._next_batch():
            self._run(batch)

    def _next_batch(self) -> list[tuple[Item, Future[Result]]]:
        """Wait for items; an empty list means closed and drained."""
        with self._changed:
            while True:
                batch: list[tuple[Item, Future[Result]]] = []
                while self._waiting and len(batch) < self._options.max_batch:
                    item, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((item, future))
                if batch or self._closed:
                    return batch
                self._changed.wait()

    def _run(self, batch: list[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self._function([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items gave {len(results)} results")
        except Exception as error:  # whatever a network raises belongs to the item that caused it
            self._blame(batch, error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)

    def _blame(self, batch: list[tuple[Item, Future[Result]]], error: Exception) -> None:
        if len(batch) == 1:
            batch[0][1].set_exception(error)
            return
        middle = len(batch) // 2
        self._run(batch[:middle])
        self._run(batch[middle:])
