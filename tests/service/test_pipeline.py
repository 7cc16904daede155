"""Two stages of work, one future: what it becomes, whatever happens on the way."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial

import pytest
from live_server import wait_until

from service.errors import DeadlineExceededError, NotReadyError, OverloadedError
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import Crew
from service.inference.pipeline import in_two_stages
from service.inference.pool import PhotoPool
from service.inference.urgency import due_in, in_bulk, urgency

WAIT_S = 20


class Gate:
    """Work that says when it has begun, and ends when it may."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()

    def __call__(self) -> None:
        self.begun.release()
        assert self.may_end.wait(WAIT_S)


class Stages:
    """Numbers up to one, then their squares: on one thread, or on one for each stage."""

    def __init__(self, crews: int, full: int = 1) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.during: Callable[[list[int]], None] = lambda items: None
        self.crews = [Crew(f"stage{number}", 1) for number in range(crews)]
        options = BatcherOptions(max_batch=4, max_queue=4, full=full, predict=False)
        self.batcher: Batcher[int, int] = Batcher("squares", self._squares, options, self.crews[-1])
        self.pool = PhotoPool(self.crews[0], 8, self.batcher.cost_s)

    def start(self, count: int, before: Callable[[], None] = lambda: None) -> "Future[tuple[int, list[int]]]":
        def first() -> int:
            self.threads.add(threading.current_thread().name)
            before()
            return count

        return in_two_stages(self.pool, first, lambda number: list(range(1, number + 1)), self.batcher)

    def _squares(self, items: list[int]) -> Sequence[int]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(items)
        self.during(items)
        return [item * item for item in items]


@pytest.fixture
def stages() -> Iterator[Stages]:
    yield from _stages(1)


@pytest.fixture
def apart() -> Iterator[Stages]:
    """With a thread for each stage, as where networks run on a device of their own."""
    yield from _stages(2)


def _stages(crews: int) -> Iterator[Stages]:
    both = Stages(crews)
    yield both
    for crew in both.crews:
        crew.close()


@contextmanager
def busy(stages: Stages) -> Iterator[Gate]:
    """The crew's only thread is at work until the block ends."""
    gate = Gate()
    held = stages.pool.start(gate)
    assert gate.begun.acquire(timeout=WAIT_S)
    try:
        yield gate
    finally:
        gate.may_end.set()
        held.result(WAIT_S)


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_the_outcome_of_the_first_stage_comes_with_that_of_every_item_in_order(stages: Stages, count: int) -> None:
    assert stages.start(count).result(WAIT_S) == (count, [n * n for n in range(1, count + 1)])


def test_no_loop_and_no_other_thread_is_needed_between_the_stages(stages: Stages) -> None:
    stages.start(2).result(WAIT_S)
    assert stages.threads == {"stage0-0"}


def test_many_at_once_get_their_own(stages: Stages) -> None:
    for _ in range(50):
        futures = [stages.start(count) for count in (1, 0, 3, 2)]
        assert [each.result(WAIT_S)[1] for each in futures] == [[1], [], [1, 4, 9], [1, 4]]


def test_an_error_of_the_first_stage_is_the_answer(stages: Stages) -> None:
    def fails() -> None:
        raise ValueError("no photo")

    with pytest.raises(ValueError, match="no photo"):
        stages.start(1, fails).result(WAIT_S)
    assert stages.batches == []


def test_an_error_of_one_item_is_the_answer_and_the_rest_is_left_undone(stages: Stages) -> None:
    begun = threading.Event()

    def during(items: list[int]) -> None:
        begun.set()
        if 2 in items:
            raise ValueError("no crop")

    stages.during = during
    with pytest.raises(ValueError, match="no crop"):
        stages.start(4).result(WAIT_S)
    stages.during = lambda items: None
    assert stages.start(1).result(WAIT_S) == (1, [1])  # and the thread goes on


def test_items_that_are_refused_refuse_the_whole(stages: Stages) -> None:
    def others() -> None:
        stages.batcher.submit([7] * 8)

    with busy(stages):
        future = stages.start(2, others)
    with pytest.raises(OverloadedError):
        future.result(WAIT_S)


def test_cancelled_before_the_first_stage_nothing_is_run_and_the_place_is_free(stages: Stages) -> None:
    with busy(stages):
        futures = [stages.start(1) for _ in range(8)]
        with pytest.raises(OverloadedError):
            stages.start(1)
        assert futures[3].cancel()
        stages.start(1)
    assert sum(each.result(WAIT_S)[0] for each in futures if not each.cancelled()) == 7
    with pytest.raises(CancelledError):
        futures[3].result(WAIT_S)


