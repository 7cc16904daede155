"""The exact index against a reference in NumPy."""

import contextlib
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import wait_until
from numpy.typing import NDArray

from models.preprocess import l2_normalize
from service.gallery.blocks import Block, Nearest, _possible
from service.gallery.index import ExactIndex
from service.gallery.quantised import Probes, quantised
from service.gallery.sharing import Lanes, Shared, Together

Vectors = NDArray[np.float32]

CHANGES = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 20)),
    st.tuples(st.just("remove"), st.lists(st.integers(0, 120), max_size=8)),
    st.tuples(st.just("search"), st.integers(1, 150)),
)


def _units(seed: int, count: int, dimension: int) -> Vectors:
    return l2_normalize(np.random.default_rng(seed).normal(size=(count, dimension)))


def _assert_nearest(found: list[tuple[int, float]], rows: dict[int, Vectors], probe: Vectors, limit: int) -> None:
    """Rank by rank the reference's score, and each row with its own: ids may differ only where scores are equal."""
    scores = {row: float(vector.astype(np.float64) @ probe.astype(np.float64)) for row, vector in rows.items()}
    best = sorted(scores.values(), reverse=True)[:limit]
    assert [score for _, score in found] == pytest.approx(best, abs=1e-6)
    assert [score for _, score in found] == pytest.approx([scores[row] for row, _ in found], abs=1e-6)
    assert len({row for row, _ in found}) == len(found) == min(limit, len(rows))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    changes=st.lists(CHANGES, min_size=1, max_size=30), seed=st.integers(0, 2**32 - 1), dimension=st.integers(2, 130)
)
def test_any_order_of_additions_removals_and_searches_equals_the_reference(
    changes: list[tuple[str, Any]], seed: int, dimension: int
) -> None:
    index = ExactIndex(dimension)
    index._capacity = 7  # several blocks, which fill up, empty and are filled again
    reference: dict[int, Vectors] = {}
    next_row = 1

    for step, (change, value) in enumerate(changes):
        vectors = _units(seed + step, value if change == "add" else 1, dimension)
        if change == "add":
            rows = list(range(next_row, next_row + value))
            next_row += value
            index.add(rows, vectors)
            reference.update(zip(rows, vectors, strict=True))
        elif change == "remove":
            index.remove(value)
            for row in value:
                reference.pop(row, None)
        else:
            _assert_nearest(index.search(vectors[0], value), reference, vectors[0], value)
        assert len(index) == len(reference)
        assert index.rows() == set(reference)
    kept = {int(row): vector for part in index.parts() for row, vector in zip(*part.copy(), strict=True)}
    assert kept.keys() == reference.keys()
    assert all(np.array_equal(kept[row], vector) for row, vector in reference.items())


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_adopted_vectors_are_searched_added_to_and_removed_like_others(count: int) -> None:
    vectors = _units(7, count + 70, 16)
    index = ExactIndex(16, lanes=Lanes(2))
    index._capacity = 64
    reference = dict(enumerate(vectors))

    index.adopt(range(count), vectors[:count].copy())
    index.add(range(count, count + 70), vectors[count:])
    index.remove(range(0, count, 3))
    index.add([1000, 1001], vectors[:2])

    for row in range(0, count, 3):
        del reference[row]
    reference |= {1000: vectors[0], 1001: vectors[1]}
    assert index.rows() == set(reference)
    for probe in _units(8, 5, 16):
        _assert_nearest(index.search(probe, 20), reference, probe, 20)
        _assert_nearest(index.compared(list(reference), probe), reference, probe, len(reference))


def test_a_read_only_array_is_copied_when_it_is_adopted() -> None:
    vectors = _units(9, 3, 4)
    vectors.flags.writeable = False
    index = ExactIndex(4)

    index.adopt([1, 2, 3], vectors)
    index.remove([1])

    assert index.rows() == {2, 3}
    assert vectors[0].any()


def test_an_empty_index_finds_nothing() -> None:
    index = ExactIndex(4)

    assert len(index) == 0
    assert index.search(_units(0, 1, 4)[0], 5) == []


def test_an_index_that_was_emptied_finds_nothing() -> None:
    index = ExactIndex(4)
    index.add([1, 2], _units(0, 2, 4))
    index.remove([1, 2])

    assert index.search(_units(0, 1, 4)[0], 5) == []


