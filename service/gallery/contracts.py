"""Vectors of enrolled faces under other contracts than their collection's: made of stored crops, to change the model.

A collection is on one contract at any moment; which one is a value of its row. Changing that row changes, for all its
faces at once, which vector is theirs. A face that has none under the contract of its collection is damage.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from models.preprocess import Vectors
from service.domain import Coverage, ModelInfo, StoredCrop, TwoVectors, Vector
from service.errors import StorageError
from service.gallery.contract import SYSTEM
from service.gallery.rows import FACE, VECTOR, Rows, face_and_vector
from service.gallery.sealing import CollectionRow, crop_context, vector_context

_MISSING = "f.contract_id <> ?1 AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.face = f.id AND v.contract_id = ?1)"
# CROSS: SQLite goes through the faces by number and looks their people up. The other way round it would sort all faces
# of a collection for each portion that is read of it.
_OF_COLLECTION = "faces f CROSS JOIN subjects s ON s.id = f.subject WHERE s.collection = ?2"


class Contracts(Rows):
    """What the records know of models other than a collection's own."""

    def coverage(self, collection: str, contract_id: str) -> Coverage:
        """How many faces have no vector under a contract.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            ((faces,),) = self._database.read(
                f"SELECT count(*) FROM {_OF_COLLECTION} AND ?1 = ?1",  # noqa: S608
                (contract_id, row.id),
            )
            missing, without = self._database.read(
                f"SELECT count(*), count(*) FILTER (WHERE f.crop IS NULL) FROM {_OF_COLLECTION} AND {_MISSING}",  # noqa: S608
                (contract_id, row.id),
            )[0]
        return Coverage(faces, missing, without)

    def uncovered(self, collection: str, contract_id: str, after: int, limit: int) -> list[StoredCrop]:
        """Crops of up to `limit` faces without a vector under a contract, of those with row numbers above `after`.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            rows = self._database.read(
                f"SELECT f.id, f.face_id, f.crop FROM {_OF_COLLECTION} AND {_MISSING}"  # noqa: S608
                " AND f.id > ?3 AND f.crop IS NOT NULL ORDER BY f.id LIMIT ?4",
                (contract_id, row.id, after, limit),
            )
            cipher = self._vault.cipher(row.uid)
            return [StoredCrop(number, face, cipher.open(crop, crop_context(face))) for number, face, crop in rows]

    def cover(self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector]) -> list[tuple[int, Vector]]:
        """Keep vectors under another contract, by face_id: row numbers and vectors of those that are new.

        Raises:
            NotFoundError: no such collection.
            StorageFullError: no room; nothing was stored.
        """
        with self._database.transaction():
            return self._cover(self._look_up(collection), model, vectors)

    def set_model(
        self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector], actor: str = SYSTEM
    ) -> list[tuple[int, Vector]]:
        """Make a model the collection's, together with the last vectors that it lacks; as `cover`.

        Raises:
            StorageError: a face has no vector under the contract of that model.
        """
        with self._trail.change():
            row = self._look_up(collection)
            added = self._cover(row, model, vectors)
            coverage = self.coverage(collection, model.contract_id)
            if coverage.missing:
                raise StorageError(f"{coverage.missing} faces of {collection} have no vector under {model.contract_id}")
            self._update(row, replace(row, model=model))
            self._trail.add(
                actor, "collection.model", collection=row.uid, before=row.model.contract_id, after=model.contract_id
            )
        return added

    def vectors_under(self, collection: str, model: ModelInfo, after: int, limit: int) -> tuple[list[int], Vectors]:
        """Row numbers (N) and vectors (N, D) of up to `limit` faces that have one, with numbers above `after`.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            rows = self._database.read(
                f"SELECT {FACE}, {VECTOR} AS w, s.uid FROM {_OF_COLLECTION}"  # noqa: S608
                " AND f.id > ?3 AND w IS NOT NULL ORDER BY f.id LIMIT ?4",
                (model.contract_id, row.id, after, limit),
            )
            cipher = self._vault.cipher(row.uid)
            found = [face_and_vector(each, each[9], row, cipher, model.contract_id)[1] for each in rows]
        return [each[0] for each in rows], np.stack(found) if found else np.empty((0, model.dimension), np.float32)

    def two_vectors(self, collection: str, contract_id: str, limit: int) -> TwoVectors:
        """Of up to `limit` faces that have both: the collection's vector and the one under another contract.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            rows = self._sampled(row, contract_id, limit)
            cipher = self._vault.cipher(row.uid)
            listed = json.dumps(rows)
            old: list[Vector] = []
            new: list[Vector] = []
            people: list[str] = []
            for contract, into in ((row.model.contract_id, old), (contract_id, new)):
                for each in self._database.read(
                    f"SELECT {FACE}, {VECTOR}, s.uid FROM faces f JOIN subjects s ON s.id = f.subject"  # noqa: S608
                    " WHERE f.id IN (SELECT value FROM json_each(?2)) ORDER BY f.id",
                    (contract, listed),
                ):
                    into.append(face_and_vector(each, each[9], row, cipher, contract)[1])
                    if into is new:
                        people.append(each[9])
        if not people:
            return TwoVectors([], np.empty((0, 1), np.float32), np.empty((0, 1), np.float32))
        return TwoVectors(people, np.stack(old), np.stack(new))

    def other_vectors_of(self, collection: str, subject: str) -> dict[str, dict[str, Vector]]:
        """By contract other than the collection's: the vectors of a person's faces, by face_id.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():
            row = self._look_up(collection)
            person = self._look_up_subject(row, subject)
            rows = self._database.read(
                "SELECT f.face_id, v.contract_id, v.vector FROM vectors v JOIN faces f ON f.id = v.face"
                " WHERE f.subject = ?1 UNION ALL SELECT face_id, contract_id, vector FROM faces WHERE subject = ?1",
                (person.id,),
            )
            cipher = self._vault.cipher(row.uid)
            others: dict[str, dict[str, Vector]] = {}
            for face_id, contract, sealed in rows:
                if contract != row.model.contract_id:
                    plain = cipher.open(sealed, vector_context(face_id, contract))
                    others.setdefault(contract, {})[face_id] = np.frombuffer(plain, "<f4")
        return others

    def drop_contracts(self, collection: str, kept: Sequence[str]) -> bool:
        """Erase vectors under other contracts than these; False if there are none."""
        with self._database.transaction():
            row = self._look_up(collection)
            where = (
                "face IN (SELECT f.id FROM faces f JOIN subjects s ON s.id = f.subject WHERE s.collection = ?1)"
                " AND contract_id NOT IN (SELECT value FROM json_each(?2))"
            )
            chosen = (row.id, json.dumps([*kept, row.model.contract_id]))
            if self._database.one(f"SELECT 1 FROM vectors WHERE {where} LIMIT 1", chosen) is None:  # noqa: S608
                return False
            self._database.note_pending()
            self._database.write(f"DELETE FROM vectors WHERE {where}", chosen)  # noqa: S608
        return True

    def _cover(self, row: CollectionRow, model: ModelInfo, vectors: Mapping[str, Vector]) -> list[tuple[int, Vector]]:
        cipher = self._vault.cipher(row.uid)
        missing = self._database.read(
            f"SELECT f.id, f.face_id FROM {_OF_COLLECTION} AND {_MISSING}"  # noqa: S608
            " AND f.face_id IN (SELECT value FROM json_each(?3)) ORDER BY f.id",
            (model.contract_id, row.id, json.dumps(list(vectors))),
        )
        for number, face_id in missing:
            plain = vectors[face_id].astype("<f4").tobytes()
            sealed = cipher.seal(plain, vector_context(face_id, model.contract_id))
            self._database.write(
                "INSERT INTO vectors (face, contract_id, vector) VALUES (?,?,?)", (number, model.contract_id, sealed)
            )
        return [(number, vectors[face_id]) for number, face_id in missing]

    def _sampled(self, row: CollectionRow, contract_id: str, limit: int) -> list[int]:
        """Row numbers of faces all over the collection, the same ones each time."""
        rows = self._database.read(
            f"SELECT f.id FROM {_OF_COLLECTION} AND NOT ({_MISSING}) ORDER BY f.id",  # noqa: S608
            (contract_id, row.id),
        )
        numbers = np.array([number for (number,) in rows], np.int64)
        if len(numbers) <= limit:
            return [number for (number,) in rows]
        chosen = np.random.default_rng(0).choice(len(numbers), limit, replace=False)
        return sorted(int(number) for number in numbers[chosen])
