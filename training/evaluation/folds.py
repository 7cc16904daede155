"""Pairs of a labelled set for verification: as many of one person as of two, in folds that share nobody."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError

Indices = NDArray[np.int64]
FOLDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class PairList:
    """P pairs of rows.

    first and second (P,), rows; same bool (P,), whether both are of one person; fold (P,), 0..F-1; disjoint, whether
    no person is in two folds; groups, a value a pair or nothing.
    """

    first: Indices
    second: Indices
    same: NDArray[np.bool_]
    fold: Indices
    disjoint: bool
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.same)


def balanced_pairs(
    labels: NDArray[np.integer], seed: int = 0, max_genuine_per_person: int | None = 20, folds: int = FOLDS
) -> PairList:
    """Genuine pairs of everybody and as many impostor pairs, drawn evenly without repetition.

    Where at least `folds` people have two photos, the people are dealt out to the folds and both sides of a pair are of
    one fold, as in View 2 of LFW (Huang et al., UMass Amherst TR 07-49, 2007). Where they are fewer, the pairs are
    dealt out, and `disjoint` is False.

    Args:
        labels: the person on each photo (N,).
        seed: of what is drawn.
        max_genuine_per_person: so that a few people with many photos do not decide; None takes all.
        folds: how many.

    Raises:
        DataError: fewer pairs than folds.
    """
    rng = np.random.default_rng(seed)
    people, own = np.unique(labels, return_inverse=True)
    counts = np.bincount(own, minlength=len(people))
    cap = np.inf if max_genuine_per_person is None else max_genuine_per_person
    wanted = np.minimum(counts * (counts - 1) // 2, cap)
    disjoint = int((wanted > 0).sum()) >= folds and len(people) >= 2 * folds
    place = _deal(wanted, counts, folds, rng) if disjoint else np.zeros(len(people), np.int64)
    parts = [_drawn(own, np.flatnonzero(place[own] == number), cap, rng) for number in range(place.max(initial=0) + 1)]
    pairs, same = (np.concatenate(column) for column in zip(*parts, strict=True))
    if same.sum() < folds:
        raise DataError(f"{same.sum()} genuine pairs, with as many impostor ones, are too few for {folds} folds")
    fold = np.repeat(np.arange(folds), [len(part) for _, part in parts]) if disjoint else spread(same, folds, rng)
    return PairList(pairs[:, 0], pairs[:, 1], same, fold, disjoint)


def spread(same: NDArray[np.bool_], folds: int, rng: np.random.Generator) -> Indices:
    """A fold for each pair, (P,): chosen by chance, with as many of both kinds in each as can be."""
    fold = np.empty(len(same), np.int64)
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(same == kind))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def _deal(wanted: NDArray[np.float64], counts: Indices, folds: int, rng: np.random.Generator) -> Indices:
    """A fold for each person, in rounds in which each fold gets one: so none is left with one person, and no impostors.

    Whoever has most pairs of a round goes to the fold that has fewest so far.
    """
    shuffled = rng.permutation(len(wanted))
    order = shuffled[np.lexsort((-counts[shuffled], -wanted[shuffled]))]
    place = np.empty(len(wanted), np.int64)
    pairs = np.zeros(folds)
    for start in range(0, len(order), folds):
        dealt = order[start : start + folds]
        place[dealt] = np.argsort(pairs, kind="stable")[: len(dealt)]
        pairs[place[dealt]] += wanted[dealt]
    return place


def _drawn(own: Indices, rows: Indices, cap: float, rng: np.random.Generator) -> tuple[Indices, NDArray[np.bool_]]:
    """Pairs (P, 2) among `rows`, the genuine ones first, and which are genuine."""
    genuine = _genuine(own, rows, cap, rng)
    impostor = _impostor(own, rows, len(genuine), rng)
    if len(impostor) < len(genuine):
        genuine = rng.permutation(genuine)[: len(impostor)]
    same = np.arange(len(genuine) + len(impostor)) < len(genuine)
    return np.concatenate([genuine, impostor]), same


def _genuine(own: Indices, rows: Indices, cap: float, rng: np.random.Generator) -> Indices:
    ordered = rows[np.argsort(own[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(own[ordered], prepend=-1))
    found = [np.empty((0, 2), np.int64)]
    for photos in np.split(ordered, starts[1:]):
        total = len(photos) * (len(photos) - 1) // 2
        chosen = rng.choice(total, int(cap), replace=False) if total > cap else np.arange(total)
        found.append(photos[unpack(chosen)])
    return np.concatenate(found)


def _impostor(own: Indices, rows: Indices, count: int, rng: np.random.Generator) -> Indices:
    """`count` different pairs of two people, or all there are if they are fewer."""
    total = len(rows) * (len(rows) - 1) // 2
    drawn = 2 * count + 16
    while True:
        chosen = rng.choice(total, min(drawn, total), replace=False)
        pairs: Indices = rows[unpack(chosen)]
        apart: Indices = pairs[own[pairs[:, 0]] != own[pairs[:, 1]]]
        if len(apart) >= count or drawn >= total:
            return apart[:count]
        drawn *= 4


def unpack(number: Indices) -> Indices:
    """Numbers 0 .. n(n-1)/2 - 1 to pairs i < j, (P, 2): number = j(j-1)/2 + i."""
    j = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    j -= j * (j - 1) // 2 > number  # the root may be rounded to either side
    j += j * (j + 1) // 2 <= number
    pairs: Indices = np.stack([number - j * (j - 1) // 2, j], axis=1)
    return pairs
