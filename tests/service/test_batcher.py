"""Batches: who gets which result, when a batch leaves, and what happens at the limits."""

import itertools
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import pytest
from live_server import wait_until

from service.errors import NotReadyError, OverloadedError
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import Crew
from service.inference.line import Entry, Line
from service.inference.urgency import Urgency

WAIT_S = 20


class Squares:
    """Squares the items of a batch. Says when a batch has begun; `hold` keeps it from ending."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.release()
        assert self.may_end.wait(WAIT_S)
        return [item * item for item in items]

    def hold(self) -> None:
        self.may_end.clear()

    def let_go(self) -> None:
        self.may_end.set()


@pytest.fixture
def squares() -> Iterator[Squares]:
    function = Squares()
    yield function
    function.let_go()


@pytest.fixture
def start(squares: Squares) -> Iterator[Callable[..., Batcher[int, int]]]:
    """Starts batchers, and stops them when the test is over."""
    started: list[Batcher[int, int]] = []

    def begin(
        function: Callable[[list[int]], Sequence[int]] = squares, *, busy: bool = False, **options: Any
    ) -> Batcher[int, int]:
        batcher: Batcher[int, int] = Batcher("test", function, BatcherOptions(**options))
        started.append(batcher)
        if busy:
            squares.hold()
            batcher.submit([0])
            assert squares.begun.acquire(timeout=WAIT_S)
        return batcher

    yield begin
    squares.let_go()
    for batcher in started:
        batcher.close()


def test_results_belong_to_their_items_under_many_threads(start: Callable[..., Batcher[int, int]]) -> None:
    batcher = start(max_batch=8, max_queue=10_000, workers=3)
    wrong: list[tuple[int, int]] = []
    together = threading.Barrier(16)

    def call(number: int) -> None:
        chance = random.Random(number)
        together.wait(WAIT_S)
        for _ in range(60):
            items = [chance.randrange(10**6) for _ in range(chance.randint(1, 5))]
            for item, future in zip(items, batcher.submit(items), strict=True):
                result = future.result(WAIT_S)
                if result != item * item:
                    wrong.append((item, result))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert batcher.waiting == 0


def test_an_item_leaves_at_once_and_alone_when_a_worker_is_idle(
    start: Callable[..., Batcher[int, int]], squares: Squares
) -> None:
    batcher = start(max_batch=8)
    begin = time.monotonic()

    for item in range(300):
        assert batcher.submit([item])[0].result(WAIT_S) == item * item

    # A timer of 10 ms, the shortest that would collect anything, would make this 3 seconds.
    assert time.monotonic() - begin < 3
    assert squares.batches == [[item] for item in range(300)]


def test_a_batch_fills_while_the_worker_is_busy(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    batcher = start(busy=True, max_batch=8)
    futures = [batcher.submit([item])[0] for item in range(1, 6)]
    assert batcher.waiting == 5

    squares.let_go()

    assert [future.result(WAIT_S) for future in futures] == [1, 4, 9, 16, 25]
    assert squares.batches == [[0], [1, 2, 3, 4, 5]]


def test_no_batch_is_larger_than_the_limit(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    batcher = start(busy=True, max_batch=8)
    futures = batcher.submit(range(1, 21))

    squares.let_go()

    assert [future.result(WAIT_S) for future in futures] == [item * item for item in range(1, 21)]
    assert [len(batch) for batch in squares.batches] == [1, 8, 8, 4]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_whatever_items_fail_fail_alone(start: Callable[..., Batcher[int, int]], size: int) -> None:
    entered, may_go = threading.Event(), threading.Event()
    bad: set[int] = set()

    def function(items: list[int]) -> list[int]:
        if items == [-1]:  # holds the worker until a whole batch is waiting
            entered.set()
            assert may_go.wait(WAIT_S)
        if bad & set(items):
            raise ValueError(f"cannot do {sorted(bad & set(items))}")
        return [10 * item for item in items]

    for bad_ones in itertools.chain.from_iterable(itertools.combinations(range(size), n) for n in range(size + 1)):
        batcher = start(function, max_batch=8)
        entered.clear()
        may_go.clear()
        bad = set(bad_ones)
        batcher.submit([-1])
        assert entered.wait(WAIT_S)
        futures = batcher.submit(range(size))
        may_go.set()

        for item, future in enumerate(futures):
            if item in bad:
                assert str(future.exception(WAIT_S)) == f"cannot do [{item}]"
            else:
                assert future.result(WAIT_S) == 10 * item


def test_after_a_failed_batch_the_worker_goes_on(start: Callable[..., Batcher[int, int]]) -> None:
    batcher = start(lambda items: [1 // item for item in items])

    (bad,) = batcher.submit([0])
    assert isinstance(bad.exception(WAIT_S), ZeroDivisionError)
    (good,) = batcher.submit([1])
    assert good.result(WAIT_S) == 1


@pytest.mark.parametrize("output", [[], [1, 2], None])
def test_another_number_of_results_than_items_is_an_error_of_the_item(
    start: Callable[..., Batcher[int, int]], output: list[int]
) -> None:
    batcher = start(lambda _: output)

    (future,) = batcher.submit([7])

    assert isinstance(future.exception(WAIT_S), RuntimeError | TypeError)


def test_cancelled_items_are_never_run(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    batcher = start(busy=True, max_batch=2)
    futures = batcher.submit([1, 2, 3, 4])
    assert futures[1].cancel()
    assert futures[3].cancel()

    squares.let_go()

    assert futures[0].result(WAIT_S) == 1
    assert futures[2].result(WAIT_S) == 9
    # The places of those who left are taken by the next, so both that stayed share a batch.
    assert squares.batches == [[0], [1, 3]]
    with pytest.raises(CancelledError):
        futures[1].result(WAIT_S)


def test_an_item_that_runs_can_no_longer_be_cancelled(
    start: Callable[..., Batcher[int, int]], squares: Squares
) -> None:
    squares.hold()
    (future,) = start().submit([3])
    assert squares.begun.acquire(timeout=WAIT_S)

    assert not future.cancel()
    squares.let_go()

    assert future.result(WAIT_S) == 9


def test_a_full_queue_takes_all_of_a_group_or_none(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    batcher = start(busy=True, max_queue=4)
    batcher.submit([1, 2, 3])

    with pytest.raises(OverloadedError) as refused:
        batcher.submit([4, 5])
    assert refused.value.details["retry_after_s"] >= 1
    assert batcher.waiting == 3

    (last,) = batcher.submit([6])
    with pytest.raises(OverloadedError):
        batcher.submit([7])
    squares.let_go()
    assert last.result(WAIT_S) == 36
    assert sorted(itertools.chain(*squares.batches)) == [0, 1, 2, 3, 6]


def test_a_cancelled_item_frees_its_place_in_a_full_queue(
    start: Callable[..., Batcher[int, int]], squares: Squares
) -> None:
    batcher = start(busy=True, max_queue=2)
    first, second = batcher.submit([1, 2])
    assert first.cancel()

    (third,) = batcher.submit([3])
    with pytest.raises(OverloadedError):
        batcher.submit([4])

    squares.let_go()
    assert (second.result(WAIT_S), third.result(WAIT_S)) == (4, 9)


def test_a_group_larger_than_the_queue_is_taken_when_nothing_waits(
    start: Callable[..., Batcher[int, int]], squares: Squares
) -> None:
    batcher = start(busy=True, max_batch=4, max_queue=3)

    futures = batcher.submit(range(1, 11))
    with pytest.raises(OverloadedError):
        batcher.submit([11])

    squares.let_go()
    assert [future.result(WAIT_S) for future in futures] == [item * item for item in range(1, 11)]
    assert max(len(batch) for batch in squares.batches) == 4


def test_an_empty_group_is_no_work(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    assert start().submit([]) == []
    assert squares.batches == []


def test_close_finishes_what_waits_and_then_refuses(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    batcher = start(busy=True, max_batch=2)
    futures = batcher.submit([1, 2, 3, 4, 5])
    closing = threading.Thread(target=batcher.close)
    closing.start()

    squares.let_go()
    closing.join(WAIT_S)

    assert not closing.is_alive()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [1, 4, 9, 16, 25]
    with pytest.raises(NotReadyError):
        batcher.submit([6])


def test_several_workers_run_at_the_same_time(start: Callable[..., Batcher[int, int]]) -> None:
    together = threading.Barrier(3)

    def function(items: list[int]) -> list[int]:
        together.wait(WAIT_S)  # breaks, and with it the test, unless three batches meet here
        return items

    futures = start(function, max_batch=1, workers=3).submit([1, 2, 3])

    assert [future.result(WAIT_S) for future in futures] == [1, 2, 3]


def test_workers_share_what_is_done_one_by_one(start: Callable[..., Batcher[int, int]], squares: Squares) -> None:
    squares.hold()
    batcher = start(max_batch=8, workers=3, max_run_s=3600)
    batcher.submit([0])
    assert squares.begun.acquire(timeout=WAIT_S)

    futures = batcher.submit(range(1, 12))  # two workers are free
    for _ in range(2):
        assert squares.begun.acquire(timeout=WAIT_S)
    squares.let_go()

    assert [future.result(WAIT_S) for future in futures] == [item * item for item in range(1, 12)]
    assert sorted(len(batch) for batch in squares.batches[1:3]) == [3, 4]  # a third of 11, and of the 7 that are left


@pytest.mark.parametrize(("photos_in_bulk", "sizes"), [(False, [8]), (True, [4, 2])])
def test_a_share_is_of_all_that_waits_as_urgently_in_any_queue(photos_in_bulk: bool, sizes: list[int]) -> None:
    crew = Crew("two", 2)
    both, squares = threading.Barrier(3), Squares()
    photos: Batcher[int, int] = Batcher("photos", Squares(), BatcherOptions(max_batch=1, first_stage=True), crew)

    def hold(items: list[int]) -> list[int]:
        both.wait(WAIT_S)
        both.wait(WAIT_S)
        return items

    holding: Batcher[int, int] = Batcher("hold", hold, BatcherOptions(max_batch=1), crew)
    crops: Batcher[int, int] = Batcher("crops", squares, BatcherOptions(max_batch=8, full=8, max_run_s=3600), crew)
    holding.submit([1, 2])
    both.wait(WAIT_S)
    squares.hold()
    futures = crops.submit(range(8)) + photos.submit(range(8), Urgency(bulk=photos_in_bulk))
    both.wait(WAIT_S)
    for _ in sizes:
        assert squares.begun.acquire(timeout=WAIT_S)
    squares.let_go()

    for future in futures:
        future.result(WAIT_S)
    crew.close()
    assert [len(batch) for batch in squares.batches][: len(sizes)] == sizes


def test_what_is_done_one_by_one_is_taken_for_so_long_at_most(
    start: Callable[..., Batcher[int, int]], squares: Squares
) -> None:
    batcher = start(busy=True, max_batch=8, max_run_s=0.106)
    batcher.settle(0, 0.04)  # what an item costs; by the one that is held it becomes 0.036 to 0.052
    futures = batcher.submit(range(1, 9))
    squares.let_go()

    assert [future.result(WAIT_S) for future in futures] == [item * item for item in range(1, 9)]
    assert squares.batches[1] == [1, 2]


def test_two_queues_of_one_stage_take_turns_by_who_has_waited_longest() -> None:
    crew = Crew("turns", 1)
    order: list[str] = []
    hold, begun = threading.Event(), threading.Event()

    def run(name: str, items: list[int]) -> list[int]:
        begun.set()
        assert hold.wait(WAIT_S)
        order.append(name)
        return items

    queues = {
        name: Batcher(name, partial(run, name), BatcherOptions(max_batch=2, max_queue=99, full=2, predict=False), crew)
        for name in ("a", "b")
    }
    first = queues["a"].submit([0])
    assert begun.wait(WAIT_S)
    waiting = [future for name in "abbaab" for future in queues[name].submit([1, 2])]
    hold.set()
    for future in (*first, *waiting):
        future.result(WAIT_S)
    crew.close()
    assert "".join(order) == "a" + "abbaab"


def test_a_queue_that_was_closed_at_work_leaves_the_crew_when_it_is_done() -> None:
    crew = Crew("leaving", 1)
    hold, begun = threading.Event(), threading.Event()

    def run(items: list[int]) -> list[int]:
        begun.set()
        assert hold.wait(WAIT_S)
        return items

    queue: Batcher[int, int] = Batcher("leaving", run, BatcherOptions(), crew)
    gone = weakref.ref(queue)
    futures = queue.submit([1]) + queue.submit([2])
    assert begun.wait(WAIT_S)
    queue.close()
    hold.set()
    assert [each.result(WAIT_S) for each in futures] == [1, 2]
    del queue, run
    wait_until(lambda: gone() is None)
    crew.close()


def test_an_error_keeps_its_story_and_not_the_frames_in_which_the_photo_is(
    start: Callable[..., Batcher[int, int]],
) -> None:
    def fail(items: list[int]) -> list[int]:
        try:
            raise KeyError("what was the matter")
        except KeyError as cause:
            if items[0]:
                raise ZeroDivisionError("a bug") from cause
            raise OverloadedError("no room") from cause

    bug, refusal = (start(fail).submit([item])[0].exception(WAIT_S) for item in (1, 0))
    assert isinstance(bug, ZeroDivisionError)
    assert isinstance(refusal, OverloadedError)
    for error in (bug, refusal, bug.__cause__, refusal.__cause__):
        assert error is not None
        assert error.__traceback__ is None or error in (bug, refusal)
    assert "what was the matter" in bug.__notes__[0]
    assert "in fail" in bug.__notes__[0]
    assert not hasattr(refusal, "__notes__")


def test_a_cancelled_item_is_noticed_whatever_else_ends_at_that_moment() -> None:
    line: Line[int, int] = Line()
    done: Future[int] = Future()
    gone: Future[int] = Future()
    line.add([Entry(1, done, Urgency(), 0.0), Entry(2, gone, Urgency(), 0.0)])
    gone.cancel()
    done.set_result(1)
    line.drop_gone(1.0)
    assert len(line) == 1
