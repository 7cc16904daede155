"""Who is nearest? Candidates by their codes in the database; then their vectors are opened and compared exactly here.

A table of codes without an HNSW index is scanned, one with it is walked, and further (iterative scan) for as long as
the list is too short. An index is approximate in whom it finds; what is said of those is exact either way.
"""

from dataclasses import dataclass

import numpy as np

from service.domain import ModelInfo, Vector
from service.gallery.contract import Match, same_contract
from service.gallery.postgres.codes import ERROR
from service.gallery.postgres.database import Database, Row, TableGoneError, Values, Witness
from service.gallery.postgres.keyring import Keyring
from service.gallery.postgres.records import Records, not_found
from service.gallery.postgres.replica import Replica
from service.gallery.postgres.rows import (
    FACE,
    SUBJECT,
    CollectionRow,
    Tally,
    checked_face,
    checked_subject,
    opened_vector,
)

_FIRST = 64  # candidates to begin with, at least
_MOST_BY_INDEX = 2000  # beyond it, looking at every code costs less


@dataclass(frozen=True, slots=True)
class _Search:
    """One probe in one collection, in the state of its newest change."""

    collection: CollectionRow
    state: Witness
    probe: Vector
    code: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """People found, best first; the cosine (by code) of the last candidate, None if there were no more faces; and how
    many people there were at that moment, which may be others than when the search began."""

    people: list[Match]
    horizon: float | None
    there: int


class Search:
    """Calls may come from several threads."""

    def __init__(self, database: Database, keyring: Keyring, records: Records, replica: Replica | None) -> None:
        self._database = database
        self._keyring = keyring
        self._records = records
        self._replica = replica

    def nearest(self, collection: str, contract_id: str, vector: Vector, limit: int) -> tuple[list[Match], int]:
        """The `limit` people nearest to a probe, each by their best face, and the number of faces searched.

        Raises:
            NotFoundError: no such collection.
            ContractMismatchError: the probe is not of the collection's contract.
        """
        try:
            return self._nearest(collection, contract_id, vector, limit)
        except TableGoneError:  # with the contract that it was of, or with the collection: another look tells
            return self._nearest(collection, contract_id, vector, limit)

    def _nearest(self, collection: str, contract_id: str, vector: Vector, limit: int) -> tuple[list[Match], int]:
        found = self._records.find_with_change(collection)
        if found is None:
            raise not_found(collection)
        row, state = found
        same_contract(row.name, row.model, contract_id)
        (code,) = self._keyring.rotation(row.uid, row.model.dimension).codes(vector[None])
        faces = Tally.of(row).faces
        people = self._people(_Search(row, state, vector, code), limit) if faces else []
        return people[:limit], faces

    def _people(self, search: _Search, limit: int) -> list[Match]:
        wanted = max(_FIRST, 4 * limit)
        while True:
            seen = self._look(search, wanted)
            if seen.horizon is None or _enough(seen, min(limit, seen.there)):
                return seen.people
            wanted *= 4  # a person with many faces fills the list, or several are too near to its end to be told apart

    def _look(self, search: _Search, wanted: int) -> _Seen:
        approximate = wanted <= _MOST_BY_INDEX
        rows = self._candidates(search, wanted, approximate)
        if approximate and len(rows) < wanted:  # the walk came to an end of the index, which need not be all there is
            rows = self._candidates(search, wanted, False)
        horizon, there = (rows[-1][14], Tally.unpacked(bytes(rows[-1][15])).subjects) if rows else (None, 0)
        return _Seen(self._ranked(search, rows), horizon if len(rows) == wanted else None, there)

    def _candidates(self, search: _Search, wanted: int, approximate: bool) -> list[Row]:
        """The nearest faces by their codes, with their people; then the cosine, and the collection's tally.

        Raises:
            NotFoundError: the collection was erased meanwhile.
            ContractMismatchError: its model was changed meanwhile; vectors of the old one may be gone.
        """
        row = search.collection
        # The index is over this very expression; without the cast it is not looked at.
        cast = f"::halfvec({row.model.dimension})" if approximate else ""
        distance = f"v.code{cast} <#> %s::halfvec{f'({row.model.dimension})' if approximate else ''}"
        query = (
            f"WITH nearest AS MATERIALIZED (SELECT v.id, {distance} AS distance FROM {row.place.table} v"  # noqa: S608
            f" WHERE v.code IS NOT NULL ORDER BY {distance} LIMIT %s)"
            f" SELECT {FACE}, {row.place.vector}, {SUBJECT}, -n.distance, c.tally, c.model_id, c.contract_id"
            f" FROM collections c LEFT JOIN (nearest n JOIN faces_{row.id} f ON f.collection = {row.id} AND f.id = n.id"
            f" JOIN subjects s ON s.id = f.subject) ON true WHERE c.id = {row.id} ORDER BY n.distance, f.id"
        )
        rows = self._read(search, query, (search.code, search.code, wanted))
        if not rows:
            raise not_found(row.name)
        # One state of everything: was it still of this model there?
        same_contract(row.name, ModelInfo(rows[0][16], rows[0][17], row.model.dimension), row.model.contract_id)
        return [each for each in rows if each[0] is not None]

    def _read(self, search: _Search, query: str, values: Values) -> list[Row]:
        if self._replica is not None:
            rows = self._replica.read(search.state, query, values)
            if rows is not None:
                return rows
        return self._database.read(query, values)

    def _ranked(self, search: _Search, rows: list[Row]) -> list[Match]:
        """People by the exact cosine of their best face."""
        if not rows:
            return []
        row, cipher = search.collection, self._keyring.cipher(search.collection.uid)
        owners = [checked_subject(each[9:14], row.uid, cipher) for each in rows]
        faces = [checked_face(each, owner.uid, cipher) for each, owner in zip(rows, owners, strict=True)]
        vectors = [opened_vector(face, each[8], row, cipher) for face, each in zip(faces, rows, strict=True)]
        cosines = np.stack(vectors) @ search.probe
        best: dict[str, Match] = {}
        for place in np.lexsort((np.array([face.id for face in faces]), -cosines)):
            owner = owners[place]
            if owner.name not in best:
                best[owner.name] = Match(owner.name, faces[place].face_id, float(cosines[place]), owner.uid)
        return list(best.values())


def _enough(seen: _Seen, limit: int) -> bool:
    """Whether nobody who was not seen can belong among the first `limit`: codes are off by ERROR at most."""
    if len(seen.people) < limit or seen.horizon is None:
        return False
    return limit == 0 or seen.people[limit - 1].similarity >= seen.horizon + ERROR
