"""Identification against brute force: ranks, CMC, FPIR and FNIR."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.errors import DataError
from training.evaluation import identification
from training.evaluation.identification import Search, Split, cmc, fnir_at, fpir_at, open_set, search, split_for_search

Vectors = NDArray[np.float32]
Outcome = tuple[list[int], list[float], list[float]]


def _set(seed: int, counts: list[int], noise: float = 0.6) -> tuple[Vectors, NDArray[np.int32]]:
    """Vectors whose similarities are exact in float32 and often equal: small whole numbers, not of unit length."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    centres = rng.integers(-2, 3, (len(counts), 8))
    return (centres[labels] + np.rint(rng.normal(0, noise, (len(labels), 8)))).astype(np.float32), labels


def _brute_force(
    vectors: Vectors, labels: NDArray[np.int32], split: Split
) -> tuple[list[int], list[float], list[float]]:
    """(ranks, similarities of the mates, highest similarities of strangers), one comparison at a time."""

    def best(probe: int) -> dict[int, float]:
        found: dict[int, float] = {}
        for row in split.gallery.tolist():
            score = float(vectors[probe].astype(np.float64) @ vectors[row].astype(np.float64))
            found[int(labels[row])] = max(score, found.get(int(labels[row]), -np.inf))
        return found

    ranks, mates = [], []
    for probe in split.mated.tolist():
        scores = best(probe)
        mate = scores.pop(int(labels[probe]))
        mates.append(mate)
        ranks.append(1 + sum(score >= mate for score in scores.values()))
    return ranks, mates, [max(best(probe).values()) for probe in split.non_mated.tolist()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cells", [1, 100, 2**24])
def test_every_search_is_that_of_brute_force_whatever_the_block(
    seed: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identification, "_CELLS", cells)
    vectors, labels = _set(seed, [1, 5, 3, 1, 2, 4, 1, 6, 2, 1])
    split = split_for_search(labels, seed)

    found = search(vectors, labels, split)

    ranks, mates, strangers = _brute_force(vectors, labels, split)
    assert found.rank.tolist() == ranks
    assert found.mate.tolist() == mates
    assert found.strangers.tolist() == strangers
    assert found.people == 6


@pytest.mark.parametrize("seed", range(4))
def test_with_several_entries_the_most_similar_one_speaks_for_a_person(seed: int) -> None:
    vectors, labels = _set(seed, [6, 5, 4, 7, 3])
    rows = np.random.default_rng(seed).permutation(len(labels))
    gallery = np.concatenate([rows[:12], *(np.flatnonzero(labels == label)[:1] for label in range(5))])
    split = Split(np.unique(gallery), np.setdiff1d(rows, gallery), np.empty(0, np.int64))

    found = search(vectors, labels, split)

    ranks, mates, _ = _brute_force(vectors, labels, split)
    assert found.rank.tolist() == ranks
    assert found.mate.tolist() == mates


def test_everybody_with_two_photos_is_enrolled_once_and_nobody_is_forgotten() -> None:
    _, labels = _set(0, [1, 5, 3, 1, 2])

    split = split_for_search(labels)

    assert sorted(labels[split.gallery].tolist()) == [1, 2, 4]
    assert sorted(labels[split.non_mated].tolist()) == [0, 3]
    every = np.concatenate([split.gallery, split.mated, split.non_mated])
    assert sorted(every.tolist()) == list(range(len(labels)))


def test_another_seed_enrols_other_photos_and_the_same_the_same() -> None:
    labels = np.repeat(np.arange(20), 5)

    first, again, other = (split_for_search(labels, seed).gallery.tolist() for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_whoever_ties_with_the_mate_stands_before_it() -> None:
    vectors = np.ones((4, 2), np.float32)
    labels = np.array([0, 0, 1, 2])

    found = search(vectors, labels, Split(np.array([0, 2, 3]), np.array([1]), np.empty(0, np.int64)))

    assert found.rank.tolist() == [3]


FOUND = Search(
    rank=np.array([1, 1, 2, 4, 1]),
    mate=np.array([0.9, 0.5, 0.8, 0.2, 0.4], np.float32),
    strangers=np.array([0.1, 0.2, 0.3, 0.6], np.float32),
    people=5,
)


def test_the_cmc_counts_the_mates_up_to_each_rank() -> None:
    assert cmc(FOUND, 5) == (0.6, 0.8, 0.8, 1.0, 1.0)


@pytest.mark.parametrize(
    ("threshold", "rank", "fpir", "fnir"),
    [
        (-1.0, None, 1.0, 0.0),
        (0.25, None, 0.5, 0.2),
        (0.25, 1, 0.5, 0.4),
        (0.25, 2, 0.5, 0.2),
        (0.5, 1, 0.25, 0.6),
        (0.95, 1, 0.0, 1.0),
    ],
)
def test_fpir_and_fnir_are_counted_with_the_threshold_inclusive(
    threshold: float, rank: int | None, fpir: float, fnir: float
) -> None:
    assert fpir_at(FOUND, threshold) == pytest.approx(fpir)
    assert fnir_at(FOUND, threshold, rank) == pytest.approx(fnir)


@pytest.mark.parametrize("fpir", [0.3, 0.1, 0.02])
def test_the_threshold_at_an_fpir_is_the_lowest_that_few_enough_strangers_reach(fpir: float) -> None:
    rng = np.random.default_rng(5)
    strangers = rng.normal(0.2, 0.1, 300).astype(np.float32)
    found = Search(np.ones(200, np.int64), rng.normal(0.5, 0.2, 200).astype(np.float32), strangers, 200)

    point = open_set(found, [fpir])[0]

    assert point.threshold is not None
    assert fpir_at(found, point.threshold) <= fpir
    assert fpir_at(found, float(np.nextafter(np.float32(point.threshold), np.float32(-1)))) > fpir
    assert point.fnir == pytest.approx((found.mate < point.threshold).mean())
    assert point.fnir_low is not None
    assert point.fnir_high is not None
    assert point.fnir_low < point.fnir < point.fnir_high


def test_an_fpir_that_the_strangers_cannot_state_gets_a_bound_and_no_number() -> None:
    point = open_set(FOUND, [0.1])[0]
    without = open_set(Search(FOUND.rank, FOUND.mate, np.empty(0, np.float32), 5), [0.1])[0]

    assert (point.fnir, without.fnir) == (None, None)
    assert "at most 3/N = 7.5e-01" in point.note
    assert "no non-mated probes" in without.note


def test_what_cannot_be_searched_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="no person has two photos"):
        split_for_search(np.arange(5))
    vectors, labels = _set(0, [2, 2])
    with pytest.raises(DataError, match="somebody who is not in the gallery"):
        search(vectors, labels, Split(np.flatnonzero(labels == 0), np.flatnonzero(labels == 1), np.empty(0, np.int64)))


def test_where_everybody_has_several_photos_every_fifth_person_becomes_a_stranger() -> None:
    labels = np.repeat(np.arange(20), 3)

    split = split_for_search(labels)

    assert len(set(labels[split.non_mated].tolist())) == 4
    assert len(split.non_mated) == 12
    assert not set(labels[split.non_mated].tolist()) & set(labels[split.gallery].tolist())
