"""Threads that work on several queues, so that there are never more at work than there are cores.

There are two stages: photos, then the crops that come out of them, for one network or several. A full batch of the
later stage goes first, then the earlier stage, then whatever is left: no stage runs far ahead of the next one, batches
fill when there is much to do, and nothing waits when there is little. Within a stage goes first who has waited longest.
All interactive work goes before any bulk work.
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

ON_THE_PROCESSOR = frozenset(("cpu", "openvino"))
# Behind the loop that takes requests and refuses them: it needs little, and at once.
_NICENESS = 5


class Job(Protocol):
    """A batch on its way."""

    def run(self) -> None:
        """The work."""

    def done(self) -> None:
        """Books are kept; called with the crew's lock held."""

    def deliver(self) -> None:
        """The callers hear of it."""


class Queue(Protocol):
    """What a crew asks of its queues, always with its lock held."""

    @property
    def running(self) -> int:
        """Items that are being worked on."""

    def count(self, bulk: bool) -> int:
        """Waiting items of interactive requests; with `bulk` all of them."""

    def since(self, bulk: bool) -> float:
        """Since when the one waits who has waited longest; of interactive requests, with `bulk` of all."""

    def full(self, bulk: bool) -> bool:
        """Whether a batch is worth more than an earlier stage's work, or has waited long enough."""

    def leaves_at(self) -> float:
        """When a batch may leave that is not full."""

    def take(self, now: float) -> Job | None:
        """The next batch; None where nobody waits for any of it."""

    def cost_s(self) -> float:
        """Seconds of one thread for one item, until its request is answered."""

    def company_s(self) -> float:
        """Seconds for which an item that came now would wait for the others of its batch."""


class Crew:
    """`threads` at work on queues that are added before the first item is submitted."""

    def __init__(self, name: str, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.changed = threading.Condition()
        self.clock = clock
        self.threads = threads
        self._first: list[Queue] = []
        self._later: list[Queue] = []
        self._busy = 0
        self._closed = False
        self._here = threading.local()
        self._workers = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for worker in self._workers:
            worker.start()

    def add(self, queue: Queue, first: bool = False) -> None:
        """A further queue: of a later stage than those before, or of the first one."""
        with self.changed:
            (self._first if first else self._later).append(queue)

    def remove(self, queue: Queue) -> None:
        """A queue that is empty and stays so: what it works with is given free."""
        with self.changed:
            self._first = [each for each in self._first if each is not queue]
            self._later = [each for each in self._later if each is not queue]

    @property
    def _queues(self) -> list[Queue]:
        return self._first + self._later

    def wake(self, items: int) -> None:
        """There is more to do; the lock is held."""
        if getattr(self._here, "looks_next", False):  # for one item no other thread has to be woken
            self._here.looks_next = False
            items -= 1
        self.changed.notify(items)

    @property
    def idle(self) -> int:
        """Threads without work."""
        return self.threads - self._busy

    def share(self, bulk: bool) -> int:
        """A thread's share of all that waits, in all queues; of interactive items, with `bulk` of all. Lock held."""
        return math.ceil(sum(queue.count(bulk) for queue in self._queues) / self.threads)

    def expected_wait_s(self, bulk: bool) -> float:
        """How long one that came now would wait for its turn, by what work has cost lately; the lock is held."""
        queues = self._queues
        ahead = sum((queue.count(bulk) + queue.running / 2) * queue.cost_s() for queue in queues)  # half is done
        return ahead / self.threads + max((queue.company_s() for queue in queues), default=0.0)

    def close(self) -> None:
        """Finish what is queued, then stop."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        _stand_back()
        while job := self._next():
            job.run()
            with self.changed:
                self._busy -= 1
                job.done()
                if self._closed:
                    self.changed.notify_all()
            self._here.looks_next = True
            job.deliver()
            self._here.looks_next = False
            del job  # and with it the last photo, while there is no other

    def _next(self) -> Job | None:
        """Wait for work; None means closed and drained."""
        with self.changed:
            while True:
                now = self.clock()
                queue = self._choose(now)
                if queue is not None:
                    if job := queue.take(now):
                        self._busy += 1
                        return job
                    continue
                if self._closed:
                    return None
                leaves = min((queue.leaves_at() for queue in self._queues if queue.count(True)), default=None)
                self.changed.wait(None if leaves is None else max(leaves - now, 0))

    def _choose(self, now: float) -> Queue | None:
        for bulk in (False, True):
            for ready in (
                [queue for queue in self._later if queue.full(bulk)],
                self._may_leave(self._first, bulk, now),
                self._may_leave(self._later, bulk, now),
            ):
                if ready:
                    return min(ready, key=lambda queue: queue.since(bulk)) if len(ready) > 1 else ready[0]
        return None

    def _may_leave(self, stage: list[Queue], bulk: bool, now: float) -> list[Queue]:
        return [queue for queue in stage if queue.count(bulk) and (self._closed or queue.leaves_at() <= now)]


def _stand_back() -> None:
    """Let other threads of this process go first. Only Linux has priorities of threads."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # it may be lower already, by whoever started the server
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + _NICENESS)


def crews_for(device: str, cores: int) -> tuple[Crew, ...]:
    """One crew for photos and networks where both run on the processor; else one for each, the second of one thread."""
    if device in ON_THE_PROCESSOR:
        return (Crew("work", cores),)
    return Crew("photo", cores), Crew("network", 1)
