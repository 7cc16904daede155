"""Two classes, deadlines, admission by expected waiting time, and several stages that share their threads."""

import asyncio
import math
import threading
from collections.abc import Iterator

import pytest

from service.errors import DeadlineExceededError, OverloadedError
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import Crew
from service.inference.pool import PhotoPool
from service.inference.urgency import Urgency, due_in, in_bulk, urgency

WAIT_S = 20
BULK = Urgency(bulk=True)


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Notes batches in order; each waits until the gate is opened."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, items: list[str]) -> list[str]:
        self.batches.append(items)
        self.begun.release()
        assert self._open.wait(WAIT_S)
        return items

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def _busy(gate: Gate, clock: Clock | None = None, **options: int) -> Batcher[str, str]:
    """A batcher whose one worker is held by the item "first"."""
    batcher: Batcher[str, str] = Batcher("test", gate, BatcherOptions(**options), clock=clock or Clock())
    batcher.submit(["first"])
    assert gate.begun.acquire(timeout=WAIT_S)
    return batcher


def _finish(batcher: Batcher[str, str], gate: Gate) -> None:
    gate.open()
    batcher.close()


def test_interactive_items_go_before_bulk_items_that_came_earlier(gate: Gate) -> None:
    batcher = _busy(gate, max_batch=2)
    batcher.submit(["bulk 1", "bulk 2", "bulk 3"], BULK)
    batcher.submit(["a", "b", "c"])

    _finish(batcher, gate)

    assert gate.batches == [["first"], ["a", "b"], ["c", "bulk 1"], ["bulk 2", "bulk 3"]]


def test_bulk_items_take_no_place_from_interactive_ones(gate: Gate) -> None:
    batcher = _busy(gate, max_queue=3)
    batcher.submit(["bulk 1", "bulk 2", "bulk 3"], BULK)
    with pytest.raises(OverloadedError):
        batcher.submit(["bulk 4"], BULK)

    batcher.submit(["a", "b", "c"])
    with pytest.raises(OverloadedError):
        batcher.submit(["d"])

    _finish(batcher, gate)
    assert sum(map(len, gate.batches)) == 7


def test_an_item_whose_deadline_passed_while_it_waited_is_never_run(gate: Gate) -> None:
    clock = Clock()
    batcher = _busy(gate, clock)
    (late,) = batcher.submit(["late"], Urgency(deadline=clock() + 5))
    (early,) = batcher.submit(["in time"], Urgency(deadline=clock() + 50))
    clock.now += 6

    _finish(batcher, gate)

    assert isinstance(late.exception(WAIT_S), DeadlineExceededError)
    assert early.result(WAIT_S) == "in time"
    assert gate.batches == [["first"], ["in time"]]


def test_an_item_that_is_too_late_frees_its_place_in_a_full_queue(gate: Gate) -> None:
    clock = Clock()
    batcher = _busy(gate, clock, max_queue=1)
    (late,) = batcher.submit(["late"], Urgency(deadline=clock() + 5))
    with pytest.raises(OverloadedError):
        batcher.submit(["refused"])
    clock.now += 6

    batcher.submit(["taken"])

    assert isinstance(late.exception(WAIT_S), DeadlineExceededError)
    _finish(batcher, gate)
    assert gate.batches == [["first"], ["taken"]]


def _with_cost(gate: Gate, seconds: float) -> tuple[Batcher[str, str], Clock]:
    """A busy batcher that has seen items of so many seconds."""
    clock = Clock()
    batcher = _busy(gate, clock, max_queue=1000)
    batcher.settle(0, seconds)
    return batcher, clock


def test_an_item_is_refused_at_once_if_its_turn_would_come_after_its_deadline(gate: Gate) -> None:
    batcher, clock = _with_cost(gate, seconds=0.5)
    batcher.submit([f"{n}" for n in range(10)])

    with pytest.raises(OverloadedError, match=r"takes about 7\.19 s now, the deadline is in 3\.00 s") as no:
        batcher.submit(["refused"], Urgency(deadline=clock() + 3))
    assert no.value.details["retry_after_s"] == 5  # then the queue is short enough for this deadline

    (taken,) = batcher.submit(["taken"], Urgency(deadline=clock() + 8))
    _finish(batcher, gate)
    assert taken.result(WAIT_S) == "taken"


def test_what_runs_counts_too_where_nothing_waits(gate: Gate) -> None:
    batcher, clock = _with_cost(gate, seconds=10.0)

    with pytest.raises(OverloadedError, match=r"takes about 18\.75 s now"):  # half of one, then its own, and a margin
        batcher.submit(["refused"], Urgency(deadline=clock() + 15))

    _finish(batcher, gate)
    assert gate.batches == [["first"]]


