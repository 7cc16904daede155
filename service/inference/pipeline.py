"""Two stages of work on the threads that do it: a photo to crops, its crops to vectors.

The event loop hands a photo in, and hears of it once, when it is done or has failed. Between the stages nobody waits
for the loop: the thread that cut a face out queues it, and where little is to be done is the one that embeds it.
"""

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, cast

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
    """One photo on its way. Its methods run on whichever thread finished the stage before.

    When the answer is there it lets go of everything: futures keep those whom they told, and a photo of fifty faces
    would stay in memory with all its crops until the garbage collector came by.
    """

    def __init__(self, items: Callable[[First], Sequence[Item]], batcher: Batcher[Item, Result]) -> None:
        self._items = items
        self._batcher = batcher
        self._lock = threading.Lock()
        self._caller: contextvars.Context | None = contextvars.copy_context()
        self._answer: Future[tuple[First, list[Result]]] | None = None
        self._waiting_for: Sequence[Future[First] | Future[Result]] = ()
        self._results: list[Future[Result]] = []
        self._first: First | None = None
        self._left = 0

    def begin(self, first: "Future[First]") -> "Future[tuple[First, list[Result]]]":
        answer: Future[tuple[First, list[Result]]] = Future()
        self._answer, self._waiting_for = answer, [first]
        answer.add_done_callback(self._ended)
        first.add_done_callback(self._second_stage)
        return answer

    def _second_stage(self, done: "Future[First]") -> None:
        caller = self._caller
        if caller is None or done.cancelled():
            return
        error = done.exception()
        if error is not None:  # not raised once more: its frames would hold the future that holds it
            self._tell(error)
            return
        first = done.result()
        try:
            results = caller.run(self._submit, self._items(first))
        except Exception as refusal:
            self._tell(refusal)
            return
        with self._lock:
            is_over = self._answer is None  # given up meanwhile
            if not is_over:
                self._first, self._results, self._waiting_for, self._left = first, results, results, len(results)
        if is_over:
            _cancel_all(results)
            return
        for result in results:
            result.add_done_callback(self._one_done)
        if not results:
            self._tell()

    def _submit(self, items: Sequence[Item]) -> "list[Future[Result]]":
        return self._batcher.submit(items, urgency()) if items else []

    def _one_done(self, one: "Future[Result]") -> None:
        if one.cancelled():
            return
        error = one.exception()
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if error is not None or is_last:
            self._tell(error)

    def _tell(self, error: BaseException | None = None) -> None:
        """The answer, once, and if somebody still waits for it; from then on it cannot be cancelled."""
        with self._lock:
            answer, self._answer = self._answer, None
            first, results = self._first, self._results
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result((cast(First, first), [each.result() for each in results]))

    def _ended(self, answer: "Future[tuple[First, list[Result]]]") -> None:
        with self._lock:
            waiting_for, self._waiting_for = self._waiting_for, ()
            self._answer = self._caller = self._first = None
            self._results = []
        if answer.cancelled() or answer.exception() is not None:
            _cancel_all(waiting_for)


def _cancel_all(futures: "Sequence[Future[Any]] | Sequence[Future[Any] | Future[Any]]") -> None:
    for each in futures:
        each.cancel()
