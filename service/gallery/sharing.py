"""How searches share what there is: cores for one, one pass for many, and a structure with those who change it."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Lanes:
    """Threads that go through the parts of one thing together with the thread that asks; one lane is that thread."""

    def __init__(self, count: int = 1) -> None:
        """Threads are started when they are needed first."""
        self.count = count
        self._others = ThreadPoolExecutor(count - 1, "facesphere-search") if count > 1 else None

    def each(self, work: Callable[[Item], object], items: Iterable[Item]) -> None:
        """Do the work on each item, in any order. Whatever it raises is raised here, and ends the rest."""
        left = deque(items)

        def drain() -> None:
            with contextlib.suppress(IndexError):
                while True:
                    item = left.popleft()
                    try:
                        work(item)
                    except BaseException:
                        left.clear()
                        raise

        helping = []
        if self._others is not None:
            helping = [self._others.submit(drain) for _ in range(min(self.count, len(left)) - 1)]
        try:
            drain()
        finally:
            for each in helping:
                each.cancel()  # one that is busy with another search has nothing left to do here
        for each in helping:
            if not each.cancelled():
                each.result()

    def close(self) -> None:
        """Stop the threads."""
        if self._others is not None:
            self._others.shutdown()


class Together(Generic[Asked, Answer]):
    """Calls that come while one is at work wait for it, and are then answered together in one pass."""

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Answer]], most: int) -> None:
        """`answer` answers up to `most` calls at once, in their order."""
        self._answer = answer
        self._most = most
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[_Call[Asked, Answer]] = deque()

    def ask(self, asked: Asked) -> Answer:
        """The answer; what `answer` raises is raised for all that it was to answer."""
        call: _Call[Asked, Answer] = _Call(asked)
        with self._lock:
            self._waiting.append(call)
            leads, self._busy = not self._busy, True
        if not leads:
            call.told.wait()
        if not call.done:  # the first of those who wait answers for them
            self._answer_some()
        if call.error is not None:
            raise call.error
        return call.answers[0]

    def _answer_some(self) -> None:
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
        try:
            for call, answer in zip(calls, self._answer([call.asked for call in calls]), strict=True):
                call.answers.append(answer)
        except BaseException as error:
            for call in calls:
                call.error = error
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._busy = following is not None
        for call in calls:
            call.done = True
        for call in calls if following is None else (following, *calls):
            call.told.set()


class _Call(Generic[Asked, Answer]):
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answers: list[Answer] = []
        self.error: BaseException | None = None
        self.done = False
        self.told = threading.Event()


class Shared:
    """Read by many at once, or changed by one. Who comes to change it goes before those who come later to read."""

    def __init__(self) -> None:
        self._entrance = threading.Lock()
        self._changed = threading.Condition()
        self._readers = 0

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Nobody changes it meanwhile."""
        with self._entrance, self._changed:
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody reads it meanwhile."""
        with self._entrance, self._changed:
            self._changed.wait_for(lambda: not self._readers)
            yield
