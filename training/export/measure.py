"""How alike two ways to embed the same labelled crops are: cosine, 10-fold accuracy, TAR at a false-match rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from training.calibrate import threshold_at
from training.data.people import DataError

Labels = NDArray[np.int32]
# A rate is stated where it allows ten false matches: one pair more or less then moves it by a tenth.
MIN_ALLOWED = 10


@dataclass(frozen=True, slots=True)
class Scores:
    """Cosines of all genuine pairs (G,) and of all impostor pairs (I,), in an order that depends on the labels only."""

    genuine: NDArray[np.float32]
    impostor: NDArray[np.float32]

    @property
    def rates(self) -> tuple[float, ...]:
        """The false-match rates, of 1e-2 and 1e-3, that so many impostor pairs can state."""
        return tuple(rate for rate in (1e-2, 1e-3) if rate * len(self.impostor) >= MIN_ALLOWED - 1e-9)


def scores_of(vectors: Vectors, labels: Labels) -> Scores:
    """Compare every crop with every other.

    Args:
        vectors: unit vectors (N, D).
        labels: the person on each, (N,).

    Raises:
        DataError: too few pairs to say anything about.
    """
    upper = np.triu_indices(len(labels), 1)
    cosines = (vectors @ vectors.T)[upper]
    same = labels[upper[0]] == labels[upper[1]]
    scores = Scores(cosines[same], cosines[~same])
    if len(scores.genuine) < MIN_ALLOWED or not scores.rates:
        raise DataError(
            f"{len(scores.genuine)} genuine and {len(scores.impostor)} impostor pairs are too few to compare accuracies"
        )
    return scores


def accepted_at(scores: Scores, rate: float) -> int:
    """How many genuine pairs are accepted at the threshold that at most `rate` of the impostor pairs reach."""
    descending = np.sort(scores.impostor)[::-1]
    return int((scores.genuine >= threshold_at(descending, len(descending), rate)).sum())


def tar_at(scores: Scores, rate: float) -> float:
    """True-accept rate at a false-match rate."""
    return accepted_at(scores, rate) / len(scores.genuine)


def verification_accuracy(scores: Scores, folds: int = 10, seed: int = 0) -> float:
    """Mean share of right decisions over folds, each at the threshold that is best on the others (protocol of LFW).

    As many impostor pairs as genuine ones, the same ones for the same labels and seed, so that two networks are
    compared pair by pair.
    """
    rng = np.random.default_rng(seed)
    count = min(len(scores.genuine), len(scores.impostor))
    values = np.concatenate([rng.choice(part, count, replace=False) for part in (scores.genuine, scores.impostor)])
    same = np.repeat([True, False], count)
    fold = rng.permutation(2 * count) % folds
    right = 0.0
    for number in range(folds):
        test = fold == number
        threshold = _best_threshold(values[~test], same[~test])
        right += float(((values[test] >= threshold) == same[test]).mean())
    return right / folds


def _best_threshold(values: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    order = np.argsort(values, kind="stable")
    # right[k]: decisions that are right where the k lowest are called impostors
    right = np.concatenate([[same.sum()], same.sum() + np.cumsum(np.where(same[order], -1, 1))])
    k = int(right.argmax())
    edges = np.concatenate([[-2.0], values[order], [2.0]])
    return float((edges[k] + edges[k + 1]) / 2)
