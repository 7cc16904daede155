"""The exact index against a reference in NumPy."""

import threading
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.preprocess import l2_normalize
from service.gallery.index import ExactIndex

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


def test_a_search_stays_on_the_thread_that_it_is_called_from() -> None:
    index, threads = ExactIndex(8), []
    index.add([1], _units(1, 1, 8))

    def search() -> None:
        faiss.omp_set_num_threads(2)  # as a thread begins, where there are two cores
        index.search(_units(2, 1, 8)[0], 1)
        threads.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()

    assert threads == [1]
