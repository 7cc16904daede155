"""Similarities of a labelled set to a calibration: thresholds with intervals, probability, tail.

All genuine and all impostor pairs are compared. Pairs that share a person are not independent, so the intervals are
bootstrapped over people: each round draws as many people as there are, with replacement, and a pair counts as often as
both of its people were drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.calibration import Calibration, Logistic, OperatingPoint, ScoreCounts, Tail
from training.data.people import DataError
from training.embeddings import EmbeddedSet

Scores = NDArray[np.float32]
Indices = NDArray[np.int32]
Floats = NDArray[np.float64]

# A rate is stated where at least this many impostor pairs are beyond it: one more or less then moves it by 1 %.
MIN_ERRORS = 100
_RATES = (1e-1, 5e-2, 2e-2, 1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 2e-5, 1e-5, 5e-6, 2e-6, 1e-6)
_TAIL_FROM = 1e-3
_BLOCK = 1024
_STEPS = 100  # of the counts of similarities, over -1..1
_SETTLED = 1e-9
_MAX_IMPOSTORS_FOR_LOGISTIC = 200_000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Similarities with the people of each pair; of `impostor_count` impostors only the highest are kept."""

    genuine: Scores
    genuine_people: Indices  # (G,)
    top_impostors: Scores  # descending
    top_people: Indices  # (T, 2)
    impostor_count: int
    impostor_sample: Scores  # drawn evenly from all
    counts: ScoreCounts | None = None  # of all


