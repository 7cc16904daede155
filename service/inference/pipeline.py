"""Two stages of work on the threads that do it: a photo to crops, its crops to vectors.

The event loop hands a photo in, and hears of it once, when it is done or has failed. Between the stages nobody waits
for the loop: the thread that cut a face out queues it, and mostly is the one that embeds it.
"""

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from service.inference.batcher import Batcher
from service.inference.pool import Pool
from service.inference.urgency import urgency

First = TypeVar("First")
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_two_stages(
    pool: Pool,
    first: Callable[[], First],
    items: Callable[[First], Sequence[Item]],
    batcher: Batcher[Item, Result],
) -> "Future[tuple[First, list[Result]]]":
    """Run `first` in the pool, then what `items` makes of its outcome through the batcher.

    Urgency and trace are those of the caller.

    Returns:
        A future of the outcome of `first` and of one result an item, in order; or of the first error. Cancelling it
        frees the places of what still waits.

    Raises:
        OverloadedError: the pool has no place, or the turn would come after the deadline.
        NotReadyError: closed.
    """
    passage: _Passage[First, Item, Result] = _Passage(items, batcher)
    return passage.begin(pool.start(first))


class _Passage(Generic[First, Item, Result]):
    """One photo on its way. Its methods run on whichever thread finished the stage before."""

    def __init__(self, items: Callable[[First], Sequence[Item]], batcher: Batcher[Item, Result]) -> None:
        self._items = items
        self._batcher = batcher
        self._caller = contextvars.copy_context()
        self._answer: Future[tuple[First, list[Result]]] = Future()
        self._answer.add_done_callback(self._give_up)
        self._waiting_for: Sequence[Future[First] | Future[Result]] = ()
        self._lock = threading.Lock()
        self._left = 0
        self._is_over = False

    def begin(self, first: "Future[First]") -> "Future[tuple[First, list[Result]]]":
        self._waiting_for = [first]
        first.add_done_callback(self._second_stage)
        return self._answer

    def _second_stage(self, done: "Future[First]") -> None:
        if done.cancelled():
            return
        try:
            first = done.result()
            results = self._caller.run(self._submit, self._items(first))
        except Exception as error:  # a photo that cannot be read, or crops that are refused
            self._fail(error)
            return
        self._waiting_for, self._left = results, len(results)
        if self._answer.cancelled():  # perhaps before there was anything of this stage to cancel
            self._give_up(self._answer)
        for result in results:
            result.add_done_callback(lambda one: self._one_done(one, first, results))
        if not results:
            self._finish(first, results)

    def _submit(self, items: Sequence[Item]) -> "list[Future[Result]]":
        return self._batcher.submit(items, urgency()) if items else []

    def _one_done(self, one: "Future[Result]", first: First, results: "list[Future[Result]]") -> None:
        if one.cancelled():
            return
        error = one.exception()
        if error is not None:
            self._fail(error)
            return
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._finish(first, results)

    def _finish(self, first: First, results: "list[Future[Result]]") -> None:
        if self._is_waited_for():
            self._answer.set_result((first, [each.result() for each in results]))

    def _fail(self, error: BaseException) -> None:
        if self._is_waited_for():
            self._answer.set_exception(error)

    def _is_waited_for(self) -> bool:
        """Whether there is somebody to answer; once only, and from then on it can't be cancelled."""
        with self._lock:
            is_over, self._is_over = self._is_over, True
        return not is_over and self._answer.set_running_or_notify_cancel()

    def _give_up(self, answer: "Future[tuple[First, list[Result]]]") -> None:
        """When the answer is there: what it did not wait for need not be done."""
        if answer.cancelled() or answer.exception() is not None:
            for each in self._waiting_for:
                each.cancel()
