"""Exact search over the vectors of one collection, in memory. Derived from the records; they are the truth.

Vectors lie in blocks (blocks.py), which no vector leaves for another: FAISS's own flat index copies all it holds when
it grows (a quarter of a second at a million vectors) and again when something is removed.

A search holds one block at a time, each of its threads another one; those that come while one is under way go
through the blocks together. It sees additions that were complete when it began, and all of each or nothing: several
faces of a person never appear one by one.
"""

import threading
from collections.abc import Sequence

import numpy as np

from models.preprocess import Vectors
from service.domain import Vector
from service.gallery.blocks import Block, Nearest, Part, cosines
from service.gallery.quantised import Probes
from service.gallery.sharing import Lanes, Together

_BLOCK_BYTES = 2**23  # of codes: what a change waits for is the search of one, half a millisecond
_PART_BYTES = 2**23  # of vectors: what is copied at a time
_AT_ONCE = 64  # searches that share a pass
Found = list[tuple[int, float]]


class ExactIndex:
    """Unit vectors by row number; the inner product is the cosine. Calls may come from several threads."""

    def __init__(self, dimension: int, contract_id: str = "", lanes: Lanes | None = None) -> None:
        """Empty; `contract_id` is of all vectors that it will hold, `lanes` are the threads of a search."""
        self.contract_id = contract_id
        self.dimension = dimension
        self._capacity = max(64, _BLOCK_BYTES // dimension)
        self._lanes = lanes or Lanes()
        self._together: Together[tuple[Vector, int], Found] = Together(self._search, _AT_ONCE)
        self._changing = threading.Lock()  # one addition or removal at a time; searches do not wait for it
        self._blocks: tuple[Block, ...] = ()  # replaced, never changed: a search goes through those it began with
        self._open: dict[Block, None] = {}  # blocks with room, oldest first
        self._places: dict[int, int] = {}  # of each row: the first place of its block, and how far it is from that
        self._by_place: dict[int, Block] = {}  # by the first place, in steps of the capacity
        self._next_place = 0
        self._additions = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, row: int) -> bool:
        return row in self._places

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
                places = range(block.first + first, block.first + first + count)
                self._places.update(zip(rows[done : done + count], places, strict=True))
                done += count
                if block.full:
                    del self._open[block]
            self._additions = addition

    def adopt(self, rows: Sequence[int], vectors: Vectors) -> None:
        """As `add`, without a copy: the array is this index's from now on. All threads of a search work on it."""
        vectors = np.require(vectors, np.float32, ("C", "W"))
        with self._changing:
            addition, step = self._additions + 1, self._capacity
            slices = [slice(first, first + step) for first in range(0, len(rows), step)]
            made = [(Block(self._next_place + part.start, vectors[part]), part) for part in slices]
            self._lanes.each(lambda each: each[0].fill(rows[each[1]], addition), made)
            for block, part in made:
                self._places.update(zip(rows[part], range(block.first, block.first + block.count), strict=True))
                self._by_place[block.first] = block
            self._blocks += tuple(block for block, _ in made)
            self._next_place += step * len(made)
            self._additions = addition

    def remove(self, rows: Sequence[int]) -> None:
        """Remove rows; one that is not there is ignored."""
        with self._changing:
            for row in rows:
                self._remove(row)
            if any(not block.count for block in self._blocks):
                self._blocks = tuple(block for block in self._blocks if block.count)
                self._open = {block: None for block in self._open if block.count}
                self._by_place = {block.first: block for block in self._blocks}

    def search(self, vector: Vector, limit: int) -> Found:
        """Row number and cosine of the `limit` nearest, best first."""
        return self._together.ask((vector, limit)) if limit > 0 else []

    def search_all(self, vectors: Vectors, limit: int) -> list[Found]:
        """The same for many probes (Q, D), in fewer passes."""
        chunks = range(0, len(vectors), _AT_ONCE)
        return [
            each
            for first in chunks
            for each in self._search([(vector, limit) for vector in vectors[first : first + _AT_ONCE]])
        ]

    def compared(self, rows: Sequence[int], vector: Vector) -> Found:
        """Row number and cosine of those of the rows that are there, best first."""
        there, vectors = self.vectors_of(rows)
        found, scores = np.array(there, np.int64), cosines(vectors, vector)
        best = np.lexsort((found, -scores))
        return list(zip(found[best].tolist(), scores[best].tolist(), strict=True))

    def vectors_of(self, rows: Sequence[int]) -> tuple[list[int], Vectors]:
        """Those of the rows that are there, and their vectors (N, D)."""
        vectors = np.empty((len(rows), self.dimension), np.float32)
        there: list[int] = []
        with self._changing:  # so that none is moved in between
            for row in rows:
                place = self._places.get(row)
                if place is not None:
                    offset = place % self._capacity
                    vectors[len(there)] = self._by_place[place - offset].vectors[offset]
                    there.append(row)
        return there, vectors[: len(there)]

    def some_rows(self, count: int, rng: np.random.Generator) -> list[int]:
        """Up to `count` rows, by chance; one that is removed meanwhile may be among them."""
        blocks = self._blocks
        counts = np.array([block.count for block in blocks], np.int64)
        places = np.unique(rng.integers(0, counts.sum(), count)) if counts.any() else np.empty(0, np.int64)
        numbers = np.searchsorted(counts.cumsum(), places, "right")
        offsets = places - (counts.cumsum() - counts)[numbers]
        return [int(blocks[number].rows[offset]) for number, offset in zip(numbers, offsets, strict=True)]

    def parts(self) -> list[Part]:
        """What it holds now, a part at a time, as long as nothing is removed; additions may go on."""
        step = max(1, _PART_BYTES // (4 * self.dimension))
        with self._changing:
            return [
                Part(block, first, min(step, block.count - first))
                for block in self._blocks
                for first in range(0, block.count, step)
            ]

    def _search(self, asked: Sequence[tuple[Vector, int]]) -> list[Found]:
        horizon, blocks = self._additions, self._blocks
        nearest = [Nearest(limit) for _, limit in asked]
        probes = Probes(np.stack([vector for vector, _ in asked]))
        self._lanes.each(lambda block: block.search(probes, nearest, horizon), blocks)
        return [each.ranked() for each in nearest]

    def _remove(self, row: int) -> None:
        place = self._places.pop(row, None)
        if place is None:
            return
        offset = place % self._capacity
        block = self._by_place[place - offset]
        moved = block.remove(offset)
        if moved is not None:
            self._places[moved] = place
        self._open[block] = None

    def _new_block(self) -> Block:
        # Not filled: memory is taken from the system when it is written to.
        block = Block(self._next_place, np.empty((self._capacity, self.dimension), np.float32))
        self._next_place += self._capacity
        self._blocks = (*self._blocks, block)
        self._by_place[block.first] = block
        self._open[block] = None
        return block
