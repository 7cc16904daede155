"""Everything that is measured of one model on one set, as plain values: what reports and JSON are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.calibrate import Pairs, compare_all
from training.embeddings import EmbeddedSet
from training.evaluation import roc
from training.evaluation.folds import PairList, balanced_pairs
from training.evaluation.groups import GroupRow, group_rows, group_rows_of_pairs
from training.evaluation.identification import OpenSetPoint, Split, cmc, open_set, search, split_for_search
from training.evaluation.intervals import bootstrap_over_people
from training.evaluation.roc import RATES, RatePoint
from training.evaluation.verification import FoldResult, cosines, fold_accuracy

_BINS = 80
# The threshold that groups are compared at is that of the first of these that the pairs can state.
_GROUP_RATES = (1e-3, 1e-2, 1e-1)
# A photo without a face is no match for anything: the lowest similarity there is.
REJECTED = -1.0
Intervals = Mapping[float, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of genuine and of impostor pairs in bins of the similarity; `edges` has one value more."""

    edges: tuple[float, ...]
    genuine: tuple[float, ...]
    impostor: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """Points of ROC and DET by rising threshold."""

    thresholds: tuple[float, ...]
    fmr: tuple[float, ...]
    fnmr: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """Accuracy in folds, on how many pairs, and whether no person is in two folds."""

    result: FoldResult
    genuine_pairs: int
    impostor_pairs: int
    disjoint: bool


@dataclass(frozen=True, slots=True)
class Identification:
    """Search in a gallery with one photo a person; `cmc` from rank 1."""

    people: int
    mated: int
    non_mated: int
    cmc: tuple[float, ...]
    open_set: tuple[OpenSetPoint, ...]


@dataclass(frozen=True, slots=True)
class GroupTable:
    """Groups at one threshold: that of `fmr` over all pairs."""

    fmr: float
    threshold: float
    rows: tuple[GroupRow, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One model on one set. Where something could not be measured it is None, and `notes` say why."""

    genuine_pairs: int
    impostor_pairs: int
    rates: tuple[RatePoint, ...]
    equal_error_rate: float
    equal_error_threshold: float
    area_under_roc: float
    verification: Verification | None
    identification: Identification | None
    groups: GroupTable | None
    curves: Curves
    histogram: Histogram
    notes: tuple[str, ...]


def measure_set(
    data: EmbeddedSet,
    groups: Mapping[str, Sequence[str]] | None = None,
    known: Intervals | None = None,
    rounds: int = 200,
    seed: int = 0,
) -> Measurement:
    """All pairs of a labelled set.

    Args:
        data: embeddings.
        groups: N values an attribute.
        known: 95 % intervals of the TAR by rate that were bootstrapped already.
        rounds: of the bootstrap for the other rates.
        seed: of all that is drawn.

    Raises:
        DataError: no person has two photos.
    """
    pairs = compare_all(data, seed)
    left = [rate for rate in roc.measurable(pairs, RATES) if rate not in (known or {})]
    drawn = bootstrap_over_people(data, pairs, left, rounds, seed)
    intervals = {**(known or {}), **{rate: (low, high) for rate, (low, high) in zip(left, drawn.tolist(), strict=True)}}
    notes: list[str] = []
    verification = None
    if len(pairs.genuine) >= 10 and pairs.impostor_count >= 10:
        verification = verify(data.vectors, balanced_pairs(data.people, seed))
    else:
        notes.append("fewer than ten genuine or impostor pairs: no accuracy in folds")
    table = None
    if groups and (place := group_threshold(pairs)):
        table = GroupTable(*place, group_rows(data, groups, place[1]))
    elif groups:
        notes.append("too few impostor pairs for a threshold: no table of groups")
    return _measurement(pairs, intervals, verification, identify(data, seed), table, notes)


def measure_pairs(
    scores: NDArray[np.floating], pairs: PairList, not_compared: int = 0, people: str = ""
) -> Measurement:
    """Listed pairs (P,). Intervals are Wilson's: they take the pairs for independent.

    Args:
        scores: similarities (P,), `REJECTED` where a pair could not be compared.
        pairs: the list.
        not_compared: how many those are.
        people: what more there is to say about the list.

    Raises:
        DataError: one kind of pairs is missing, or there is one fold only.
    """
    found = roc.of_scores(scores, pairs.same)
    notes = [people] if people else []
    if not_compared:
        notes.append(f"{not_compared} pairs with a photo in which no face was found count as rejected")
    result = fold_accuracy(scores, pairs.same, pairs.fold)
    verification = Verification(result, len(found.genuine), found.impostor_count, pairs.disjoint)
    table = None
    if pairs.groups and (place := group_threshold(found)):
        table = GroupTable(*place, group_rows_of_pairs(scores, pairs.same, pairs.groups, place[1]))
    return _measurement(found, {}, verification, None, table, notes)


def verify(vectors: NDArray[np.float32], pairs: PairList) -> Verification:
    """Accuracy in folds of given pairs of rows."""
    genuine = int(pairs.same.sum())
    result = fold_accuracy(cosines(vectors, pairs), pairs.same, pairs.fold)
    return Verification(result, genuine, len(pairs) - genuine, pairs.disjoint)


def identify(data: EmbeddedSet, seed: int = 0) -> Identification:
    """Closed- and open-set identification, one photo a person enrolled.

    Raises:
        DataError: nobody has two photos.
    """
    split: Split = split_for_search(data.people, seed)
    found = search(data.vectors, data.people, split)
    ranks = min(20, found.people)
    return Identification(found.people, len(split.mated), len(split.non_mated), cmc(found, ranks), open_set(found))


def group_threshold(pairs: Pairs) -> tuple[float, float] | None:
    """(FMR, threshold) that groups are compared at, or None where the pairs are too few for any."""
    rates = roc.measurable(pairs, _GROUP_RATES)
    point = roc.tar_points(pairs, rates[:1])[0] if rates else None
    return (point.fmr, point.threshold) if point is not None and point.threshold is not None else None


def _measurement(
    pairs: Pairs,
    intervals: Intervals,
    verification: Verification | None,
    identification: Identification | None,
    groups: GroupTable | None,
    notes: list[str],
) -> Measurement:
    eer, threshold = roc.equal_error_rate(pairs)
    curve = roc.curve(pairs)
    return Measurement(
        genuine_pairs=len(pairs.genuine),
        impostor_pairs=pairs.impostor_count,
        rates=roc.tar_points(pairs, RATES, intervals),
        equal_error_rate=eer,
        equal_error_threshold=threshold,
        area_under_roc=roc.area_under_roc(pairs),
        verification=verification,
        identification=identification,
        groups=groups,
        curves=Curves(*(tuple(values.tolist()) for values in (curve.thresholds, curve.fmr, curve.fnmr))),
        histogram=_histogram(pairs),
        notes=tuple(notes),
    )


def _histogram(pairs: Pairs) -> Histogram:
    low = min(float(pairs.genuine.min()), float(pairs.impostor_sample.min()))
    high = max(float(pairs.genuine.max()), float(pairs.top_impostors[0]), low + 1e-3)
    edges = np.linspace(low, high, _BINS + 1)
    shares = [np.histogram(scores, edges)[0] / len(scores) for scores in (pairs.genuine, pairs.impostor_sample)]
    return Histogram(tuple(edges.tolist()), *(tuple(share.tolist()) for share in shares))
