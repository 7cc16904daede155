"""The index of a collection: exact, and once it is large approximate as well, where that finds enough of what is near.

Groups (groups.py) are made beside everything else, out of what is there when they are begun; they are told of every
change from then on. Who is named by them is compared with the vectors of the exact index, so an erased face, which has
none there, cannot be found, whatever the timing. Before they are used, and now and then, they are held against exact
search (recall.py, grouping.py); where they do not find what is asked of them, search stays exact.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from models.preprocess import Vectors
from service.domain import Vector
from service.gallery.blocks import Part
from service.gallery.groups import Groups
from service.gallery.index import ExactIndex, Found
from service.gallery.recall import Sample
from service.gallery.sharing import Lanes
from service.gallery.sketches import sketched

_AT_ONCE = 16  # faces that are grouped while changes wait
PROBED = (16, 32, 64, 128, 256, 512)  # groups that are looked into, as far as it has to be
_MOST = 256  # results; whoever asks for more gets them exactly


class TieredIndex:
    """An exact index and, perhaps, groups. Calls may come from several threads."""

    def __init__(self, dimension: int, contract_id: str = "", lanes: Lanes | None = None) -> None:
        """Empty, and exact."""
        self.exact = ExactIndex(dimension, contract_id, lanes)
        self.recall: float | None = None  # of the groups, as last measured, while they are used
        self._changing = threading.Lock()
        self._groups: Groups | None = None  # told of changes
        self._probed = 0  # how many are looked into; 0: search is exact
        self.reached = 0.0  # what the last check measured
        self.checked_at, self.checked_faces = 0.0, 0

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def contract_id(self) -> str:
        """Of all vectors in it."""
        return self.exact.contract_id

    @property
    def approximate(self) -> bool:
        """Whether groups are used."""
        return self._probed > 0

    def rows(self) -> set[int]:
        """The row numbers of all vectors."""
        return self.exact.rows()

    def parts(self) -> list[Part]:
        """As `ExactIndex.parts`."""
        return self.exact.parts()

    def add(self, rows: Sequence[int], vectors: Vectors) -> None:
        """Add vectors (N, D) under their row numbers; when this returns, a search finds them."""
        with self._changing:
            self.exact.add(rows, vectors)
            if self._groups is not None:
                _group(self._groups, rows, np.ascontiguousarray(vectors, np.float32))

    def adopt(self, rows: Sequence[int], vectors: Vectors) -> None:
        """Begin with these; as `ExactIndex.adopt`."""
        self.exact.adopt(rows, vectors)

    def remove(self, rows: Sequence[int]) -> None:
        """Remove rows; one that is not there is ignored."""
        with self._changing:
            self.exact.remove(rows)  # from here on nobody can be found by them
        for first in range(0, len(rows), _AT_ONCE):
            with self._changing:
                if self._groups is not None:
                    self._groups.remove(rows[first : first + _AT_ONCE])

    def search(self, vector: Vector, limit: int) -> Found:
        """Row number and cosine of the `limit` nearest, best first; of those that are found, the cosines are exact."""
        probed = self._probed
        if probed and limit <= _MOST:
            found = self.search_groups(vector, limit, probed)
            if len(found) == limit:
                return found
        return self.exact.search(vector, limit)

    def search_groups(self, vector: Vector, limit: int, probed: int) -> Found:
        """The same by looking into the nearest groups; none if there are no groups."""
        groups = self._groups
        if groups is None:
            return []
        vector = np.ascontiguousarray(vector, np.float32)
        rows = groups.near(sketched(vector[None]), probed, limit)
        return self.exact.compared(rows, vector)[:limit]

    def group(self, stopped: Callable[[], bool]) -> bool:
        """Put all vectors into groups, beside everything else; False if it was stopped. They are not used yet."""
        with self._changing:
            groups = self._groups = Groups(self.exact.vectors_of)
            rows = list(self.exact.rows())
        rows.sort()
        for first in range(0, len(rows), _AT_ONCE):
            if stopped():
                self.ungroup()
                return False
            wanted = rows[first : first + _AT_ONCE]
            sketches = sketched(self.exact.vectors_of(wanted)[1])
            candidates = groups.candidates(sketches) if len(sketches) else []
            with self._changing:
                there, vectors = self.exact.vectors_of(wanted)
                if len(there) < len(candidates):  # erased meanwhile
                    _group(groups, there, vectors)
                else:
                    groups.add(there, vectors, sketches, candidates)
        return True

    def ungroup(self) -> None:
        """Search exactly."""
        with self._changing:
            self._probed, self.recall, self._groups = 0, None, None

    def check(self, asked: float, seed: int | None = None) -> bool:
        """Look into as many groups as find the share `asked` of what is near; False if all that may be are not enough.

        Fewer than now are not tried: that a sample was lucky is no reason to see less.
        """
        sample = Sample(self.exact, seed)
        self.checked_at, self.checked_faces = time.monotonic(), len(self)
        for probed in (each for each in PROBED if each >= self._probed):
            self.reached = sample.recall(partial(self.search_groups, probed=probed))
            if self.reached >= asked:
                self._probed, self.recall = probed, self.reached
                return True
        return False


def _group(groups: Groups, rows: Sequence[int], vectors: Vectors) -> None:
    if rows:
        sketches = sketched(vectors)
        groups.add(rows, vectors, sketches, groups.candidates(sketches))