def test_a_limit_above_the_size_finds_everything_best_first() -> None:
    index = ExactIndex(3)
    index.add([10, 20, 30], np.array([[0, 1, 0], [1, 0, 0], [-1, 0, 0]], np.float32))

    assert index.search(np.array([1, 0, 0], np.float32), 1000) == [(20, 1.0), (10, 0.0), (30, -1.0)]


def test_removing_what_is_not_there_changes_nothing() -> None:
    index = ExactIndex(4)
    index.add([1], _units(0, 1, 4))

    index.remove([])
    index.remove([7, 2**40])

    assert len(index) == 1


def test_row_numbers_beyond_32_bits_are_kept() -> None:
    index = ExactIndex(2)
    index.add([2**40 + 1], np.array([[1, 0]], np.float32))

    assert index.search(np.array([1, 0], np.float32), 1) == [(2**40 + 1, 1.0)]


def test_searches_beside_additions_and_removals_are_right_about_every_row() -> None:
    dimension, count = 32, 600
    vectors = _units(1, count, dimension)
    probes = _units(2, 40, dimension)
    index = ExactIndex(dimension)
    errors: list[BaseException] = []
    stop = threading.Event()

    def guarded(work: Any) -> Any:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # an assertion of a thread must fail the test
                errors.append(error)

        return run

    def add() -> None:
        for row in range(0, count, 3):
            index.add(range(row, row + 3), vectors[row : row + 3])

    def remove() -> None:
        for row in range(0, count, 2):
            index.remove([row])

    def search() -> None:
        turn = 0
        while not stop.is_set() or turn < 20:
            probe = probes[turn % len(probes)]
            found = index.search(probe, 10)
            scores = [score for _, score in found]
            assert scores == sorted(scores, reverse=True)
            assert scores == pytest.approx([float(vectors[row] @ probe) for row, _ in found], abs=1e-6)
            turn += 1

    changing = [threading.Thread(target=guarded(work)) for work in (add, remove)]
    searching = [threading.Thread(target=guarded(search)) for _ in range(3)]
    for thread in (*changing, *searching):
        thread.start()
    for thread in changing:
        thread.join()
    stop.set()
    for thread in searching:
        thread.join()

    assert errors == []
    index.remove(range(0, count, 2))  # a row may have been removed before it was added
    left = {row: vectors[row] for row in range(1, count, 2)}
    _assert_nearest(index.search(probes[0], count), left, probes[0], count)


def test_faces_that_were_added_together_are_found_together() -> None:
    dimension, together = 8, 5
    index = ExactIndex(dimension)
    index._capacity = 3  # so that they never fit into one block
    vector = _units(3, 1, dimension)[0]
    errors: list[int] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            count = len(index.search(vector, 10_000))
            if count % together:
                errors.append(count)

    searching = [threading.Thread(target=search) for _ in range(2)]
    for thread in searching:
        thread.start()
    for turn in range(300):
        index.add(range(turn * together, (turn + 1) * together), np.tile(vector, (together, 1)))
    stop.set()
    for thread in searching:
        thread.join()

    assert errors == []
    assert len(index) == 300 * together


def test_a_removed_vector_does_not_stay_in_memory() -> None:
    index = ExactIndex(4)
    index.add([1, 2, 3], _units(4, 3, 4))

    index.remove([2, 3])

    (block,) = index._blocks
    assert block.count == 1
    assert not block.vectors[1:3].any()


def test_blocks_that_were_emptied_are_given_back() -> None:
    index = ExactIndex(4)
    index._capacity = 10
    index.add(range(100), _units(5, 100, 4))

    index.remove(range(5, 100))

    assert len(index._blocks) == 1
    assert {row for row, _ in index.search(_units(6, 1, 4)[0], 50)} == set(range(5))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.integers(1, 200),
    count=st.integers(1, 300),
    probes=st.integers(1, 6),
    limit=st.integers(1, 40),
    spread=st.sampled_from((0.0, 1e-6, 1e-4, 1e-2, 1.0)),
)
def test_a_search_by_codes_is_exact_even_among_vectors_that_the_codes_cannot_tell_apart(
    seed: int, dimension: int, count: int, probes: int, limit: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = l2_normalize(1 + spread * rng.normal(size=(count, dimension)) + 1e-9)
    asked = l2_normalize(1 + spread * rng.normal(size=(probes, dimension)) + 1e-9)
    index = ExactIndex(dimension, lanes=Lanes(2))
    index._capacity = 64
    index.add(range(count), vectors)

    found = index.search_all(asked, limit)

    for probe, each in zip(asked, found, strict=True):
        _assert_nearest(each, dict(enumerate(vectors)), probe, limit)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), dimension=st.integers(1, 600), probes=st.integers(1, 6), heavy=st.booleans())