def compare_all(data: EmbeddedSet, seed: int = 0) -> Pairs:
    """Compare every photo with every other.

    Raises:
        DataError: no person has two photos.
    """
    counts = np.bincount(data.people)
    impostor_count = int((counts.sum() ** 2 - (counts**2).sum()) // 2)
    if not (counts > 1).any():
        raise DataError("no person has two photos with a face: there are no genuine pairs to calibrate on")
    bound = _lowest_of_top(data, impostor_count, seed)
    genuine: list[tuple[Scores, Indices]] = []
    top: list[tuple[Scores, Indices]] = []
    sample: list[Scores] = []
    counts = np.zeros((2, _STEPS), np.int64)
    step = max(1, impostor_count // _MAX_IMPOSTORS_FOR_LOGISTIC)
    for scores, a, b in _blocks(data):
        same = a == b
        genuine.append((scores[same], a[same]))
        kept = ~same & (scores >= bound)
        top.append((scores[kept], np.stack([a[kept], b[kept]], axis=1)))
        sample.append(scores[~same][::step])
        counts += (_count(scores[same]), _count(scores[~same]))
    order = np.argsort(-np.concatenate([scores for scores, _ in top]), kind="stable")
    return Pairs(
        genuine=np.concatenate([scores for scores, _ in genuine]),
        genuine_people=np.concatenate([people for _, people in genuine]),
        top_impostors=np.concatenate([scores for scores, _ in top])[order],
        top_people=np.concatenate([people for _, people in top])[order],
        impostor_count=impostor_count,
        impostor_sample=np.concatenate(sample),
        counts=ScoreCounts(genuine=tuple(counts[0].tolist()), impostor=tuple(counts[1].tolist())),
    )


def fit(data: EmbeddedSet, description: str, detector: str = "", rounds: int = 200, seed: int = 0) -> Calibration:
    """Calibrate on a labelled set.

    Args:
        data: embeddings of people who were not trained on.
        description: what the data are, for the record.
        detector: which detector cut the crops.
        rounds: bootstrap rounds for the 95 % intervals.
        seed: of the bootstrap.

    Raises:
        DataError: too few pairs to state two rates, photos that stand under two names, or people no more like
            themselves than like others.
    """
    pairs = compare_all(data, seed)
    rates = [rate for rate in _RATES if rate * pairs.impostor_count >= MIN_ERRORS]
    if len(rates) < 2:
        raise DataError(f"{pairs.impostor_count} impostor pairs are too few to state false-match rates")
    if threshold_at(pairs.top_impostors, pairs.impostor_count, rates[-1]) > 1:
        raise DataError(f"more than {rates[-1]:g} of the impostor pairs are the same photo under two names")
    points = _points(data, pairs, rates, rounds, seed)
    return Calibration(
        data=description,
        people=len(data.names),
        images=len(data.photos),
        genuine_pairs=len(pairs.genuine),
        impostor_pairs=pairs.impostor_count,
        detector=detector,
        points=points,
        logistic=fit_logistic(pairs.genuine, pairs.impostor_sample),
        tail=_tail(pairs),
        scores=pairs.counts,
    )


def threshold_at(descending: Scores, count: int, rate: float) -> float:
    """Smallest cosine that at most `rate` of `count` impostor pairs reach; inclusive, as decisions are.

    Args:
        descending: the highest similarities, at least rate * count + 1 of them, highest first.
        count: of all impostor pairs.
        rate: false-match rate.
    """
    allowed = int(np.floor(rate * count + 1e-9))
    return float(np.nextafter(descending[allowed], np.float32(2)))


def fit_logistic(genuine: Scores, impostor: Scores) -> Logistic:
    """P(genuine | similarity) at equal prior odds, by iteratively reweighted least squares.

    Raises:
        DataError: genuine pairs are not the more similar ones, or the fit does not settle.
    """
    x = np.concatenate([genuine, impostor]).astype(np.float64)
    y = np.concatenate([np.ones(len(genuine)), np.zeros(len(impostor))])
    weight = np.concatenate([np.full(len(genuine), 0.5 / len(genuine)), np.full(len(impostor), 0.5 / len(impostor))])
    design = np.stack([x, np.ones_like(x)], axis=1)
    beta = np.zeros(2)
    # Keeps the slope finite where the two do not overlap, and is too weak to move it where they do.
    ridge = np.diag([1e-10, 0.0])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -40, 40)))
        gradient = design.T @ (weight * (y - p)) - ridge @ beta
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + ridge + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        beta += step
        settled = np.abs(step).max() < _SETTLED * max(1.0, np.abs(beta).max())
        if settled:
            break
    if beta[0] <= 0:
        raise DataError("photos of one person are no more similar than photos of two; are the labels right?")
    if not settled:
        raise DataError("the probability of these similarities cannot be fitted; are there enough of both kinds?")
    return Logistic(slope=float(beta[0]), intercept=float(beta[1]))


def fit_tail(exceedances: Floats, rate: float, threshold: float) -> Tail | None:
    """Generalised Pareto by probability-weighted moments (Hosking and Wallis, Technometrics 29(3), 1987, eq. 6).

    Args:
        exceedances: how far each impostor pair beyond `threshold` is beyond it.
        rate: share of all impostor pairs beyond it.
        threshold: where the tail begins.

    Returns:
        None where no tail fits: fewer than two exceedances, or all alike.
    """
    ordered = np.sort(exceedances)
    n = len(ordered)
    if n < 2:
        return None
    b0 = ordered.mean()
    b1 = float((ordered * (n - np.arange(1, n + 1)) / (n - 1)).mean())
    spread = b0 - 2 * b1
    if spread <= 1e-9 * b0:  # zero but for rounding
        return None
    shape = 2 - b0 / spread  # xi = -k of the paper
    scale = 2 * b0 * b1 / spread
    if scale <= 0:  # all but the largest lie on the threshold itself
        return None
    return Tail(fmr=rate, threshold=threshold, scale=float(scale), shape=float(shape))


def _tail(pairs: Pairs) -> Tail | None:
    if pairs.impostor_count * _TAIL_FROM < 100:
        return None
    threshold = threshold_at(pairs.top_impostors, pairs.impostor_count, _TAIL_FROM)
    beyond = pairs.top_impostors[pairs.top_impostors >= threshold].astype(np.float64) - threshold
    return fit_tail(beyond, _TAIL_FROM, threshold)


