"""Who may be near, without looking at everybody: faces in groups of a few that are alike, each group as one sketch.

Faces of one person are alike, so a group is as good as a person: there are fewer of them than of faces, and their mean
is nearer to a new photo of the person than most of their faces are. A face joins the group that it is like, or begins
another. There is nothing to train; a removed face is gone at once, and its group's sketch is made of those that stay.
"""

from collections.abc import Callable, Sequence

import numpy as np

from models.preprocess import Vectors
from service.domain import Vector
from service.gallery.blocks import Ids
from service.gallery.sharing import Shared
from service.gallery.sketches import BYTES, Sketches, nearest_sketches, sketched

ALIKE = 0.45  # cosine with the mean of a group; strangers are rarely so near, and do no harm if they are
_SEATS = 16  # in a group
_BLOCK = 2**16  # groups that are allocated at a time
_LOOKED_AT = 4  # groups that a new face is compared with
_TOO_FAR = 214  # bits that hardly ever differ between those who are alike
_NOBODY = -1
VectorsOf = Callable[[Sequence[int]], tuple[list[int], Vectors]]


class Groups:
    """Rows in groups. Finding may go on in several threads, and beside it one thread that changes them."""

    def __init__(self, vectors_of: VectorsOf) -> None:
        """No groups yet; `vectors_of` gives those of the rows that are there, and their vectors."""
        self._vectors_of = vectors_of
        self._sketches: list[Sketches] = []  # in blocks (BLOCK, BYTES), of which the last is not full
        self._members: list[Ids] = []  # (BLOCK, SEATS)
        self._count = 0
        self._free: list[int] = []  # groups without members
        self._seats: dict[int, int] = {}  # of each row: its group, and which seat it has there
        self._use = Shared()

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def count(self) -> int:
        """Of groups."""
        return self._count - len(self._free)

    def near(self, sketch: Sketches, groups: int, rows: int) -> list[int]:
        """The rows in the nearest groups to a sketch (1, BYTES): in so many groups, and more for at least `rows`."""
        with self._use.reading():
            near = self._nearest(sketch, groups + rows)[1][0].tolist()
            members = np.array([self._members_of(group) for group in near]).reshape(-1, _SEATS)
        taken = members != _NOBODY
        enough = int(np.searchsorted(taken.sum(axis=1).cumsum(), rows)) + 1
        used = slice(max(groups, enough))
        found: list[int] = members[used][taken[used]].tolist()
        return found

    def candidates(self, sketches: Sketches) -> list[list[int]]:
        """The groups that faces with these sketches (N, BYTES) may belong to."""
        with self._use.reading():
            differ, groups = self._nearest(sketches, _LOOKED_AT)
        return [near[bits <= _TOO_FAR].tolist() for bits, near in zip(differ, groups, strict=True)]

    def add(self, rows: Sequence[int], vectors: Vectors, sketches: Sketches, candidates: list[list[int]]) -> None:
        """Add rows with vectors (N, D), which `vectors_of` gives as well, each into one of its candidates or anew."""
        with self._use.changing():
            alike, groups = vectors @ vectors.T > ALIKE, list[int]()
            for place, row in enumerate(rows):
                # Those that come at the same time may be of one person too.
                also = [groups[other] for other in np.flatnonzero(alike[place, :place])]
                group = self._most_like(vectors[place], [*candidates[place], *also])
                if group is None:
                    group = self._new_group(sketches[place])
                self._seat(row, group)
                groups.append(group)
            self._renew(set(groups))

    def remove(self, rows: Sequence[int]) -> None:
        """Remove rows, of which `vectors_of` knows no longer; one that is not there is ignored."""
        with self._use.changing():
            left = [self._seats.pop(row) for row in rows if row in self._seats]
            for seat in left:
                self._members_of(seat // _SEATS)[seat % _SEATS] = _NOBODY
            self._renew({seat // _SEATS for seat in left})

    def _nearest(self, sketches: Sketches, count: int) -> tuple[Ids, Ids]:
        """Of each sketch (N, BYTES), in how many bits the nearest groups differ, and which those are: (N, count)."""
        found = [(np.empty((len(sketches), 0), np.int64),) * 2]
        for number, block in enumerate(self._sketches):
            used = min(_BLOCK, self._count - number * _BLOCK)
            differ, places = nearest_sketches(sketches, block[:used], count)
            found.append((differ, places + number * _BLOCK))
        differ, groups = (np.concatenate(column, axis=1) for column in zip(*found, strict=True))
        best = np.argsort(differ, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(differ, best, axis=1), np.take_along_axis(groups, best, axis=1)

    def _most_like(self, vector: Vector, groups: Sequence[int]) -> int | None:
        """The group with a free seat that a vector is most like, if it is like any."""
        best, likeness = None, ALIKE
        for group in dict.fromkeys(groups):
            taken = self._taken(group)
            if not taken or len(taken) == _SEATS:
                continue
            mean = self._vectors_of(taken)[1].sum(axis=0)
            cosine = float(mean @ vector) / max(float(np.sqrt(mean @ mean)), 1e-9)
            if cosine > likeness:
                best, likeness = group, cosine
        return best

    def _seat(self, row: int, group: int) -> None:
        members = self._members_of(group)
        seat = int(np.argmin(members))  # nobody is less than any row
        members[seat] = row
        self._seats[row] = group * _SEATS + seat

    def _new_group(self, sketch: Sketches) -> int:
        if self._free:
            group = self._free.pop()
        else:
            group, self._count = self._count, self._count + 1
            if group == len(self._sketches) * _BLOCK:
                self._sketches.append(np.zeros((_BLOCK, BYTES), np.uint8))
                self._members.append(np.full((_BLOCK, _SEATS), _NOBODY))
        self._sketches[group // _BLOCK][group % _BLOCK] = sketch
        return group

    def _renew(self, groups: set[int]) -> None:
        """Make sketches of those who are in the groups now; a group that nobody is left in may be taken by others."""
        taken = {group: self._taken(group) for group in groups}
        for group in (group for group, rows in taken.items() if not rows):
            self._sketches[group // _BLOCK][group % _BLOCK] = 0
            self._free.append(group)
        several = [group for group, rows in taken.items() if rows]
        if several:
            means = np.stack([self._vectors_of(taken[group])[1].sum(axis=0) for group in several])
            for group, sketch in zip(several, sketched(means), strict=True):
                self._sketches[group // _BLOCK][group % _BLOCK] = sketch

    def _members_of(self, group: int) -> Ids:
        members: Ids = self._members[group // _BLOCK][group % _BLOCK]
        return members

    def _taken(self, group: int) -> list[int]:
        members = self._members_of(group)
        taken: list[int] = members[members != _NOBODY].tolist()
        return taken
