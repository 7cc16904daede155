"""Verification accuracy in ten folds, as on LFW (Huang et al., UMass Amherst TR 07-49, 2007).

The threshold of each fold is the one that is best on the others. Choosing it on all of them, the known wrong way, looks
at the answers first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError
from training.evaluation.folds import PairList, balanced_pairs

__all__ = ["FoldResult", "balanced_pairs", "best_threshold", "cosines", "fold_accuracy", "verification_accuracy"]

Scores = NDArray[np.floating]
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Mean accuracy over the folds and its standard error, with each fold's accuracy and threshold."""

    mean: float
    standard_error: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]


def verification_accuracy(
    vectors: NDArray[np.float32],
    labels: NDArray[np.integer],
    seed: int = 0,
    max_genuine_per_person: int | None = 20,
) -> FoldResult:
    """10-fold accuracy on as many impostor as genuine pairs of a labelled set.

    Args:
        vectors: unit rows (N, D).
        labels: the person on each (N,).
        seed: of the choice of pairs.
        max_genuine_per_person: so that a few people with many photos do not decide; None takes all pairs.

    Raises:
        DataError: fewer than ten genuine or ten impostor pairs, or vectors that are not finite.
    """
    pairs = balanced_pairs(labels, seed, max_genuine_per_person)
    return fold_accuracy(cosines(vectors, pairs), pairs.same, pairs.fold)


def cosines(vectors: NDArray[np.float32], pairs: PairList) -> NDArray[np.float32]:
    """Similarity of each pair, (P,)."""
    step = max(1, _BLOCK // vectors.shape[1])
    blocks = (slice(start, start + step) for start in range(0, max(len(pairs), 1), step))
    parts = [np.einsum("nd,nd->n", vectors[pairs.first[block]], vectors[pairs.second[block]]) for block in blocks]
    return np.concatenate(parts)


def fold_accuracy(scores: Scores, same: NDArray[np.bool_], fold: NDArray[np.integer]) -> FoldResult:
    """Accuracy of each fold at the threshold that is best on the others.

    Args:
        scores: similarities (P,).
        same: whether a pair is of one person (P,).
        fold: of each pair (P,), any whole numbers.

    Returns:
        The mean, and its standard error: standard deviation of the folds (ddof = 1) over the root of their number.

    Raises:
        DataError: fewer than two folds, or scores that are not finite.
    """
    numbers = np.unique(fold)
    if len(numbers) < 2:
        raise DataError(f"{len(numbers)} folds are too few: the threshold of each is chosen on the others")
    if not np.isfinite(scores).all():
        raise DataError("a similarity is not finite")
    order = np.argsort(scores, kind="stable")  # once: a part of what is sorted is sorted
    scores, same, fold = scores[order].astype(np.float64), same[order], fold[order]
    thresholds, accuracies = [], []
    for number in numbers:
        test = fold == number
        threshold = _best_of_sorted(scores[~test], same[~test])
        thresholds.append(threshold)
        accuracies.append(float(((scores[test] >= threshold) == same[test]).mean()))
    error = float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))
    return FoldResult(float(np.mean(accuracies)), error, tuple(accuracies), tuple(thresholds))


def best_threshold(scores: Scores, same: NDArray[np.bool_]) -> float:
    """The threshold of the highest accuracy, inclusive as decisions are; the middle one where several are as good.

    Thresholds that separate the same pairs are one, and it lies halfway between the two scores next to it.

    Args:
        scores: similarities (P,), P >= 1.
        same: whether a pair is of one person (P,).
    """
    order = np.argsort(scores, kind="stable")
    return _best_of_sorted(scores[order].astype(np.float64), same[order])


def _best_of_sorted(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    # Right decisions if everything from place i on is accepted.
    right = same.sum() + np.concatenate([[0], np.cumsum(np.where(same, -1, 1))])
    ends = np.concatenate([[True], scores[1:] > scores[:-1], [True]])  # equal scores are accepted together
    places = np.flatnonzero(ends & (right == right[ends].max()))
    place = int(places[len(places) // 2])
    if place == 0:
        return float(scores[0])
    if place == len(scores):
        return float(np.nextafter(scores[-1], np.inf))
    return float((scores[place - 1] + scores[place]) / 2)
