"""Those who wait, in two classes: interactive first, bulk behind them. Not locked; its owner does that."""

import math
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import DeadlineExceededError
from service.inference.urgency import Urgency
from service.tracing import Origin

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Entry(Generic[Item, Result]):
    """One item, who waits for it, since when (`time.monotonic()`), and the request that it is for."""

    item: Item
    future: Future[Result]
    urgency: Urgency
    since: float
    origin: Origin = None

    def take(self, now: float) -> bool:
        """Whether it is to be run; nobody waits for one that was cancelled or is too late."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if self.urgency.deadline > now:
            return True
        self.future.set_exception(DeadlineExceededError("the deadline passed while the request was waiting"))
        return False


class Line(Generic[Item, Result]):
    """First come, first served within a class."""

    def __init__(self) -> None:
        self._interactive: deque[Entry[Item, Result]] = deque()
        self._bulk: deque[Entry[Item, Result]] = deque()
        # A line that is full is asked with each call that is refused, and is gone through only if that may help.
        self._some_gave_up = False
        self._first_deadline = math.inf

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def ahead_of(self, bulk: bool) -> int:
        """How many go before a new one: for interactive items only those of their own class."""
        return len(self) if bulk else len(self._interactive)

    @property
    def still_wanted(self) -> int:
        """How many were not cancelled."""
        return sum(not entry.future.cancelled() for line in (self._interactive, self._bulk) for entry in line)

    def since(self, bulk: bool) -> float:
        """Since when the one waits who has waited longest; of interactive items, with `bulk` of all. inf: nobody."""
        lines = (self._interactive, self._bulk) if bulk else (self._interactive,)
        return min((line[0].since for line in lines if line), default=math.inf)

    def add(self, entries: Iterable[Entry[Item, Result]]) -> None:
        """At the end of their class."""
        for entry in entries:
            (self._bulk if entry.urgency.bulk else self._interactive).append(entry)
            self._first_deadline = min(self._first_deadline, entry.urgency.deadline)
            entry.future.add_done_callback(self._note)

    def take(self, most: int, now: float, mixed: bool = True) -> list[Entry[Item, Result]]:
        """The next ones, to be run, of one class or `mixed`; those whom nobody waits for are dropped on the way."""
        taken: list[Entry[Item, Result]] = []
        for line in (self._interactive, self._bulk):
            while line and len(taken) < most:
                entry = line.popleft()
                if entry.take(now):
                    taken.append(entry)
            if taken and not mixed:
                break
        return taken

    def drop_gone(self, now: float) -> None:
        """Free the places of those whom nobody waits for."""
        if not self._some_gave_up and now < self._first_deadline:
            return
        self._some_gave_up, self._first_deadline = False, math.inf
        for line in (self._interactive, self._bulk):
            kept = [entry for entry in line if not entry.future.cancelled()]
            line.clear()
            for entry in kept:
                if entry.urgency.deadline > now or entry.take(now):
                    line.append(entry)
                    self._first_deadline = min(self._first_deadline, entry.urgency.deadline)

    def _note(self, future: Future[Result]) -> None:
        if future.cancelled():
            self._some_gave_up = True
