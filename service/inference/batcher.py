"""Items of many requests to batches: one leaves as soon as a worker is free, with all that is waiting, up to a limit.

Unless `max_delay_s` says otherwise there is no timer: under light load an item leaves at once and alone, under heavy
load batches fill by themselves. Interactive items go before bulk ones. The queue is bounded by its length and by time:
an item that would wait beyond its deadline is refused with OverloadedError when it comes, not when it is too late.
Items whose caller has gone, or whose deadline has passed, are dropped before they cost anything. A batch that fails is
halved until the bad item is alone, so only that item fails.
"""

import math
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from models.errors import FaceError
from service.errors import NotReadyError, OverloadedError
from service.inference.crew import Crew, Job
from service.inference.line import Entry, Line
from service.inference.urgency import Urgency
from service.tracing import NO_TRACES, Tracer

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_RETRY_AFTER_S = 60
# How much one item says about the next; of an outlier no more than so many times what was usual.
_NEWEST = 0.1
_OUTLIER = 4.0
# Work that is let in and then too late has cost the most; the loop, and other programs, take time.
_MARGIN = 1.25
# Photos that never end, none with a face in it, would else be a reason to let a crop wait for ever.
_PATIENCE_S = 0.1
# Of `max_run_s`: for work that an interactive request finds under way and has to wait for, and for waiting.
_PART = 0.25


@dataclass(frozen=True, slots=True)
class BatcherOptions:
    """Limits of a batcher.

    `max_queue` counts waiting items, of which interactive ones see only their own class. `workers` batches run at the
    same time, where there is no crew to share; in a crew `first_stage` says that what is done here comes first, and a
    batch goes before work of an earlier stage where `full` items wait, or one has waited for 0.1 s. A batch that is not
    whole leaves `max_delay_s` after its oldest item came. `max_run_s` says that a batch does its items one by one: it
    is of one class, no more than a thread's share of all that waits, and no more than takes so long by what items have
    cost lately. In bulk it takes a quarter of that, and so long one waits for others at most, instead of 0.1 s.
    Without `predict` no deadline is a reason to refuse: for work of which no piece is like the last.
    """

    max_batch: int = 8
    max_queue: int = 256
    workers: int = 1
    max_delay_s: float = 0.0
    max_run_s: float = math.inf
    full: int = 1
    first_stage: bool = False
    predict: bool = True


