"""Vectors side by side in blocks that are allocated once and kept dense, each with its code in eight bits.

A vector is added behind the last of a block, and a removed one is replaced by the last of its own block, so both cost
the same at any size. A search goes through the codes, and then compares exactly, out of the vectors themselves,
whoever may be among the nearest as far as the codes can tell (quantised.py): what it finds is exact.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from service.domain import Vector
from service.gallery.quantised import Probes, quantised

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]
_FEW = 1024
_LOWEST = float(np.finfo(np.float32).min)  # -inf is the score of who is not to be seen


class Nearest:
    """The `limit` nearest to one probe so far. Several threads may bring what they find."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.floor = -np.inf  # no score below it belongs to them
        self._scores = np.empty(0, np.float32)
        self._rows = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def bring(self, scores: Scores, rows: Ids) -> None:
        """Exact scores (n,) of rows (n,)."""
        with self._lock:
            scores, rows = np.concatenate((self._scores, scores)), np.concatenate((self._rows, rows))
            if len(rows) > self.limit:
                best = np.argpartition(scores, -self.limit)[-self.limit :]
                scores, rows = scores[best], rows[best]
            self._scores, self._rows = scores, rows
            if len(rows) == self.limit:
                self.floor = max(self.floor, float(scores.min()))

    def ranked(self) -> list[tuple[int, float]]:
        """Row numbers and scores, best first."""
        best = np.lexsort((self._rows, -self._scores))
        return list(zip(self._rows[best].tolist(), self._scores[best].tolist(), strict=True))


class Block:
    """Up to `capacity` vectors with the row number and the addition that each came with; `first` is its first place."""

    def __init__(self, first: int, vectors: Vectors) -> None:
        """Empty, with an array (capacity, D) to keep vectors in."""
        capacity, dimension = vectors.shape
        self.first = first
        self.vectors = vectors
        self.rows = np.empty(capacity, np.int64)
        self.count = 0
        self._codes = np.empty((capacity, dimension), np.int8)
        self._scales = np.empty(capacity, np.float32)
        self._born = np.empty(capacity, np.int64)
        self._youngest = 0
        self._lost = self._length = 0.0  # of any vector that is in it, or was
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return self.count == len(self.rows)

    def append(self, rows: Sequence[int], vectors: Vectors, addition: int) -> tuple[int, int]:
        """As many as there is room for: where the first is now, and how many they are."""
        first = self.count
        count = min(len(rows), len(self.rows) - first)
        self.vectors[first : first + count] = vectors[:count]
        self.fill(rows[:count], addition)
        return first, count

    def fill(self, rows: Sequence[int], addition: int) -> None:
        """Take in what the array holds already behind the last vector: those of these rows."""
        # Nobody looks behind the last vector: only to be the last has to wait for searches.
        count, place = len(rows), slice(self.count, self.count + len(rows))
        made = quantised(self.vectors[place])
        self.rows[place], self._born[place] = rows, addition
        self._codes[place], self._scales[place] = made.codes, made.scales
        with self._lock:
            self._lost = max(self._lost, float(made.lost.max()))
            self._length = max(self._length, float(made.length.max()))
            self._youngest = addition
            self.count += count

    def remove(self, offset: int) -> int | None:
        """The row number that has taken the place, if another has."""
        with self._lock:
            last = self.count - 1
            for column in (self.vectors, self.rows, self._born, self._codes, self._scales):
                column[offset] = column[last]
                column[last] = 0  # what is erased does not stay in memory
            self.count = last
            return int(self.rows[offset]) if offset != last else None

    def copy(self, part: slice) -> tuple[Ids, Vectors]:
        """Row numbers and vectors of a part of it."""
        with self._lock:
            return self.rows[part].copy(), self.vectors[part].copy()

    def search(self, probes: Probes, nearest: Sequence[Nearest], horizon: int) -> None:
        """Bring to each probe's nearest those of the vectors that came up to the addition `horizon`."""
        with self._lock:
            if not self.count:
                return
            scores = probes.scores(self._codes[: self.count], self._scales[: self.count])
            if self._youngest > horizon:
                scores[:, self._born[: self.count] > horizon] = -np.inf
            margins = probes.margins(self._lost, self._length)
            for probe, estimates, margin, best in zip(probes.vectors, scores, margins, nearest, strict=True):
                self._rerank(probe, estimates, float(margin), best)

    def _rerank(self, probe: Vector, estimates: Scores, margin: float, best: Nearest) -> None:
        places = _possible(estimates, margin, best)
        if len(places):
            best.bring(cosines(self.vectors[places], probe), self.rows[places])


def cosines(vectors: Vectors, probe: Vector) -> Scores:
    """Of vectors (n, D) and a probe: each the same to the last bit, whichever others it is computed with."""
    found: Scores = np.vecdot(vectors, probe)
    return found


def _possible(estimates: Scores, margin: float, best: Nearest) -> Ids:
    """Places of all who may be among the nearest: at least `limit` are surely no worse than the floor."""
    floor = best.floor
    if floor == -np.inf:  # nothing is known yet: a few of them tell that most others are too far
        floor = _floor(estimates[: max(_FEW, 4 * best.limit)], margin, best.limit)
    places = np.flatnonzero(estimates >= max(floor - margin, _LOWEST))
    if len(places) > best.limit:
        floor = max(floor, _floor(estimates[places], margin, best.limit))
        places = places[estimates[places] >= floor - margin]
    return places


def _floor(estimates: Scores, margin: float, limit: int) -> float:
    """What at least `limit` of these surely reach; so nothing below it can be among the nearest."""
    return float(np.partition(estimates, -limit)[-limit]) - margin if len(estimates) >= limit else -np.inf


@dataclass(frozen=True, slots=True)
class Part:
    """Vectors beside one another in a block. They are copied when they are asked for, not all at once."""

    _block: Block
    _first: int
    count: int

    def copy(self) -> tuple[Ids, Vectors]:
        """Row numbers (n,) and vectors (n, D)."""
        return self._block.copy(slice(self._first, self._first + self.count))
