"""Identification 1:N: rank and CMC of people who are in the gallery, open-set error rates with those who are not.

Terms of ISO/IEC 19795-1 and of NIST FRTE 1:N. A *mated* probe is a photo of somebody in the gallery, a *non-mated* one
of somebody who is not. Of N people in the gallery each has one score for a probe: that of their most similar entry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from training.calibrate import threshold_at
from training.data.errors import DataError
from training.evaluation.intervals import rule_of_three, wilson

Indices = NDArray[np.int64]
FPIRS = (1e-1, 1e-2, 1e-3)
# Similarities held at a time: 64 MiB.
_CELLS = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of a labelled set: gallery, mated and non-mated probes."""

    gallery: Indices
    mated: Indices
    non_mated: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """Outcome of all probes.

    rank (M,): of the mate of each mated probe, from 1; whoever ties with the mate stands before it. mate (M,): the
    mate's similarity. strangers (S,): the highest similarity to anybody of each non-mated probe. people: N.
    """

    rank: Indices
    mate: NDArray[np.float32]
    strangers: NDArray[np.float32]
    people: int


@dataclass(frozen=True, slots=True)
class OpenSetPoint:
    """FNIR at a false-positive identification rate, with Wilson's 95 % interval; `note` says why it has none."""

    fpir: float
    threshold: float | None
    fnir: float | None
    fnir_low: float | None
    fnir_high: float | None
    note: str = ""


def split_for_search(labels: NDArray[np.integer], seed: int = 0) -> Split:
    """One photo of everybody with several becomes the gallery, their others mated probes; who has one is a stranger.

    Where everybody has several photos, every fifth person becomes a stranger.

    Args:
        labels: the person on each photo (N,).
        seed: chooses the photo that is enrolled, and the strangers where they must be chosen.

    Raises:
        DataError: nobody has two photos.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    people, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    enrolled = counts > 1
    if not enrolled.any():
        raise DataError("no person has two photos: there is nobody to search for")
    if enrolled.all():
        enrolled[rng.permutation(len(people))[: len(people) // 5]] = False
    chosen = order[first[enrolled]]
    known = np.isin(labels, people[enrolled])
    mated = known.copy()
    mated[chosen] = False
    return Split(chosen, np.flatnonzero(mated), np.flatnonzero(~known))


def search(vectors: Vectors, labels: NDArray[np.integer], split: Split) -> Search:
    """Search every probe in the gallery, in blocks: memory does not grow with the number of probes.

    Args:
        vectors: unit rows (N, D).
        labels: the person on each (N,).
        split: which rows are gallery and which are probes; people may have several entries in the gallery.

    Raises:
        DataError: a mated probe of somebody who is not in the gallery.
    """
    order = split.gallery[np.argsort(labels[split.gallery], kind="stable")]
    people, starts = np.unique(labels[order], return_index=True)
    own = np.searchsorted(people, labels[split.mated])
    if len(split.mated) and (people[np.minimum(own, len(people) - 1)] != labels[split.mated]).any():
        raise DataError("a mated probe shows somebody who is not in the gallery")
    gallery = vectors[order]
    ranks, mates = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for rows, best in _best(vectors, split.mated, gallery, starts):
        mate = best[np.arange(len(best)), own[rows]]
        ranks.append((best >= mate[:, None]).sum(axis=1))  # the mate itself counts: ranks begin at 1
        mates.append(mate)
    highest = [best.max(axis=1) for _, best in _best(vectors, split.non_mated, gallery, starts)]
    strangers = np.concatenate([np.empty(0, np.float32), *highest])
    return Search(np.concatenate(ranks), np.concatenate(mates), strangers, len(people))


def _best(
    vectors: Vectors, probes: Indices, gallery: Vectors, starts: Indices
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Blocks of probes with the highest similarity to each person, (rows, N)."""
    step = max(1, min(1024, _CELLS // len(gallery)))
    for start in range(0, len(probes), step):
        rows = slice(start, start + step)
        scores = vectors[probes[rows]] @ gallery.T
        alone = len(starts) == len(gallery)
        yield rows, scores if alone else np.maximum.reduceat(scores, starts, axis=1)


def cmc(found: Search, ranks: int = 20) -> tuple[float, ...]:
    """Cumulative match characteristic: share of mated probes whose mate is among the first k, for k = 1 .. ranks.

    Closed set, no threshold: the true-positive identification rate at rank k of ISO/IEC 19795-1. The first value is the
    rank-1 rate.
    """
    counts = np.bincount(found.rank, minlength=ranks + 1)[1 : ranks + 1]
    return tuple((np.cumsum(counts) / len(found.rank)).tolist())


def fpir_at(found: Search, threshold: float) -> float:
    """FPIR(N, T): share of non-mated probes with anybody at or over the threshold."""
    return float((found.strangers >= threshold).mean())


def fnir_at(found: Search, threshold: float, rank: int | None = None) -> float:
    """FNIR(N, R, T) of FRTE: share of mated probes whose mate is under the threshold or not among the first R.

    Args:
        found: the searches.
        threshold: T, inclusive.
        rank: R; None for the whole gallery, so that only the threshold counts.
    """
    returned = found.mate >= threshold
    if rank is not None:
        returned &= found.rank <= rank
    return float(1 - returned.mean())


def open_set(found: Search, fpirs: Sequence[float] = FPIRS, rank: int | None = 1) -> tuple[OpenSetPoint, ...]:
    """FNIR at each FPIR. With rank 1, as here by default, only a mate who is named first counts as found.

    An FPIR under 3/S, of S non-mated probes, cannot be told from zero errors (rule of three) and gets no number.
    """
    return tuple(_point(found, fpir, rank) for fpir in fpirs)


def _point(found: Search, fpir: float, rank: int | None) -> OpenSetPoint:
    count = len(found.strangers)
    if count == 0:
        return OpenSetPoint(fpir, None, None, None, None, "not measurable: there are no non-mated probes")
    if fpir < rule_of_three(count) * (1 - 1e-9):
        bound = rule_of_three(count)
        note = f"not measurable: {count:,} non-mated probes show no more than FPIR at most 3/N = {bound:.1e} at 95 %"
        return OpenSetPoint(fpir, None, None, None, None, note)
    threshold = threshold_at(-np.sort(-found.strangers), count, fpir)
    fnir = fnir_at(found, threshold, rank)
    low, high = wilson(round(fnir * len(found.mate)), len(found.mate))
    return OpenSetPoint(fpir, threshold, fnir, low, high)
