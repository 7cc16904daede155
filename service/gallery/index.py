"""Exact search over the vectors of one collection, in memory, with FAISS. Derived from the records, never stored."""

import threading
from collections.abc import Sequence

import faiss
import numpy as np

from models.preprocess import Vectors
from service.domain import Vector


class FlatIndex:
    """Unit vectors by row number; the inner product is the cosine. Calls may come from several threads."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        self._lock = threading.Lock()  # FAISS does not allow a search beside an addition or removal

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: Sequence[int], vectors: Vectors) -> None:
        """Add vectors (N, D) under their row numbers."""
        with self._lock:
            self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.asarray(rows, np.int64))

    def remove(self, rows: Sequence[int]) -> None:
        """Remove rows; one that is not there is ignored."""
        with self._lock:
            self._index.remove_ids(faiss.IDSelectorBatch(np.asarray(rows, np.int64)))

    def search(self, vector: Vector, limit: int) -> list[tuple[int, float]]:
        """Row number and cosine of the `limit` nearest, best first."""
        with self._lock:
            scores, rows = self._index.search(vector[None], min(limit, len(self)) or 1)
        return [(int(row), float(score)) for row, score in zip(rows[0], scores[0], strict=True) if row >= 0]
