"""10-fold verification against a brute-force oracle, and what happens where the threshold has seen the answers."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.errors import DataError
from training.evaluation.folds import FOLDS, balanced_pairs, unpack
from training.evaluation.verification import best_threshold, cosines, fold_accuracy, verification_accuracy

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


def _unit(rng: np.random.Generator, count: int, dimension: int = 16) -> NDArray[np.float32]:
    vectors = rng.normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _noisy_pairs(rng: np.random.Generator, count: int, apart: float, steps: int = 40) -> tuple[Floats, Truths]:
    """Scores on a grid, so that many are equal."""
    same = rng.random(count) < 0.5
    scores = np.round(rng.normal(np.where(same, apart, -apart)) * steps) / steps
    return scores, same


def _candidates(scores: Floats) -> list[float]:
    """A threshold for each way in which one can part these scores."""
    values = np.unique(scores).tolist()
    return [values[0], *((a + b) / 2 for a, b in itertools.pairwise(values)), float(np.nextafter(values[-1], np.inf))]


def _accuracy(scores: Floats, same: Truths, threshold: float) -> float:
    return sum((score >= threshold) == truth for score, truth in zip(scores, same, strict=True)) / len(scores)


def _oracle_threshold(scores: Floats, same: Truths) -> float:
    """The middle one of the best."""
    right = [round(_accuracy(scores, same, threshold) * len(scores)) for threshold in _candidates(scores)]
    best = [number for number, value in enumerate(right) if value == max(right)]
    return _candidates(scores)[best[len(best) // 2]]


@pytest.mark.parametrize("seed", range(8))
def test_the_threshold_of_a_fold_is_the_best_of_all_on_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, same = _noisy_pairs(rng, 60, 0.5)
    fold = rng.integers(4, size=60)

    result = fold_accuracy(scores, same, fold)

    for number, (accuracy, threshold) in enumerate(zip(result.folds, result.thresholds, strict=True)):
        test = fold == number
        assert threshold == _oracle_threshold(scores[~test], same[~test])
        assert accuracy == pytest.approx(_accuracy(scores[test], same[test], threshold), abs=1e-12)
    assert result.mean == pytest.approx(np.mean(result.folds))
    assert result.standard_error == pytest.approx(np.std(result.folds, ddof=1) / 2)


def test_a_score_at_the_threshold_is_accepted() -> None:
    threshold = best_threshold(np.array([0.1, 0.5, 0.5]), np.array([False, True, True]))

    assert 0.1 < threshold <= 0.5


@pytest.mark.parametrize(("same", "place"), [(True, 0), (False, 2)])
def test_one_kind_alone_is_accepted_or_rejected_as_a_whole(same: bool, place: int) -> None:
    scores = np.array([0.2, 0.4])

    threshold = best_threshold(scores, np.full(2, same))

    assert (scores >= threshold).sum() == 2 - place


def test_choosing_the_threshold_on_all_folds_looks_better_than_it_is() -> None:
    """The wrong port, on noise, where no better accuracy than one half can be earned."""
    honest, wrong = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, same = rng.normal(size=200), np.arange(200) % 2 == 0
        fold = rng.permutation(200) % FOLDS
        honest.append(fold_accuracy(scores, same, fold).mean)
        threshold = best_threshold(scores, same)
        wrong.append(((scores >= threshold) == same).mean())

    assert np.mean(honest) <= 0.5  # a little under: what is left out is missing on the other side
    assert np.mean(wrong) > 0.52


def test_pairs_are_as_many_of_each_kind_none_twice_and_rightly_labelled() -> None:
    labels = np.random.default_rng(0).integers(40, size=200)

    pairs = balanced_pairs(labels)

    assert pairs.same.sum() * 2 == len(pairs)
    assert ((labels[pairs.first] == labels[pairs.second]) == pairs.same).all()
    assert (pairs.first != pairs.second).all()
    assert len({frozenset(pair) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}) == len(
        pairs
    )


def test_nobody_is_in_two_folds() -> None:
    labels = np.random.default_rng(1).integers(60, size=300)

    pairs = balanced_pairs(labels)

    assert pairs.disjoint
    folds: dict[int, set[int]] = {}
    for row, fold in zip([*pairs.first, *pairs.second], [*pairs.fold, *pairs.fold], strict=True):
        folds.setdefault(int(labels[row]), set()).add(int(fold))
    assert all(len(own) == 1 for own in folds.values())
    assert set().union(*folds.values()) == set(range(FOLDS))


def test_no_fold_is_empty_where_a_few_people_have_most_photos() -> None:
    labels = np.repeat(np.arange(20), [6] * 5 + [2] * 15)

    pairs = balanced_pairs(labels)

    assert pairs.disjoint
    for fold in range(FOLDS):
        own = pairs.same[pairs.fold == fold]
        assert own.sum() == (~own).sum() >= 2


def test_few_people_are_dealt_out_by_pairs_and_that_is_told() -> None:
    pairs = balanced_pairs(np.repeat(np.arange(4), 6))

    assert not pairs.disjoint
    assert set(pairs.fold.tolist()) == set(range(FOLDS))


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others() -> None:
    labels = np.random.default_rng(2).integers(50, size=250)

    first, again, other = (balanced_pairs(labels, seed).first.tolist() for seed in (5, 5, 6))

    assert first == again
    assert first != other


def test_one_person_with_many_photos_does_not_decide() -> None:
    labels = np.concatenate([np.zeros(60, int), np.repeat(np.arange(1, 41), 2)])

    pairs = balanced_pairs(labels, max_genuine_per_person=5)

    assert (pairs.same & (labels[pairs.first] == 0)).sum() <= 5


def test_numbers_of_pairs_are_pairs() -> None:
    pairs = unpack(np.arange(4950))

    assert {(int(i), int(j)) for i, j in pairs} == {(i, j) for j in range(100) for i in range(j)}
    far = unpack(np.array([10**17]))[0]
    assert far[1] * (far[1] - 1) // 2 + far[0] == 10**17
    assert 0 <= far[0] < far[1]


def test_similarities_are_those_of_float64() -> None:
    rng = np.random.default_rng(3)
    vectors = _unit(rng, 100)
    pairs = balanced_pairs(rng.integers(20, size=100))

    wide = vectors.astype(np.float64)
    oracle = [wide[a] @ wide[b] for a, b in zip(pairs.first, pairs.second, strict=True)]

    assert cosines(vectors, pairs) == pytest.approx(np.array(oracle), abs=1e-6)


def test_people_who_are_alike_themselves_are_all_told_apart() -> None:
    rng = np.random.default_rng(4)
    centres = _unit(rng, 40, 64)
    vectors = centres[np.repeat(np.arange(40), 5)]

    result = verification_accuracy(vectors, np.repeat(np.arange(40), 5))

    assert (result.mean, result.standard_error) == (1.0, 0.0)


def test_too_little_is_one_clear_line() -> None:
    with pytest.raises(DataError, match=r"3 genuine pairs.* are too few for 10 folds"):
        balanced_pairs(np.array([0, 0, 0, 1, 2, 3, 4]))
    with pytest.raises(DataError, match="1 folds are too few"):
        fold_accuracy(np.zeros(4), np.array([True, False] * 2), np.zeros(4, int))
    with pytest.raises(DataError, match="a similarity is not finite"):
        fold_accuracy(np.array([0.1, np.nan]), np.array([True, False]), np.array([0, 1]))
