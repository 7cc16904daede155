"""Two models on exactly the same pairs: how much better one is, with intervals bootstrapped over people.

Both models are resampled together: a round draws people, and takes the difference between the two on those. What makes
a draw hard makes it hard for both, so that the difference is known far better than either figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.calibrate import compare_all
from training.embeddings import EmbeddedSet
from training.evaluation.folds import PairList, balanced_pairs
from training.evaluation.intervals import bootstrap_tars
from training.evaluation.roc import RatePoint, measurable, tar_points
from training.evaluation.verification import cosines, fold_accuracy

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus champion, with the 95 % interval, and both figures."""

    candidate: float
    champion: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """How much better the candidate is."""
        return self.candidate - self.champion


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one set of people; a figure is None where the set is too small for it."""

    name: str
    people: int
    genuine_pairs: int
    impostor_pairs: int
    tar: Difference | None
    accuracy: Difference | None

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(
    candidate: EmbeddedSet, champion: EmbeddedSet, fmr: float, rounds: int, name: str = "all", seed: int = 0
) -> Comparison:
    """The TAR at a false-match rate, each model at its own threshold, and the 10-fold accuracy.

    Args:
        candidate, champion: the same photos and people in the same order.
        fmr: false-match rate of both.
        rounds: of the bootstrap.
        name: of the set.
        seed: of the bootstrap and of the choice of pairs for the folds.

    Raises:
        DataError: no person has two photos.
    """
    pairs = compare_all(candidate, seed), compare_all(champion, seed)
    count, genuine = pairs[0].impostor_count, len(pairs[0].genuine)
    tar = None
    if measurable(pairs[0], [fmr]):
        points: Sequence[RatePoint] = [tar_points(each, [fmr])[0] for each in pairs]
        drawn = [
            bootstrap_tars(data, each, [fmr], rounds, seed)[:, 0]
            for data, each in zip((candidate, champion), pairs, strict=True)
        ]
        tar = _difference(float(points[0].tar or 0), float(points[1].tar or 0), drawn[0] - drawn[1])
    accuracy = _accuracy(candidate, champion, rounds, seed) if min(genuine, count) >= 20 else None
    return Comparison(name, len(candidate.names), genuine, count, tar, accuracy)


def by_group(
    candidate: EmbeddedSet, champion: EmbeddedSet, groups: Mapping[str, Sequence[str]], fmr: float, rounds: int
) -> list[Comparison]:
    """The same within each value of each attribute, for those in which anybody has two photos."""
    found = []
    for attribute, values in groups.items():
        for value in sorted(set(values)):
            mask = np.array([other == value for other in values], np.bool_)
            parts = [_part(data, mask) for data in (candidate, champion)]
            if len(parts[0].names) > 1 and (np.bincount(parts[0].people) > 1).any():
                found.append(compare(parts[0], parts[1], fmr, rounds, f"{attribute} {value or '(none)'}"))
    return found


def _part(data: EmbeddedSet, mask: NDArray[np.bool_]) -> EmbeddedSet:
    old, people = np.unique(data.people[mask], return_inverse=True)
    return EmbeddedSet(
        vectors=data.vectors[mask],
        people=people.astype(np.int32),
        quality=data.quality[mask],
        names=tuple(data.names[number] for number in old),
        photos=tuple(data.photos[row] for row in np.flatnonzero(mask)),
        failed=(),
    )


def _difference(candidate: float, champion: float, drawn: Floats) -> Difference:
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    mean = candidate - champion
    return Difference(candidate, champion, float(min(low, mean)), float(max(high, mean)))


def _accuracy(candidate: EmbeddedSet, champion: EmbeddedSet, rounds: int, seed: int) -> Difference:
    pairs = balanced_pairs(candidate.people, seed)
    right = [_right(data, pairs) for data in (candidate, champion)]
    people = len(candidate.names)
    first, second = candidate.people[pairs.first], candidate.people[pairs.second]
    gain = right[0].astype(np.float64) - right[1]
    drawn = np.empty(rounds)
    for number in range(rounds):
        times = np.bincount(
            np.random.default_rng([seed, number]).integers(people, size=people), minlength=people
        ).astype(np.float64)
        # A genuine pair has one person, who is drawn so many times; an impostor pair needs both of its people.
        weight = np.where(pairs.same, times[first], times[first] * times[second])
        drawn[number] = (weight * gain).sum() / weight.sum() if weight.sum() else np.nan
    return _difference(float(right[0].mean()), float(right[1].mean()), drawn)


def _right(data: EmbeddedSet, pairs: PairList) -> NDArray[np.bool_]:
    """Which pairs are decided rightly, each at the threshold that is best on the other folds."""
    scores = cosines(data.vectors, pairs)
    thresholds = fold_accuracy(scores, pairs.same, pairs.fold).thresholds
    of_pair = np.array(thresholds)[np.searchsorted(np.unique(pairs.fold), pairs.fold)]
    right: NDArray[np.bool_] = (scores >= of_pair) == pairs.same
    return right