def test_cancelled_during_the_first_stage_the_second_is_never_run(stages: Stages) -> None:
    gate = Gate()
    future = stages.start(3, gate)
    assert gate.begun.acquire(timeout=WAIT_S)
    assert future.cancel()
    gate.may_end.set()
    stages.start(1).result(WAIT_S)
    assert stages.batches == [[1]]


def test_cancelled_while_its_items_wait_they_are_never_run(apart: Stages) -> None:
    gate = Gate()
    apart.during = lambda items: gate() if items == [7] else None
    slow = apart.batcher.submit([7])
    assert gate.begun.acquire(timeout=WAIT_S)
    waiting, kept = apart.start(3), apart.start(1)
    apart.pool.start(lambda: None).result(WAIT_S)  # behind both first stages
    assert apart.batcher.waiting == 4
    assert waiting.cancel()
    gate.may_end.set()
    assert kept.result(WAIT_S) == (1, [1])
    assert slow[0].result(WAIT_S) == 49
    assert apart.batches == [[7], [1]]


def test_a_caller_that_is_cancelled_in_the_loop_takes_its_items_along(stages: Stages) -> None:
    async def scenario() -> None:
        with busy(stages):
            waiting = asyncio.ensure_future(asyncio.wrap_future(stages.start(3)))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.sleep(0)
            assert stages.pool.pending == 1

    asyncio.run(scenario())
    stages.start(1).result(WAIT_S)
    assert stages.batches == [[1]]


def test_items_are_as_urgent_as_the_caller_was(stages: Stages) -> None:
    order: list[int] = []
    stages.during = order.extend
    with busy(stages):
        with in_bulk():
            bulk = stages.start(2)
        interactive = stages.start(1)
    assert (bulk.result(WAIT_S)[0], interactive.result(WAIT_S)[0]) == (2, 1)
    assert order == [1, 1, 2]
    assert not urgency().bulk


def test_items_whose_deadline_passes_during_the_first_stage_are_not_run(stages: Stages) -> None:
    with due_in(0.05):
        future = stages.start(2, lambda: time.sleep(0.1))
    with pytest.raises(DeadlineExceededError):
        future.result(WAIT_S)
    assert stages.batches == []


def test_closed_it_refuses(stages: Stages) -> None:
    stages.pool.close()
    with pytest.raises(NotReadyError):
        stages.start(1)


def test_what_was_answered_is_gone_without_the_garbage_collector(stages: Stages) -> None:
    class Crop:
        """Something that can be watched."""

    def first(crops: list[Crop]) -> list[Crop]:
        return crops

    one_by_one: Batcher[Crop, int] = Batcher("ones", lambda crops: [1] * len(crops), BatcherOptions(), stages.crews[0])
    gc.disable()
    try:
        watched = []
        for count in (1, 3):
            crops = [Crop() for _ in range(count)]
            watched += [weakref.ref(crop) for crop in crops]
            in_two_stages(stages.pool, partial(first, crops), list, one_by_one).result(WAIT_S)
        crops = [Crop(), Crop()]
        watched += [weakref.ref(crop) for crop in crops]
        refused = in_two_stages(stages.pool, partial(first, crops), _refuse, one_by_one)
        broken = in_two_stages(stages.pool, partial(_refuse, crops), list, one_by_one)
        assert [type(each.exception(WAIT_S)) for each in (refused, broken)] == [ValueError, ValueError]
        del crops, refused, broken
        stages.pool.start(int).result(WAIT_S)  # the thread has something else in its hands
        wait_until(lambda: not [each for each in watched if each() is not None])
    finally:
        gc.enable()


def _refuse(_: object) -> list[object]:
    raise ValueError("refused")


def test_given_up_during_the_first_stage_nothing_is_queued_for_the_second(apart: Stages) -> None:
    gate = Gate()
    given_up = apart.start(3, gate)
    assert gate.begun.acquire(timeout=WAIT_S)
    seen = []
    given_up.cancel()
    held = Gate()
    apart.during = lambda items: held()
    (blocking,) = apart.batcher.submit([7])
    assert held.begun.acquire(timeout=WAIT_S)
    gate.may_end.set()
    apart.pool.start(lambda: seen.append(apart.batcher.waiting)).result(WAIT_S)
    held.may_end.set()
    assert blocking.result(WAIT_S) == 49
    assert seen == [0]


def test_items_that_are_no_whole_batch_do_not_wait_for_ever_for_photos_without_any() -> None:
    both = Stages(1, full=4)
    goes_on = threading.Event()
    goes_on.set()

    def again() -> None:
        """A photo without a face, and the next one."""
        time.sleep(0.002)
        if goes_on.is_set():
            both.start(0, again)

    for _ in range(3):
        both.start(0, again)
    try:
        assert both.start(1).result(WAIT_S) == (1, [1])
    finally:
        goes_on.clear()
        both.crews[0].close()
