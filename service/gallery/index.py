"""Exact search over the vectors of one collection, in memory. Derived from the records; they are the truth.

Vectors lie in blocks of about 8 MB that are allocated once and kept dense: a vector is added behind the last of a
block, and a removed one is replaced by the last of its own block. So both cost the same at any size, where FAISS's
own flat index copies all it holds when it grows (a quarter of a second at a million vectors) and again when something
is removed. FAISS scans the blocks.

A search holds one block at a time. It sees additions that were complete when it began, and all of each or nothing:
several faces of a person never appear one by one.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from service.domain import Vector

Ids = NDArray[np.int64]
_BLOCK_BYTES = 2**23


class ExactIndex:
    """Unit vectors by row number; the inner product is the cosine. Calls may come from several threads.

    An approximate index for larger collections would have the same five methods.
    """

    def __init__(self, dimension: int, contract_id: str = "") -> None:
        """Empty; `contract_id` is of all vectors that it will hold."""
        self.contract_id = contract_id
        self._dimension = dimension
        self._capacity = max(64, _BLOCK_BYTES // (4 * dimension))
        self._changing = threading.Lock()  # one addition or removal at a time; searches do not wait for it
        self._blocks: tuple[_Block, ...] = ()  # replaced, never changed: a search goes through those it began with
        self._open: dict[_Block, None] = {}  # blocks with room, oldest first
        self._places: dict[int, tuple[_Block, int]] = {}
        self._additions = 0

    def __len__(self) -> int:
        return len(self._places)

    def rows(self) -> set[int]:
        """The row numbers of all vectors."""
        with self._changing:
            return set(self._places)

    def add(self, rows: Sequence[int], vectors: Vectors) -> None:
        """Add vectors (N, D) under their row numbers, none of which may be there already; visible all at once."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        with self._changing:
            addition, done = self._additions + 1, 0
            while done < len(rows):
                block = next(iter(self._open), None) or self._new_block()
                first, count = block.append(rows[done:], vectors[done:], addition)
                self._places.update((rows[done + i], (block, first + i)) for i in range(count))
                done += count
                if block.full:
                    del self._open[block]
            self._additions = addition

    def remove(self, rows: Sequence[int]) -> None:
        """Remove rows; one that is not there is ignored."""
        with self._changing:
            for row in rows:
                self._remove(row)
            if any(not block.count for block in self._blocks):
                self._blocks = tuple(block for block in self._blocks if block.count)
                self._open = {block: None for block in self._open if block.count}

    def search(self, vector: Vector, limit: int) -> list[tuple[int, float]]:
        """Row number and cosine of the `limit` nearest, best first."""
        # OpenMP keeps this number for each thread: what the main thread is told does not hold for those of a pool.
        faiss.omp_set_num_threads(1)
        horizon, probe = self._additions, np.ascontiguousarray(vector, np.float32)[None]
        found = [block.search(probe, limit, horizon) for block in self._blocks]
        if not found:
            return []
        scores, rows = (np.concatenate(column) for column in zip(*found, strict=True))
        best = np.lexsort((rows, -scores))[:limit]
        return list(zip(rows[best].tolist(), scores[best].tolist(), strict=True))

    def parts(self) -> list["Part"]:
        """What it holds now, a block at a time, as long as nothing is removed; additions may go on."""
        with self._changing:
            return [Part(block, block.count) for block in self._blocks if block.count]

    def _remove(self, row: int) -> None:
        place = self._places.pop(row, None)
        if place is None:
            return
        block, offset = place
        moved = block.remove(offset)
        if moved is not None:
            self._places[moved] = (block, offset)
        self._open[block] = None

    def _new_block(self) -> "_Block":
        block = _Block(self._capacity, self._dimension)
        self._blocks = (*self._blocks, block)
        self._open[block] = None
        return block


@dataclass(frozen=True, slots=True)
class Part:
    """The first `count` vectors of a block. They are copied when they are asked for, not all at once."""

    _block: "_Block"
    count: int

    def copy(self) -> tuple[Ids, Vectors]:
        """Row numbers (n,) and vectors (n, D)."""
        return self._block.copy(self.count)


class _Block:
    """Up to `capacity` vectors side by side, with the row number and the addition that each came with."""

    def __init__(self, capacity: int, dimension: int) -> None:
        # Not filled: memory is taken from the system when it is written to.
        self.vectors = np.empty((capacity, dimension), np.float32)
        self.rows = np.empty(capacity, np.int64)
        self.count = 0
        self._born = np.empty(capacity, np.int64)
        self._youngest = 0
        self._lock = threading.Lock()

    @property
    def full(self) -> bool:
        return self.count == len(self.rows)

    def append(self, rows: Sequence[int], vectors: Vectors, addition: int) -> tuple[int, int]:
        """As many as there is room for: where the first is now, and how many they are."""
        first = self.count
        count = min(len(rows), len(self.rows) - first)
        with self._lock:
            self.vectors[first : first + count] = vectors[:count]
            self.rows[first : first + count] = rows[:count]
            self._born[first : first + count] = addition
            self._youngest = addition
            self.count += count
        return first, count

    def remove(self, offset: int) -> int | None:
        """The row number that has taken the place, if another has."""
        with self._lock:
            last = self.count - 1
            for column in (self.vectors, self.rows, self._born):
                column[offset] = column[last]
                column[last] = 0  # what is erased does not stay in memory
            self.count = last
            return int(self.rows[offset]) if offset != last else None

    def copy(self, count: int) -> tuple[Ids, Vectors]:
        with self._lock:
            return self.rows[:count].copy(), self.vectors[:count].copy()

    def search(self, probe: Vectors, limit: int, horizon: int) -> tuple[NDArray[np.float32], Ids]:
        """Scores and row numbers of the nearest among the vectors that came up to the addition `horizon`."""
        with self._lock:
            vectors, rows = self.vectors[: self.count], self.rows[: self.count]
            if self._youngest > horizon:
                old = self._born[: self.count] <= horizon
                vectors, rows = vectors[old], rows[old]
            if not len(rows):
                return np.empty(0, np.float32), np.empty(0, np.int64)
            scores, places = faiss.knn(probe, vectors, min(limit, len(rows)), metric=faiss.METRIC_INNER_PRODUCT)
            return scores[0], rows[places[0]]