def test_bulk_items_ahead_do_not_count_against_an_interactive_deadline(gate: Gate) -> None:
    batcher, clock = _with_cost(gate, seconds=0.5)
    batcher.submit([f"{n}" for n in range(100)], BULK)

    (taken,) = batcher.submit(["taken"], Urgency(deadline=clock() + 2))
    with pytest.raises(OverloadedError):
        batcher.submit(["refused"], Urgency(bulk=True, deadline=clock() + 2))

    _finish(batcher, gate)
    assert taken.result(WAIT_S) == "taken"


def test_an_idle_batcher_takes_an_item_whatever_its_deadline(gate: Gate) -> None:
    clock = Clock()
    batcher: Batcher[str, str] = Batcher("test", gate, BatcherOptions(), clock=clock)
    batcher.settle(0, 100.0)
    gate.open()

    (taken,) = batcher.submit(["taken"], Urgency(deadline=clock() + 1))

    assert taken.result(WAIT_S) == "taken"
    batcher.close()


def test_retry_after_of_a_full_queue_is_the_time_in_which_half_of_it_is_done(gate: Gate) -> None:
    clock = Clock()
    batcher = _busy(gate, clock, max_queue=14)
    batcher.settle(0, 1.0)
    batcher.submit([f"{n}" for n in range(14)])

    with pytest.raises(OverloadedError) as refused:
        batcher.submit(["refused"])

    assert refused.value.details["retry_after_s"] == 10
    _finish(batcher, gate)


def test_with_a_delay_a_batch_waits_until_it_is_full(gate: Gate) -> None:
    gate.open()
    options = BatcherOptions(max_batch=3, max_delay_s=3600)
    batcher: Batcher[str, str] = Batcher("test", gate, options)
    futures = [*batcher.submit(["a"]), *batcher.submit(["b"])]
    assert not any(future.done() for future in futures)

    futures += batcher.submit(["c"])

    assert [future.result(WAIT_S) for future in futures] == ["a", "b", "c"]
    assert gate.batches == [["a", "b", "c"]]
    batcher.close()


def test_a_batch_that_does_not_fill_leaves_after_the_delay(gate: Gate) -> None:
    gate.open()
    batcher: Batcher[str, str] = Batcher("test", gate, BatcherOptions(max_batch=3, max_delay_s=0.01))

    assert batcher.submit(["a"])[0].result(WAIT_S) == "a"
    batcher.close()


def test_closing_sends_off_what_waits_for_company(gate: Gate) -> None:
    gate.open()
    batcher: Batcher[str, str] = Batcher("test", gate, BatcherOptions(max_batch=3, max_delay_s=3600))
    (future,) = batcher.submit(["a"])

    batcher.close()

    assert future.result(WAIT_S) == "a"


def test_a_crew_does_a_full_batch_of_the_later_stage_first_and_else_the_earlier_stage(gate: Gate) -> None:
    crew = Crew("test", 1)
    crops: Batcher[str, str] = Batcher("crops", gate, BatcherOptions(max_batch=2, full=2), crew)
    photos: Batcher[str, str] = Batcher("photos", gate, BatcherOptions(max_batch=1, first_stage=True), crew)
    photos.submit(["first"])
    assert gate.begun.acquire(timeout=WAIT_S)
    photos.submit(["photo"])
    photos.submit(["photo in bulk"], BULK)
    crops.submit(["crop 1", "crop 2", "crop 3"])
    crops.submit(["crop in bulk"], BULK)

    gate.open()
    crew.close()

    assert gate.batches == [["first"], ["crop 1", "crop 2"], ["photo"], ["crop 3", "crop in bulk"], ["photo in bulk"]]


def test_what_is_done_one_by_one_is_not_done_for_both_classes_in_one_go(gate: Gate) -> None:
    crops: Batcher[str, str] = Batcher("crops", gate, BatcherOptions(max_batch=4, max_run_s=3600))
    crops.submit(["first"])
    assert gate.begun.acquire(timeout=WAIT_S)
    crops.submit(["in bulk 1", "in bulk 2"], BULK)
    crops.submit(["crop 1", "crop 2", "crop 3"])

    gate.open()
    crops.close()

    assert gate.batches == [["first"], ["crop 1", "crop 2", "crop 3"], ["in bulk 1", "in bulk 2"]]


def test_what_a_row_costs_is_learnt_as_fast_as_that_of_its_items_one_by_one(gate: Gate) -> None:
    rows, items = (Batcher[str, str](name, gate, BatcherOptions(max_batch=8)) for name in ("rows", "items"))
    for batcher in (rows, items):
        batcher.settle(1, 0.01)
    rows.settle(8, 8 * 0.02)
    for _ in range(8):
        items.settle(1, 0.02)

    assert rows.cost_s() == pytest.approx(items.cost_s())
    for batcher in (rows, items):
        batcher.close()


