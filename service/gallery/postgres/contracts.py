"""Vectors of enrolled faces under other contracts than their collection's, and the change of a collection's model.

What is done to them is committed without an entry of the audit log, for nobody is answered by it; the change of the
model is an entry, and a replica that has it has all the vectors that were kept before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from service.domain import Coverage, ModelInfo, StoredCrop, TwoVectors, Vector
from service.errors import StorageError
from service.gallery.contract import LAST
from service.gallery.postgres.changes import WRITING, Changes
from service.gallery.postgres.database import Database, Row
from service.gallery.postgres.keyring import Keyring
from service.gallery.postgres.records import Records
from service.gallery.postgres.rows import FACE, CollectionRow, Place, checked_face, vector_under
from service.gallery.postgres.trail import PostgresTrail
from service.gallery.postgres.vectors import Vectors
from service.gallery.sealing import crop_context

Embed = Callable[[Sequence[StoredCrop]], Sequence[Vector]]
# A transaction in which nothing is asked of the database for longer is ended by it: so long may the last faces take.
_EMBEDDING = "SET LOCAL idle_in_transaction_session_timeout = '3min'"


class Contracts:
    """Calls may come from several threads, and from several servers."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        records: Records,
        vectors: Vectors,
        changes: Changes,
        trail: PostgresTrail,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._records = records
        self._vectors = vectors
        self._changes = changes
        self._trail = trail

    def coverage(self, collection: str, contract_id: str) -> Coverage:
        """How many faces have no vector under a contract.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.snapshot():
            row = self._records.look_up(collection)
            return self._coverage(row, self._vectors.places(row).get(contract_id))

    def uncovered(self, collection: str, contract_id: str, after: int, limit: int) -> list[StoredCrop]:
        """Crops of up to `limit` faces without a vector under a contract, of those with numbers above `after`.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.snapshot():
            row = self._records.look_up(collection)
            return self._uncovered(row, self._vectors.places(row).get(contract_id), after, limit)

    def cover(self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors under another contract, by face_id, of faces that have none.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.transaction():
            self._cover(self._records.look_up(collection, WRITING), model, vectors)

    def two_vectors(self, collection: str, contract_id: str, limit: int) -> TwoVectors:
        """Of up to `limit` faces that have both: the collection's vector and the one under another contract.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.snapshot():
            row = self._records.look_up(collection)
            place = self._vectors.places(row).get(contract_id)
            rows = [] if place is None else self._both(row, place, limit)
        if not rows:
            return TwoVectors([], np.empty((0, 1), np.float32), np.empty((0, 1), np.float32))
        cipher = self._keyring.cipher(row.uid)
        faces = [checked_face(each, each[8], cipher) for each in rows]
        old, new = (
            np.stack([vector_under(contract, face, each[at], cipher) for face, each in zip(faces, rows, strict=True)])
            for contract, at in ((row.model.contract_id, 9), (contract_id, 10))
        )
        return TwoVectors([each[8] for each in rows], old, new)

    def switch(self, collection: str, model: ModelInfo, embed: Embed, actor: str) -> bool:
        """Make a model the collection's, with the last vectors that it lacks; False if there are too many, or one has
        no crop.

        Raises:
            NotFoundError: no such collection.
            GalleryUnavailableError: `details["outcome"]` says what became of it.
        """
        with self._database.transaction():
            row = self._records.look_up(collection, WRITING)
            place = self._vectors.places(row).get(model.contract_id)
            if not _near(self._coverage(row, place)):
                return False
            last = self._uncovered(row, place, 0, LAST)
            if last:
                self._database.write(_EMBEDDING)
                vectors = embed(last)
                self._cover(row, model, {crop.face_id: v for crop, v in zip(last, vectors, strict=True)})
            self._set_model(row, model, actor)
        return True

    def keep(self, collection: str, contract_ids: Sequence[str]) -> None:
        """Erase vectors under other contracts than these and the collection's own.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.transaction():
            row = self._records.look_up(collection, WRITING)
            for contract_id, place in self._vectors.places(row).items():
                if contract_id not in (row.model.contract_id, *contract_ids):
                    self._vectors.forget(row, contract_id, place)

    def other_vectors_of(self, collection: str, subject: str) -> dict[str, dict[str, Vector]]:
        """By contract other than the collection's: the vectors of a person's faces, by face_id.

        Raises:
            NotFoundError: no such collection or person.
        """
        others: dict[str, dict[str, Vector]] = {}
        with self._database.snapshot():
            row = self._records.look_up(collection)
            person = self._records.look_up_subject(row, subject)
            cipher = self._keyring.cipher(row.uid)
            for contract, place in self._vectors.places(row).items():
                if contract != row.model.contract_id:
                    faces = self._records.faces_of(row, person, f", {place.vector}")
                    there = [(face, sealed) for face, (sealed,) in faces if sealed is not None]
                    if there:
                        others[contract] = {f.face_id: vector_under(contract, f, sealed, cipher) for f, sealed in there}
        return others

    def near(self, collection: str, contract_id: str) -> bool:
        """Whether a change of the model would succeed: looked up without keeping anybody waiting."""
        return _near(self.coverage(collection, contract_id))

    def place_of(self, collection: str, contract_id: str) -> tuple[CollectionRow, Place | None]:
        """A collection, and where its vectors under a contract lie, if it has any.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.snapshot():
            row = self._records.look_up(collection)
            return row, self._vectors.places(row).get(contract_id)

    def _set_model(self, row: CollectionRow, model: ModelInfo, actor: str) -> None:
        place = self._vectors.place_of(row, model)
        coverage = self._coverage(row, place)
        if coverage.missing:
            raise StorageError(f"{coverage.missing} faces of {row.name} have no vector under {model.contract_id}")
        witness = self._trail.add(
            actor, "collection.model", collection=row.uid, before=row.model.contract_id, after=model.contract_id
        )
        self._changes.update(replace(row, model=model, number=place.number), witness)

    def _cover(self, row: CollectionRow, model: ModelInfo, vectors: Mapping[str, Vector]) -> None:
        place = self._vectors.places(row).get(model.contract_id)
        missing = self._database.read(
            f"SELECT f.id, f.face_id FROM faces_{row.id} f WHERE f.collection = %s AND f.face_id = ANY(%s)"  # noqa: S608
            f" AND {_lacks(place)} ORDER BY f.id",
            (row.id, list(vectors)),
        )
        if missing:
            place = place or self._vectors.place_of(row, model)
            sealed = self._vectors.sealed(row, model, [(face_id, vectors[face_id]) for _, face_id in missing])
            self._vectors.put(place, [(number, each) for (number, _), each in zip(missing, sealed, strict=True)])

    def _coverage(self, row: CollectionRow, place: Place | None) -> Coverage:
        ((faces,),) = self._database.read(f"SELECT count(*) FROM faces_{row.id}")  # noqa: S608
        ((missing, without),) = self._database.read(
            f"SELECT count(*), count(*) FILTER (WHERE f.crop IS NULL) FROM faces_{row.id} f WHERE {_lacks(place)}"  # noqa: S608
        )
        return Coverage(faces, missing, without)

    def _uncovered(self, row: CollectionRow, place: Place | None, after: int, limit: int) -> list[StoredCrop]:
        rows = self._database.read(
            f"SELECT f.id, f.face_id, f.crop FROM faces_{row.id} f WHERE f.collection = %s AND f.id > %s"  # noqa: S608
            f" AND f.crop IS NOT NULL AND {_lacks(place)} ORDER BY f.id LIMIT %s",
            (row.id, after, limit),
        )
        cipher = self._keyring.cipher(row.uid)
        return [StoredCrop(number, face, cipher.open(bytes(crop), crop_context(face))) for number, face, crop in rows]

    def _both(self, row: CollectionRow, place: Place, limit: int) -> list[Row]:
        """Rows of FACE with the person's uid and both vectors, of faces all over the collection, the same each time."""
        rows = self._database.read(
            f"SELECT f.id FROM faces_{row.id} f WHERE NOT ({_lacks(place)}) ORDER BY f.id"  # noqa: S608
        )
        numbers = np.array([number for (number,) in rows], np.int64)
        if len(numbers) > limit:
            numbers = np.sort(np.random.default_rng(0).choice(numbers, limit, replace=False))
        return self._database.read(
            f"SELECT {FACE}, s.uid, {row.place.vector}, {place.vector} FROM faces_{row.id} f"  # noqa: S608
            " JOIN subjects s ON s.id = f.subject WHERE f.collection = %s AND f.id = ANY(%s) ORDER BY f.id",
            (row.id, numbers.tolist()),
        )


def _lacks(place: Place | None) -> str:
    return "true" if place is None else place.lacks


def _near(coverage: Coverage) -> bool:
    """Whether the last faces may be waited for, and can be embedded at all."""
    return coverage.missing <= LAST and not coverage.without_crop
