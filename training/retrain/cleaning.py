"""Mistakes in labelled photos, told by embeddings: duplicates, wrong labels, outliers, people who are one person twice.

A person's *core* is the largest group of their photos that hang together at the outlier threshold; its mean is their
centre. Two wrong photos among five move a mean, but not a core. The mean is not scaled to unit length: so a product
with it is the mean cosine to the photos of the core, which thresholds for pairs of photos are right for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from training.retrain import duplicates
from training.retrain.duplicates import Alike

Labels = NDArray[np.int32]
KEEP, DROP = "keep", "drop"


@dataclass(frozen=True, slots=True)
class Levels:
    """Cosines: under `outlier` a photo does not belong to its person; from `move` on it belongs to another."""

    outlier: float
    move: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake. `row` is the photo, or None where it is about a whole person; `score` the cosine that tells.

    decision: keep, drop, move:PERSON (a photo), merge:PERSON (a person). others: the photo and the person beside it.
    """

    row: int | None
    person: str
    kind: str
    score: float
    decision: str
    other_row: int | None = None
    other_person: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Centres:
    """The mean of each person's core (C, D), zero where there is none; whether each photo is in a core (N,)."""

    vectors: Vectors
    there: NDArray[np.bool_]
    in_core: NDArray[np.bool_]


def find(vectors: Vectors, labels: Labels, people: Sequence[str], same: Alike, levels: Levels) -> list[Finding]:
    """Everything that looks like a mistake, with what would be done about it.

    Args:
        vectors: unit rows (N, D), by a model that was not trained on these labels.
        labels: indices into `people`, (N,).
        people: C names.
        same: the duplicates of the set.
        levels: cosines to decide by.
    """
    twice = _duplicates(vectors, labels, people, same, levels)
    left = np.ones(len(labels), np.bool_)
    left[[found.row for found in twice if found.row is not None]] = False
    centres = centres_of(vectors, labels, len(people), left, levels.outlier)
    wrong = _wrong(vectors, labels, people, left, centres, levels)
    moved = {found.row for found in wrong}
    stay = np.bincount(labels[[row for row in np.flatnonzero(left) if row not in moved]], minlength=len(people))
    return twice + wrong + _one_twice(people, centres, stay, levels)


def centres_of(vectors: Vectors, labels: Labels, people: int, left: NDArray[np.bool_], link: float) -> Centres:
    """The centre of each person's core; there is none where no group of photos is the largest.

    Args:
        vectors: unit rows (N, D).
        labels: (N,), of `people` people.
        people: how many.
        left: the photos that count (N,).
        link: cosine from which on two photos hang together.
    """
    centres = np.zeros((people, vectors.shape[1]), np.float32)
    in_core = np.zeros(len(labels), np.bool_)
    order = np.flatnonzero(left)[np.argsort(labels[left], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(order) else []:
        core = _core(vectors[rows], link)
        if core is not None:
            centres[labels[rows[0]]] = vectors[rows[core]].mean(axis=0)
            in_core[rows[core]] = True
    return Centres(centres, np.linalg.norm(centres, axis=1) > 0, in_core)


def _core(own: Vectors, link: float) -> NDArray[np.int64] | None:
    if len(own) == 1:
        return np.zeros(1, np.int64)
    linked = np.argwhere(np.triu(own @ own.T >= link, k=1))
    found = sorted(duplicates.groups(linked), key=len, reverse=True)
    if not found or (len(found) > 1 and len(found[0]) == len(found[1])):
        return None
    return np.array(found[0], np.int64)


def _duplicates(vectors: Vectors, labels: Labels, people: Sequence[str], same: Alike, levels: Levels) -> list[Finding]:
    exact = {tuple(pair) for pair in same.pairs[same.exact].tolist()}
    of_row: dict[int, set[int]] = {}
    for i, j in exact:
        of_row.setdefault(i, set()).add(j)
        of_row.setdefault(j, set()).add(i)
    found = []
    for rows in duplicates.groups(same.pairs):
        kept = _owner(vectors, labels, rows, levels.outlier)
        several = len(set(labels[rows].tolist())) > 1
        for row in rows:
            if row == kept:
                continue
            other = kept if kept is not None else next(each for each in rows if each != row)
            kind = "two_people" if several else "duplicate" if of_row.get(row) else "near_duplicate"
            score = float(vectors[row] @ vectors[other])
            found.append(Finding(row, people[labels[row]], kind, score, DROP, other, people[labels[other]]))
    return found


def _owner(vectors: Vectors, labels: Labels, rows: list[int], least: float) -> int | None:
    """The photo that stays: the first of the person whose other photos it resembles most; None where nobody's."""
    owners = sorted(set(labels[rows].tolist()))
    if len(owners) == 1:
        return rows[0]
    best, score = None, least
    for person in owners:
        others = np.setdiff1d(np.flatnonzero(labels == person), rows)
        if not len(others):
            continue
        own = next(row for row in rows if labels[row] == person)
        found = float(np.median(vectors[others] @ vectors[own]))
        if found >= score:
            best, score = own, found
    return best


def _wrong(
    vectors: Vectors,
    labels: Labels,
    people: Sequence[str],
    left: NDArray[np.bool_],
    centres: Centres,
    levels: Levels,
) -> list[Finding]:
    rows = np.flatnonzero(left & ~centres.in_core)
    own = np.einsum("nd,nd->n", vectors[rows], centres.vectors[labels[rows]])
    suspects = rows[~centres.there[labels[rows]] | (own < levels.outlier)]
    found = [_judge(vectors, labels, people, int(row), centres, levels) for row in suspects]
    return _spare_the_last(found, labels, left, centres)


def _judge(
    vectors: Vectors, labels: Labels, people: Sequence[str], row: int, centres: Centres, levels: Levels
) -> Finding:
    scores = centres.vectors @ vectors[row]
    own = float(scores[labels[row]])
    scores[labels[row]] = -1
    best = int(scores.argmax())
    name, other, score = people[labels[row]], people[best], float(scores[best])
    if score >= levels.move:
        return Finding(row, name, "wrong_label", score, f"move:{other}", None, other)
    kind = "outlier" if centres.there[labels[row]] else "disagreement"
    return Finding(row, name, kind, own, DROP, None, other)


def _spare_the_last(found: list[Finding], labels: Labels, left: NDArray[np.bool_], centres: Centres) -> list[Finding]:
    """Of people without a core, one who is left with a single photo that belongs to nobody else keeps it."""
    counts = np.bincount(labels[left], minlength=len(centres.there))
    moved = np.bincount(
        [labels[each.row] for each in found if each.row is not None and each.kind == "wrong_label"],
        minlength=len(counts),
    )
    return [
        each for each in found if each.kind != "disagreement" or counts[labels[each.row]] - moved[labels[each.row]] > 1
    ]


def _one_twice(people: Sequence[str], centres: Centres, stay: NDArray[np.int64], levels: Levels) -> list[Finding]:
    """People whose centres are one: the smaller is merged into the larger, and a chain into its largest."""
    numbers = np.flatnonzero(centres.there & (stay > 0))
    scores = centres.vectors[numbers] @ centres.vectors[numbers].T
    pairs = np.argwhere(np.triu(scores >= levels.move, k=1))
    found = []
    for rows in duplicates.groups(pairs):
        members = sorted(numbers[rows].tolist(), key=lambda number: (-stay[number], people[number]))
        into = members[0]
        for number in members[1:]:
            score = float(centres.vectors[number] @ centres.vectors[into])
            found.append(
                Finding(None, people[number], "same_person", score, f"merge:{people[into]}", None, people[into])
            )
    return found