def test_a_score_by_codes_is_no_further_from_the_true_one_than_its_margin(
    seed: int, dimension: int, probes: int, heavy: bool
) -> None:
    rng = np.random.default_rng(seed)
    draw = rng.standard_cauchy if heavy else rng.standard_normal  # with Cauchy's tails most of a vector is lost
    vectors = (draw((50, dimension)) * rng.uniform(0.1, 3, (50, 1)) / dimension).astype(np.float32)
    asked = Probes((draw((probes, dimension)) / dimension).astype(np.float32))
    codes = quantised(vectors)

    scores = asked.scores(codes.codes, codes.scales)
    margins = np.stack([asked.margins(lost, length) for lost, length in zip(codes.lost, codes.length, strict=True)])

    true = asked.vectors.astype(np.float64) @ vectors.astype(np.float64).T
    assert (np.abs(scores - true) <= margins.T).all()
    assert margins.max() <= 4 * (np.abs(true).max() + np.abs(asked.vectors).max() * np.abs(vectors).max() * dimension)


def test_all_but_a_few_vectors_are_told_apart_by_their_codes_alone() -> None:
    vectors = _units(0, 5000, 512)
    index = ExactIndex(512)
    index.add(range(5000), vectors)
    compared: list[int] = []
    (block,) = index._blocks
    rerank = Block._rerank

    def counted(self: Block, probe: Vectors, estimates: Vectors, margin: float, best: Nearest) -> None:
        compared.append(len(_possible(estimates, margin, best)))
        rerank(self, probe, estimates, margin, best)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "_rerank", counted)
        index.search(_units(1, 1, 512)[0], 10)

    assert block.count == 5000
    assert 10 <= compared[0] < 500


def test_searches_that_wait_for_one_another_are_answered_in_one_pass() -> None:
    began, go_on, passes = threading.Event(), threading.Event(), []

    def answer(asked: Any) -> list[int]:
        passes.append(list(asked))
        began.set()
        assert go_on.wait(10)
        return [2 * each for each in asked]

    together = Together(answer, most=3)
    answers: dict[int, int] = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: together.ask(n)})) for n in range(6)]
    threads[0].start()
    assert began.wait(10)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: len(together._waiting) == 5)
    go_on.set()
    for thread in threads:
        thread.join()

    assert answers == {n: 2 * n for n in range(6)}
    assert [len(each) for each in passes] == [1, 3, 2]


def test_an_error_of_a_pass_is_raised_for_all_that_it_was_to_answer_and_for_no_other() -> None:
    def answer(asked: Any) -> list[int]:
        if 0 in asked:
            raise ValueError("zero")
        return list(asked)

    together = Together(answer, most=8)

    with pytest.raises(ValueError, match="zero"):
        together.ask(0)
    assert together.ask(1) == 1


def test_lanes_do_each_item_once_and_raise_what_one_raises() -> None:
    with contextlib.closing(Lanes(3)) as lanes:
        done: list[int] = []
        lanes.each(done.append, range(100))
        assert sorted(done) == list(range(100))

        def fail(item: int) -> None:
            if item == 7:
                raise ValueError("seven")

        with pytest.raises(ValueError, match="seven"):
            lanes.each(fail, range(100))


def test_who_changes_what_is_shared_waits_for_who_reads_it_and_goes_before_who_comes_later() -> None:
    shared, order, leave = Shared(), [], threading.Event()

    def read(name: str) -> None:
        with shared.reading():
            order.append(name)
            assert leave.wait(10)

    def change() -> None:
        with shared.changing():
            order.append("change")

    first, changing = threading.Thread(target=read, args=("first",)), threading.Thread(target=change)
    later = threading.Thread(target=read, args=("later",))
    first.start()
    wait_until(lambda: order)
    changing.start()
    wait_until(shared._entrance.locked)
    later.start()
    assert order == ["first"]
    leave.set()
    for thread in (first, changing, later):
        thread.join()

    assert order == ["first", "change", "later"]