def _blocks(data: EmbeddedSet) -> Iterator[tuple[Scores, Indices, Indices]]:
    """Similarities of the upper triangle, flattened, with both people, block by block of rows."""
    for start in range(0, len(data.vectors), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = data.vectors[rows] @ data.vectors[start:].T
        upper = np.triu(np.ones(scores.shape, bool), k=1)
        first = np.broadcast_to(data.people[rows, None], scores.shape)[upper]
        second = np.broadcast_to(data.people[None, start:], scores.shape)[upper]
        yield scores[upper], first, second


def _count(scores: Scores) -> NDArray[np.int64]:
    """Pairs in each step; what rounding put beyond the ends is in the first or last."""
    return np.histogram(np.clip(scores, -1, 1), _STEPS, (-1, 1))[0]


def _lowest_of_top(data: EmbeddedSet, impostor_count: int, seed: int) -> float:
    """A similarity that somewhat more than the laxest rate of the impostor pairs reach, from a sample."""
    if impostor_count < 100_000:
        return -np.inf
    rng = np.random.default_rng(seed)
    i, j = rng.integers(len(data.vectors), size=(2, 200_000))
    apart = data.people[i] != data.people[j]
    scores = np.einsum("nd,nd->n", data.vectors[i[apart]], data.vectors[j[apart]])
    return float(np.quantile(scores, 1 - 1.5 * max(_RATES)))


def _points(data: EmbeddedSet, pairs: Pairs, rates: list[float], rounds: int, seed: int) -> list[OperatingPoint]:
    thresholds = np.array([threshold_at(pairs.top_impostors, pairs.impostor_count, rate) for rate in rates])
    tars = np.array([(pairs.genuine >= threshold).mean() for threshold in thresholds])
    boots = [_bootstrap(data, pairs, rates, np.random.default_rng([seed, number])) for number in range(rounds)]
    low_t, high_t = np.quantile([threshold for threshold, _ in boots], [0.025, 0.975], axis=0)
    low_tar, high_tar = np.nanquantile([tar for _, tar in boots], [0.025, 0.975], axis=0)
    return [
        OperatingPoint(
            fmr=rate,
            threshold=float(thresholds[i]),
            threshold_low=float(min(low_t[i], thresholds[i])),
            threshold_high=float(max(high_t[i], thresholds[i])),
            tar=float(tars[i]),
            tar_low=float(min(low_tar[i], tars[i])),
            tar_high=float(max(high_tar[i], tars[i])),
        )
        for i, rate in enumerate(rates)
    ]


def _bootstrap(data: EmbeddedSet, pairs: Pairs, rates: list[float], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Thresholds and TARs of one resample of the people; the TARs are NaN where nobody drawn has two photos."""
    people = len(data.names)
    drawn = np.bincount(rng.integers(people, size=people), minlength=people).astype(np.float64)
    photos = drawn * np.bincount(data.people, minlength=people)
    total = (photos.sum() ** 2 - (photos**2).sum()) / 2
    weight = drawn[pairs.top_people[:, 0]] * drawn[pairs.top_people[:, 1]]
    beyond = np.cumsum(weight)
    places = np.minimum(np.searchsorted(beyond, np.array(rates) * total + 1e-9, side="right"), len(beyond) - 1)
    thresholds = np.nextafter(pairs.top_impostors[places], np.float32(2)).astype(np.float64)  # as in threshold_at
    genuine_weight = drawn[pairs.genuine_people]
    order = np.argsort(pairs.genuine, kind="stable")
    cumulative = np.concatenate([[0.0], np.cumsum(genuine_weight[order])])
    below = cumulative[np.searchsorted(pairs.genuine[order], thresholds, side="left")]
    genuine = cumulative[-1]
    return thresholds, 1 - below / genuine if genuine else np.full(len(rates), np.nan)
