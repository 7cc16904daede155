"""ROC and DET curves, EER, AUC, and TAR at false-match rates, with what a number of pairs cannot say.

FMR is the share of impostor pairs that reach a threshold, FNMR the share of genuine pairs that do not, TAR = 1 - FNMR
(ISO/IEC 19795-1). Thresholds are inclusive, as decisions are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.calibrate import Pairs, compare_all, threshold_at
from training.data.errors import DataError
from training.embeddings import EmbeddedSet
from training.evaluation.intervals import rule_of_three, wilson

Floats = NDArray[np.float64]
RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# A rate that was counted on fewer errors is known to no better than 30 % (Doddington et al., Speech Comm. 31, 2000).
FEW = 30


@dataclass(frozen=True, slots=True)
class RatePoint:
    """TAR at a false-match rate, with its 95 % interval; where it is not measurable, `note` says why."""

    fmr: float
    threshold: float | None
    tar: float | None
    tar_low: float | None
    tar_high: float | None
    interval: str = ""
    note: str = ""

    @property
    def measurable(self) -> bool:
        """Whether the pairs can state this rate."""
        return self.tar is not None


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """FMR and FNMR at T rising thresholds, each (T,)."""

    thresholds: Floats
    fmr: Floats
    fnmr: Floats


def tar_at(vectors: NDArray[np.float32], labels: NDArray[np.integer], rates: Sequence[float]) -> dict[float, RatePoint]:
    """True-accept rate of all genuine pairs at each false-match rate of all impostor pairs.

    Args:
        vectors: unit rows (N, D).
        labels: the person on each (N,).
        rates: false-match rates; one that the pairs cannot state has no TAR but the bound that they can.

    Raises:
        DataError: no person has two photos.
    """
    points = tar_points(compare_all(embedded_set(vectors, labels)), rates)
    return dict(zip(rates, points, strict=True))


def embedded_set(vectors: NDArray[np.float32], labels: NDArray[np.integer]) -> EmbeddedSet:
    """Bare vectors and labels as a set: people and photos are named by number, the quality is unknown (NaN)."""
    people, own = np.unique(labels, return_inverse=True)
    return EmbeddedSet(
        vectors=vectors,
        people=own.astype(np.int32),
        quality=np.full(len(own), np.nan, np.float32),
        names=tuple(str(person) for person in people.tolist()),
        photos=tuple(str(row) for row in range(len(own))),
        failed=(),
    )


def of_scores(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> Pairs:
    """Similarities of listed pairs (P,) in the form in which all pairs of a set are held; people are not known.

    Raises:
        DataError: one of the kinds is missing, or a similarity is not finite.
    """
    if not same.any() or same.all():
        raise DataError(f"{int(same.sum())} genuine and {int((~same).sum())} impostor pairs: both kinds are needed")
    if not np.isfinite(scores).all():
        raise DataError("a similarity is not finite")
    impostor = -np.sort(-scores[~same].astype(np.float32))
    genuine = scores[same].astype(np.float32)
    return Pairs(
        genuine=genuine,
        genuine_people=np.zeros(len(genuine), np.int32),
        top_impostors=impostor,
        top_people=np.zeros((len(impostor), 2), np.int32),
        impostor_count=len(impostor),
        impostor_sample=impostor,
    )


def fmr_at(pairs: Pairs, thresholds: NDArray[np.floating], inclusive: bool = True) -> Floats:
    """Share of the impostor pairs at or over each threshold; over it only, if not inclusive.

    Counted among the highest, which are all kept; below them, where not all are, by the evenly drawn sample.

    Args:
        pairs: of a set, or listed.
        thresholds: (T,).
        inclusive: whether a pair at the threshold matches.
    """
    side: Literal["left", "right"] = "left" if inclusive else "right"
    top = pairs.top_impostors[::-1]
    beyond = len(top) - np.searchsorted(top, thresholds, side=side)
    shares: Floats = beyond / pairs.impostor_count
    if len(top) == pairs.impostor_count:
        return shares
    rest = np.sort(pairs.impostor_sample[pairs.impostor_sample < top[0]])
    below = 1 - np.searchsorted(rest, thresholds, side=side) / max(len(rest), 1)
    mixed: Floats = np.where(thresholds >= top[0], shares, shares + (1 - len(top) / pairs.impostor_count) * below)
    return mixed


def fnmr_at(pairs: Pairs, thresholds: NDArray[np.floating]) -> Floats:
    """Share of the genuine pairs under each threshold, (T,)."""
    return np.searchsorted(np.sort(pairs.genuine), thresholds, side="left") / len(pairs.genuine)


def curve(pairs: Pairs, points: int = 500) -> Curve:
    """ROC and DET in so many points at most, spread evenly over log FMR and over the genuine similarities."""
    top, genuine = pairs.top_impostors, np.sort(pairs.genuine)
    places = np.unique(np.geomspace(1, len(top), points // 2).astype(np.int64)) - 1
    shares = np.linspace(0, len(genuine) - 1, points // 4).astype(np.int64)
    rest = np.quantile(pairs.impostor_sample, np.linspace(0, 1, points // 4))
    ends = [min(genuine[0], pairs.impostor_sample.min()), np.nextafter(max(top[0], genuine[-1]), np.float32(2))]
    thresholds = np.unique(np.concatenate([top[places], genuine[shares], rest, ends]).astype(np.float64))
    return Curve(thresholds, fmr_at(pairs, thresholds), fnmr_at(pairs, thresholds))


def equal_error_rate(pairs: Pairs) -> tuple[float, float]:
    """(EER, threshold): where FMR and FNMR cross, on the line between the two points of the ROC next to it."""
    low = float(min(pairs.genuine.min(), pairs.impostor_sample.min(), pairs.top_impostors[-1]))
    high = float(np.nextafter(np.float32(max(pairs.genuine.max(), pairs.top_impostors[0])), np.float32(4)))
    genuine = np.sort(pairs.genuine)

    def rates(threshold: float) -> tuple[float, float]:
        fnmr = np.searchsorted(genuine, threshold, side="left") / len(genuine)
        return float(fmr_at(pairs, np.array([threshold]))[0]), float(fnmr)

    # FMR - FNMR falls with the threshold, from 1 at `low` to -1 at `high`.
    for _ in range(64):
        middle = (low + high) / 2
        fmr, fnmr = rates(middle)
        low, high = (middle, high) if fmr > fnmr else (low, middle)
    (fmr, fnmr), (next_fmr, next_fnmr) = rates(low), rates(high)
    above, below = fmr - fnmr, next_fnmr - next_fmr
    share = above / (above + below) if above + below else 0.0
    return fmr + share * (next_fmr - fmr), high


def area_under_roc(pairs: Pairs) -> float:
    """AUC: how often a genuine pair is more similar than an impostor pair, ties counting half (Mann and Whitney)."""
    genuine = pairs.genuine.astype(np.float64)
    reached = fmr_at(pairs, genuine), fmr_at(pairs, genuine, inclusive=False)
    return float(1 - (reached[0] + reached[1]).mean() / 2)


def tar_points(
    pairs: Pairs, rates: Sequence[float] = RATES, intervals: Mapping[float, tuple[float, float]] | None = None
) -> tuple[RatePoint, ...]:
    """TAR at each false-match rate.

    A rate under 3/N, of N impostor pairs, cannot be told from zero errors (rule of three): it gets no number.

    Args:
        pairs: of a set, or listed.
        rates: false-match rates; up to 0.1 where not all impostor pairs are kept.
        intervals: 95 % intervals of the TAR by rate, such as bootstrapped ones; Wilson's where there is none, and
            where no pair, or each, is accepted; it takes the pairs for independent.
    """
    return tuple(_point(pairs, rate, (intervals or {}).get(rate)) for rate in rates)


def measurable(pairs: Pairs, rates: Sequence[float]) -> list[float]:
    """The rates that so many impostor pairs can state."""
    return [rate for rate in rates if rate >= rule_of_three(pairs.impostor_count) * (1 - 1e-9)]


def _point(pairs: Pairs, rate: float, interval: tuple[float, float] | None) -> RatePoint:
    count = pairs.impostor_count
    if not measurable(pairs, [rate]):
        bound = rule_of_three(count)
        note = f"not measurable: {count:,} impostor pairs show no more than FMR at most 3/N = {bound:.1e} at 95 %"
        return RatePoint(rate, None, None, None, None, note=note)
    threshold = threshold_at(pairs.top_impostors, count, rate)
    accepted = int((pairs.genuine >= threshold).sum())
    tar = accepted / len(pairs.genuine)
    if not 0 < accepted < len(pairs.genuine):
        interval = None  # without a single error every round of a bootstrap is the same
    low, high = interval or wilson(accepted, len(pairs.genuine))
    note = "" if rate * count >= FEW else f"uncertain: only {int(rate * count + 1e-9)} false matches"
    how = "bootstrap over people" if interval else "Wilson"
    return RatePoint(rate, threshold, tar, min(low, tar), max(high, tar), how, note)