class Batcher(Generic[Item, Result]):
    """Runs `function` on batches of what is submitted from any thread."""

    def __init__(
        self,
        name: str,
        function: Callable[[list[Item]], Sequence[Result]],
        options: BatcherOptions,
        crew: Crew | None = None,
        then_s: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
        tracer: Tracer = NO_TRACES,
    ) -> None:
        self._name = name
        self._tracer = tracer
        self._function = function
        self._options = options
        self._line: Line[Item, Result] = Line()
        self._running = 0
        self._closed = False
        self._seconds: float | None = None
        self._size = 1.0
        self._then_s = then_s
        self._crew = crew or Crew(name, options.workers, clock)
        self._own_crew = crew is None
        self._crew.add(self, options.first_stage)

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._line)

    @property
    def pending(self) -> int:
        """Items that run, or wait and were not cancelled."""
        with self._crew.changed:
            return self._running + self._line.still_wanted

    def submit(self, items: Sequence[Item], urgency: Urgency | None = None) -> list[Future[Result]]:
        """Queue items that belong together: all are taken, or none.

        A photo with more faces than the whole queue is taken when nothing else waits.

        Returns:
            One future an item, in order. Cancelling one before its batch left frees its place.

        Raises:
            OverloadedError: the queue has no room for all of them, or their turn would come after their deadline.
            NotReadyError: closed.
        """
        urgency = urgency or Urgency()
        now, origin = self._crew.clock(), self._tracer.here()
        entries: list[Entry[Item, Result]] = [Entry(item, Future(), urgency, now, origin) for item in items]
        with self._crew.changed:
            if self._closed:
                raise NotReadyError("the server is stopping")
            self._admit(len(items), urgency, now)
            self._line.add(entries)
            self._crew.wake(len(items))
        return [entry.future for entry in entries]

    def check_room(self, urgency: Urgency) -> None:
        """Raises OverloadedError where an item that came now would be refused."""
        with self._crew.changed:
            self._admit(1, urgency, self._crew.clock())

    def close(self) -> None:
        """Take nothing more and finish what is queued."""
        with self._crew.changed:
            self._closed = True
            self._crew.changed.notify_all()
            self._leave_if_done()
        if self._own_crew:
            self._crew.close()

    def _leave_if_done(self) -> None:
        if self._closed and not self._own_crew and not len(self._line) and not self._running:
            self._crew.remove(self)

    def _admit(self, count: int, urgency: Urgency, now: float) -> None:
        room = self._options.max_queue + self._crew.idle * self._options.max_batch
        if self._line.ahead_of(urgency.bulk) + count > room:
            self._line.drop_gone(now)
        ahead = self._line.ahead_of(urgency.bulk)
        if not ahead and self._crew.idle:
            return
        expected = _MARGIN * (self._crew.expected_wait_s(urgency.bulk) + self.cost_s())
        if ahead and ahead + count > room:
            raise OverloadedError(f"{ahead} items are waiting already", _retry_after(expected / 2))
        if self._options.predict and now + expected > urgency.deadline:
            left = urgency.deadline - now
            raise OverloadedError(
                f"an answer takes about {expected:.2f} s now, the deadline is in {left:.2f} s",
                _retry_after(expected - left),
            )

    # What the crew asks, with its lock held.

    @property
    def running(self) -> int:
        """Items that are being worked on."""
        return self._running

    def count(self, bulk: bool) -> int:
        """Waiting items of interactive requests; with `bulk` all of them."""
        return self._line.ahead_of(bulk)

    def full(self, bulk: bool) -> bool:
        """Whether a batch is worth more than an earlier stage's work, or has waited long enough."""
        count, options = self.count(bulk), self._options
        if count >= (options.max_batch if options.max_delay_s else options.full):
            return True
        patience_s = max(options.max_delay_s, min(_PATIENCE_S, options.max_run_s * _PART))
        return count > 0 and self._crew.clock() - self.since(bulk) >= patience_s

    def since(self, bulk: bool) -> float:
        """Since when the one waits who has waited longest; of interactive requests, with `bulk` of all."""
        return self._line.since(bulk)

    def leaves_at(self) -> float:
        """When a batch may leave that is not full."""
        if self._closed or not self._options.max_delay_s:
            return -math.inf
        return self._line.since(bulk=True) + self._options.max_delay_s

    def take(self, now: float) -> Job | None:
        """The next batch; None where nobody waits for any of it."""
        batch = self._line.take(self._most(), now, mixed=not self._one_by_one)
        self._running += len(batch)
        if not batch:
            self._leave_if_done()
            return None
        return _Batch(self, batch)

    def _most(self) -> int:
        options = self._options
        if not self._one_by_one:
            return options.max_batch
        bulk = not self._line.ahead_of(bulk=False)
        most = min(options.max_batch, self._crew.share(bulk))
        run_s = options.max_run_s * (_PART if bulk else 1)
        if self._seconds and most * self._seconds > run_s:
            most = int(run_s / self._seconds)
        return max(most, 1)

    @property
    def _one_by_one(self) -> bool:
        return self._options.max_run_s < math.inf

    def cost_s(self) -> float:
        """Seconds of one thread for one item, until its request is answered; 0 before the first."""
        return (self._seconds or 0.0) + self._then_s()

    def company_s(self) -> float:
        """Seconds for which an item that came now would wait for the others of its batch, going by the last ones."""
        if not self._running and not len(self._line):
            return 0.0
        return (self._size - 1) * (self._seconds or 0.0)

    def settle(self, count: int, seconds: float) -> None:
        """A batch is done."""
        self._running -= count
        self._leave_if_done()
        newest = 1 - (1 - _NEWEST) ** max(count, 1)  # else what is done in rows would be learnt a row at a time
        self._size += newest * (max(count, 1) - self._size)
        each = seconds / max(count, 1)
        usual = self._seconds
        self._seconds = each if usual is None else usual + newest * (min(each, _OUTLIER * usual) - usual)

    # The work, without the lock.

    def taken(self, entries: Sequence[Entry[Item, Result]]) -> AbstractContextManager[None]:
        """What is done in here is for these."""
        now = self._crew.clock()
        return self._tracer.taken(self._name, [(entry.origin, now - entry.since) for entry in entries])

    def outcomes(self, items: list[Item]) -> "list[_Failed | Result]":
        """A result or an error for each item; where a batch fails, both halves are tried."""
        try:
            results = list(self._function(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        except Exception as error:  # whatever a network raises belongs to the item that caused it
            if len(items) == 1:
                return [_Failed(_lightened(error))]
            middle = len(items) // 2
            return self.outcomes(items[:middle]) + self.outcomes(items[middle:])
        return [*results]


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class _Batch(Generic[Item, Result]):
    """One batch, from its queue to its callers."""

    def __init__(self, batcher: Batcher[Item, Result], entries: list[Entry[Item, Result]]) -> None:
        self._batcher = batcher
        self._entries = entries
        self._outcomes: list[_Failed | Result] = []
        self._seconds = 0.0

    def run(self) -> None:
        began = time.perf_counter()
        with self._batcher.taken(self._entries):
            self._outcomes = self._batcher.outcomes([entry.item for entry in self._entries])
        self._seconds = time.perf_counter() - began

    def done(self) -> None:
        self._batcher.settle(len(self._entries), self._seconds)

    def deliver(self) -> None:
        for entry, outcome in zip(self._entries, self._outcomes, strict=True):
            if isinstance(outcome, _Failed):
                entry.future.set_exception(outcome.error)
            else:
                entry.future.set_result(outcome)


def _lightened(error: Exception) -> Exception:
    """An error without its frames, which hold the photo, and what was decoded of it, for as long as somebody holds it.

    Of one that nobody foresaw, what they say is kept as a note: for the log.
    """
    if not isinstance(error, FaceError):
        error.add_note("".join(traceback.format_exception(error)))
    chain: list[BaseException] = [error]
    while chain:
        each = chain.pop()
        each.__traceback__ = None
        chain += [other for other in (each.__cause__, each.__context__) if other is not None and other.__traceback__]
    return error


def _retry_after(seconds: float) -> int:
    return max(1, min(MAX_RETRY_AFTER_S, math.ceil(seconds)))