def test_who_comes_is_told_of_the_row_that_they_would_wait_for_and_of_none_where_nothing_is_to_be_done(
    gate: Gate,
) -> None:
    crew = Crew("test", 1)
    crops: Batcher[str, str] = Batcher("crops", gate, BatcherOptions(max_batch=8, max_run_s=3600), crew)
    crops.settle(0, 0.1)
    crops._size = 5.0  # rows have had so many lately
    with crew.changed:
        assert crew.expected_wait_s(bulk=False) == 0
    crops.submit(["first"])
    assert gate.begun.acquire(timeout=WAIT_S)

    with crew.changed:
        expected = crew.expected_wait_s(bulk=False)
    assert expected == pytest.approx(0.1 / 2 + 4 * 0.1)  # half of what runs, then the others of a row
    gate.open()
    crew.close()


@pytest.mark.parametrize(("waited_s", "first"), [(0.04, "photo"), (0.06, "crop")])
def test_a_crop_waits_for_a_row_a_quarter_as_long_as_a_row_takes(gate: Gate, waited_s: float, first: str) -> None:
    clock = Clock()
    crew = Crew("test", 1, clock)
    crops: Batcher[str, str] = Batcher("crops", gate, BatcherOptions(max_batch=8, full=8, max_run_s=0.2), crew)
    photos: Batcher[str, str] = Batcher("photos", gate, BatcherOptions(max_batch=1, first_stage=True), crew)
    photos.submit(["held"])
    assert gate.begun.acquire(timeout=WAIT_S)
    crops.submit(["crop"])
    photos.submit(["photo"])
    clock.now += waited_s

    gate.open()
    crew.close()

    assert gate.batches[1] == [first]


def test_places_that_interactive_items_gave_up_are_not_filled_with_bulk(gate: Gate) -> None:
    crops: Batcher[str, str] = Batcher("crops", gate, BatcherOptions(max_batch=8, max_run_s=3600))
    crops.submit(["first"])
    assert gate.begun.acquire(timeout=WAIT_S)
    crops.submit(["in bulk 1", "in bulk 2"], BULK)
    gone = crops.submit(["crop 1", "crop 2", "crop 3"])
    assert gone[0].cancel()
    assert gone[2].cancel()

    gate.open()
    crops.close()

    assert gate.batches == [["first"], ["crop 2"], ["in bulk 1", "in bulk 2"]]


def test_in_bulk_one_by_one_is_taken_for_a_quarter_as_long(gate: Gate) -> None:
    crops: Batcher[str, str] = Batcher("crops", gate, BatcherOptions(max_batch=8, max_run_s=0.424))
    crops.submit(["first"])
    assert gate.begun.acquire(timeout=WAIT_S)
    crops.settle(0, 0.04)
    crops.submit([f"in bulk {number}" for number in range(8)], BULK)

    gate.open()
    crops.close()

    assert gate.batches[1] == ["in bulk 0", "in bulk 1"]


def test_a_photo_is_refused_by_what_its_later_stages_will_cost() -> None:
    crew, entered, go = Crew("test", 1), threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go.wait(WAIT_S)

    async def scenario() -> None:
        pool = PhotoPool(crew, max_waiting=100, then_s=lambda: 10.0)
        running = asyncio.ensure_future(pool.run(hold))
        assert await asyncio.to_thread(entered.wait, WAIT_S)
        waiting = asyncio.ensure_future(pool.run(abs, -1))
        await asyncio.sleep(0)
        with due_in(15), pytest.raises(OverloadedError, match="takes about 31"):
            await pool.run(abs, -2)
        go.set()
        await running
        assert await waiting == 1

    asyncio.run(scenario())
    crew.close()


def test_urgency_travels_with_the_request_and_ends_with_it() -> None:
    async def inner() -> Urgency:
        return urgency()

    async def scenario() -> tuple[Urgency, Urgency]:
        with due_in(100):
            interactive = asyncio.create_task(inner())
            with in_bulk():
                bulk = asyncio.create_task(inner())
        return await interactive, await bulk

    interactive, bulk = asyncio.run(scenario())

    assert (interactive.bulk, bulk.bulk) == (False, True)
    assert interactive.deadline == bulk.deadline < math.inf
    assert urgency() == Urgency()


def test_a_request_inherits_nothing_from_the_one_before_it() -> None:
    with due_in(1), in_bulk():
        first = urgency().deadline
        with due_in(100):
            assert urgency().deadline > first
            assert not urgency().bulk
