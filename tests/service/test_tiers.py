"""The approximate tier: against a reference in NumPy, beside changes, and held against exact search."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolment import MODEL, SETTINGS, new_faces
from galleries import keys_of
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import wait_until

from models.preprocess import Vectors, l2_normalize
from service.gallery import grouping, groups
from service.gallery.contract import SearchState
from service.gallery.embedded import EmbeddedGallery
from service.gallery.grouping import Grouping, SearchOptions
from service.gallery.recall import Sample
from service.gallery.sketches import BITS, nearest_sketches, sketched
from service.gallery.tiers import TieredIndex

ALL = 10_000  # groups: looking into so many finds everybody
NEVER: Callable[[], bool] = lambda: False  # noqa: E731

CHANGES = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 20)),
    st.tuples(st.just("remove"), st.lists(st.integers(0, 120), max_size=30)),
    st.tuples(st.sampled_from(("search", "group", "ungroup")), st.integers(1, 60)),
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_BLOCK", 5)


def people(seed: int, count: int, faces: int, dimension: int, noise: float = 0.9) -> Vectors:
    """Faces of people side by side; two of one person have a cosine of about 0.55."""
    rng = np.random.default_rng(seed)
    centres = l2_normalize(rng.normal(size=(count, dimension))).repeat(faces, axis=0)
    return l2_normalize(centres + noise * rng.normal(size=(count * faces, dimension)) / np.sqrt(dimension))


def _grouped(vectors: Vectors) -> TieredIndex:
    index = TieredIndex(vectors.shape[1])
    index.add(range(len(vectors)), vectors)
    assert index.group(NEVER)
    return index


@settings(max_examples=100, deadline=None, derandomize=True)
@given(changes=st.lists(CHANGES, min_size=1, max_size=30), seed=st.integers(0, 2**32 - 1), dimension=st.integers(2, 70))
def test_any_order_of_changes_and_searches_in_groups_equals_the_reference(
    changes: list[tuple[str, Any]], seed: int, dimension: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "_BLOCK", 5)
        _compare(changes, seed, dimension)


def _compare(changes: list[tuple[str, Any]], seed: int, dimension: int) -> None:
    index, next_row = TieredIndex(dimension), 1
    index.exact._capacity = 7
    reference: dict[int, Vectors] = {}
    for step, (change, value) in enumerate(changes):
        vectors = (
            people(seed + step, -(-value // 4), 4, dimension) if change == "add" else people(seed, 1, 1, dimension)
        )
        if change == "add":
            rows = range(next_row, next_row + value)
            next_row += value
            index.add(rows, vectors[:value])
            reference.update(zip(rows, vectors, strict=False))
        elif change == "remove":
            index.remove(value)
            for row in value:
                reference.pop(row, None)
        elif change == "group":
            assert index.group(NEVER)
        elif change == "ungroup":
            index.ungroup()
        else:
            probe = vectors[0]
            scores = {row: float(vector @ probe) for row, vector in reference.items()}
            best = sorted(scores.values(), reverse=True)[:value]
            in_groups = index.search_groups(probe, value, ALL) if index._groups is not None else None
            for found in (index.search(probe, value), in_groups):
                if found is not None:
                    assert [score for _, score in found] == pytest.approx(best, abs=1e-6)
                    assert [score for _, score in found] == pytest.approx([scores[row] for row, _ in found], abs=1e-6)
        if index._groups is not None:
            assert set(index._groups._seats) == set(reference)
            assert sorted(_members(index)) == sorted(reference)


def _members(index: TieredIndex) -> list[int]:
    """The rows that have a seat."""
    assert index._groups is not None
    seats = np.concatenate([block.ravel() for block in index._groups._members] or [np.empty(0, np.int64)])
    return [row for row in seats.tolist() if row >= 0]


def test_people_become_groups_and_strangers_do_not_share_one() -> None:
    index = _grouped(people(0, 200, 6, 512))

    assert index._groups is not None
    seated = [[row // 6 for row in group if row >= 0] for block in index._groups._members for group in block.tolist()]
    assert all(len(set(people)) <= 1 for people in seated)
    assert 200 <= index._groups.count <= 220


def test_a_new_photo_of_somebody_finds_their_faces_in_a_few_groups() -> None:
    faces = people(0, 600, 9, 128)
    index = _grouped(np.delete(faces, slice(8, None, 9), axis=0))  # eight of nine
    assert index._groups is not None

    found = [index.search_groups(probe, 8, 8) for probe in faces[8::9]]

    right = [
        len({row // 8 for row, _ in each} & {person}) and sum(row // 8 == person for row, _ in each)
        for person, each in enumerate(found)
    ]
    assert np.mean(right) / 8 > 0.97
    assert index._groups.count > 500  # of which 16 were looked into


def test_faces_that_were_added_to_groups_are_found_at_once_and_removed_ones_are_gone_with_their_sketch() -> None:
    vectors = people(1, 50, 4, 64)
    index = _grouped(vectors[:100])
    assert index._groups is not None

    for first in range(100, 200, 2):
        index.add([first, first + 1], vectors[first : first + 2])
        assert {first, first + 1} <= {row for row, _ in index.search_groups(vectors[first], 8, 1)}
    index.remove(range(4, 200))

    assert sorted(_members(index)) == [0, 1, 2, 3]
    assert index._groups.count == 1
    kept = sketched(vectors[:4].sum(axis=0, keepdims=True))
    others = [sketch for block in index._groups._sketches for sketch in block if sketch.any()]
    assert np.array_equal(np.stack(others), kept)  # nothing is left of who was removed


def test_an_erased_face_is_never_found_and_a_new_one_always_while_groups_are_made() -> None:
    vectors = people(2, 150, 4, 32)
    index = TieredIndex(32)
    index.add(range(400), vectors[:400])
    errors: list[BaseException] = []
    built = threading.Event()

    def change() -> None:
        try:
            for turn in range(200):
                index.remove([turn])
                assert turn not in {row for row, _ in index.search(vectors[turn], 5)}
                assert turn not in {row for row, _ in index.search_groups(vectors[turn], 5, ALL)}
                index.add([400 + turn], vectors[400 + turn][None])
                assert index.search(vectors[400 + turn], 1)[0][0] == 400 + turn
        except BaseException as error:
            errors.append(error)

    def build() -> None:
        try:
            for _ in range(5):
                assert index.group(NEVER)
        except BaseException as error:
            errors.append(error)
        built.set()

    threads = [threading.Thread(target=change), threading.Thread(target=build)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert built.is_set()
    assert index.rows() == set(range(200, 600))
    assert sorted(_members(index)) == list(range(200, 600))
    for row in range(200):
        assert row not in {found for found, _ in index.search_groups(vectors[row], 600, ALL)}


def test_making_groups_can_be_stopped_and_search_stays_exact() -> None:
    vectors = people(3, 30, 4, 16)
    index = TieredIndex(16)
    index.add(range(len(vectors)), vectors)

    assert not index.group(lambda: True)

    assert not index.approximate
    assert index.search(vectors[7], 1)[0][0] == 7


def test_a_search_for_more_than_groups_give_is_answered_exactly() -> None:
    vectors = people(4, 100, 3, 64)
    index = _grouped(vectors)
    index._probed = 1

    assert len(index.search(vectors[0], 299)) == 299
    assert [row for row, _ in index.search(vectors[0], 300)] == [row for row, _ in index.exact.search(vectors[0], 300)]


def test_a_cosine_is_the_same_to_the_last_bit_however_it_was_found() -> None:
    vectors = people(13, 200, 3, 200)
    index = _grouped(vectors)
    for probe in people(14, 20, 1, 200):
        exact = index.exact.search(probe, 30)
        assert index.exact.search_all(np.stack([probe, vectors[0]]), 30)[0] == exact
        assert index.search_groups(probe, 30, ALL) == exact
        assert TieredIndex.search(_grouped(vectors[::-1].copy()), probe, 1)[0][1] == exact[0][1]


def test_recall_is_that_of_what_is_nearer_than_strangers() -> None:
    vectors = people(5, 300, 5, 256)
    index = _grouped(vectors)
    sample = Sample(index.exact, seed=0)

    def half(probe: Vectors, limit: int) -> list[tuple[int, float]]:
        return [(row, score) for row, score in index.exact.search(probe, limit) if row % 2]

    assert sample.recall(index.exact.search) == 1
    assert sample.recall(lambda probe, limit: index.search_groups(probe, limit, 16)) > 0.99
    assert 0.4 < sample.recall(half) < 0.6
    assert sample.recall(lambda *_: []) == 0


def test_recall_of_an_index_of_people_with_one_face_each_is_not_that_of_strangers() -> None:
    index = _grouped(people(6, 1500, 1, 256))

    assert Sample(index.exact, seed=0).recall(lambda probe, limit: index.search_groups(probe, limit, 16)) > 0.98


def test_as_many_groups_are_looked_into_as_recall_needs_and_no_fewer_at_the_next_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = _grouped(people(7, 200, 4, 256))
    enough = 64
    real = TieredIndex.search_groups

    def weak(self: TieredIndex, vector: Vectors, limit: int, probed: int) -> Any:
        return real(self, vector, limit, probed) if probed >= enough else []

    monkeypatch.setattr(TieredIndex, "search_groups", weak)
    assert index.check(0.9, seed=0)
    assert index._probed == 64

    enough = 16
    assert index.check(0.9, seed=0)
    assert index._probed == 64


def test_only_large_indexes_are_grouped_and_one_that_shrinks_is_searched_exactly_again() -> None:
    large, small = TieredIndex(256), TieredIndex(256)
    vectors = people(8, 50, 4, 256)
    large.add(range(200), vectors)
    small.add(range(20), vectors[:20])
    background = Grouping(lambda: [large, small], SearchOptions(recall=0.9, approximate_from=100))

    background.do_due()
    assert (large.approximate, small.approximate) == (True, False)
    assert background.state.approximate_faces == 200
    assert background.state.recall is not None
    assert background.state.recall >= 0.9

    large.remove(range(150))
    background.do_due()
    assert not large.approximate
    assert background.state == SearchState(1.0, 0)


def test_where_recall_is_not_reached_search_stays_exact_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = TieredIndex(256)
    vectors = people(9, 50, 4, 256)
    index.add(range(200), vectors)
    monkeypatch.setattr(TieredIndex, "search_groups", lambda *_, **__: [])
    background = Grouping(lambda: [index], SearchOptions(recall=0.9, approximate_from=100))

    with caplog.at_level(logging.WARNING):
        background.do_due()
        background.do_due()

    assert not index.approximate
    assert [record.getMessage() for record in caplog.records] == [
        "searching 200 faces exactly: an approximate search does not find the share 0.9 that search_recall asks for, "
        "but 0.0000"
    ]
    assert index.search(vectors[0], 1)[0][0] == 0


def test_groups_that_find_too_little_by_now_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    index = TieredIndex(256)
    index.add(range(200), people(10, 50, 4, 256))
    background = Grouping(lambda: [index], SearchOptions(recall=0.9, approximate_from=100))
    background.do_due()
    assert index.approximate

    monkeypatch.setattr(grouping, "CHECK_EVERY_S", 0)
    monkeypatch.setattr(TieredIndex, "search_groups", lambda *_, **__: [])
    background.do_due()

    assert not index.approximate


def test_sketches_tell_angles() -> None:
    vectors = people(11, 40, 2, 96, noise=0.5)
    differ, places = nearest_sketches(sketched(vectors), sketched(vectors), len(vectors))

    angles = np.arccos(np.clip(vectors @ vectors.T, -1, 1))
    assert np.array_equal(places[:, 0], np.arange(len(vectors)))
    told = np.pi * np.take_along_axis(differ, np.argsort(places, axis=1), axis=1) / BITS
    assert np.abs(told - angles).mean() < 0.07


def test_a_large_collection_is_searched_approximately_after_a_while_and_after_a_restart_nobody_erased_is_named(
    tmp_path: Path,
) -> None:
    vectors = people(12, 40, 3, MODEL.dimension, noise=0.1)

    def opened() -> Any:
        options = SearchOptions(threads=2, recall=0.95, approximate_from=50)
        return closing(EmbeddedGallery(tmp_path / "data", keys_of(tmp_path / "data"), search=options))

    def named(gallery: EmbeddedGallery, person: int) -> list[str]:
        found, _ = gallery.search("lab", MODEL.contract_id, vectors[3 * person], 3)
        return [match.subject for match in found if match.similarity > 0.95]

    with opened() as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        for person in range(38):
            gallery.enrol("lab", MODEL.contract_id, f"{person}", new_faces(vectors[3 * person : 3 * person + 3]))
        assert gallery.search_state() == SearchState(1.0, 0)
        gallery.tidy()
        wait_until(lambda: gallery.search_state().approximate_faces == 114)
        assert gallery.search_state().recall >= 0.95
        gallery.enrol("lab", MODEL.contract_id, "38", new_faces(vectors[114:117]))
        gallery.erase("lab", "5")
        assert [named(gallery, person) for person in (4, 5, 38)] == [["4"], [], ["38"]]

    with opened() as gallery:
        assert gallery.search_state() == SearchState(1.0, 0)
        gallery.tidy()
        wait_until(lambda: gallery.search_state().approximate_faces == 114)
        assert [named(gallery, person) for person in (4, 5, 38)] == [["4"], [], ["38"]]
