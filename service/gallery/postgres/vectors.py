"""Vectors of faces under the contracts of a collection: where they lie, how they come there, and how they go.

Codes of two contracts lie in two tables, so that no search can compare them, each can have an index of its own
dimension, and a change of the model is a change of one row: of which table is searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.domain import ModelInfo, Vector
from service.gallery.postgres.database import Database
from service.gallery.postgres.keyring import Keyring
from service.gallery.postgres.rows import CollectionRow, Place
from service.gallery.postgres.schema import make_vectors
from service.gallery.sealing import vector_context


@dataclass(frozen=True, slots=True)
class Sealed:
    """A vector as it is stored."""

    code: str
    vector: bytes


class Vectors:
    """Everything that changes is inside a transaction that holds the collection's row."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def places(self, row: CollectionRow) -> dict[str, Place]:
        """Of all contracts that vectors are kept of."""
        rows = self._database.read(
            "SELECT contract_id, place FROM contracts WHERE collection = %s ORDER BY place", (row.id,)
        )
        return {contract: Place(row.id, number) for contract, number in rows}

    def tables(self, row: CollectionRow) -> list[Place]:
        """Those beside the table of faces."""
        return [place for place in self.places(row).values() if place.number]

    def note_first(self, row: CollectionRow) -> None:
        """The contract that a collection begins with."""
        self._note(row, row.model, 0)

    def place_of(self, row: CollectionRow, model: ModelInfo) -> Place:
        """Of a model's contract; made if there is none."""
        place = self.places(row).get(model.contract_id)
        if place is None:
            ((number,),) = self._database.read("SELECT nextval('numbers')")
            place = Place(row.id, number)
            make_vectors(self._database, place)
            self._note(row, model, number)
        return place

    def sealed(self, row: CollectionRow, model: ModelInfo, vectors: Sequence[tuple[str, Vector]]) -> list[Sealed]:
        """Vectors with the face_id of each."""
        if not vectors:
            return []
        cipher = self._keyring.cipher(row.uid)
        stacked = np.stack([vector for _, vector in vectors]).astype(np.float32)
        codes = self._keyring.rotation(row.uid, model.dimension).codes(stacked)
        return [
            Sealed(code, cipher.seal(vector.astype("<f4").tobytes(), vector_context(face_id, model.contract_id)))
            for (face_id, vector), code in zip(vectors, codes, strict=True)
        ]

    def put(self, place: Place, faces: Sequence[tuple[int, Sealed]]) -> None:
        """Vectors of faces, by number, that have none there."""
        if not place.number:
            self._database.write_many(
                f"UPDATE {place.table} SET code = %s::halfvec, vector = %s WHERE collection = %s AND id = %s",  # noqa: S608
                [(each.code, each.vector, place.collection, number) for number, each in faces],
            )
            return
        self._database.write_many(
            f"INSERT INTO {place.table} (id, code, vector) VALUES (%s, %s::halfvec, %s)",  # noqa: S608
            [(number, each.code, each.vector) for number, each in faces],
        )

    def remove(self, row: CollectionRow, faces: Sequence[int]) -> None:
        """Vectors of faces that are erased, by number."""
        if faces:
            for place in self.tables(row):
                self._database.write(f"DELETE FROM {place.table} WHERE id = ANY(%s)", (list(faces),))  # noqa: S608

    def forget(self, row: CollectionRow, contract_id: str, place: Place) -> None:
        """All vectors under a contract, but for those that faces were enrolled with."""
        if not place.number:
            self._database.write(
                f"UPDATE {place.table} SET code = NULL, vector = NULL WHERE contract_id <> %s AND vector IS NOT NULL",  # noqa: S608
                (contract_id,),
            )
            return
        faces = f"SELECT 1 FROM faces_{row.id} f WHERE f.collection = {row.id} AND f.contract_id = %s"  # noqa: S608
        if self._database.one(f"{faces} LIMIT 1", (contract_id,)) is not None:
            self._database.write(
                f"DELETE FROM {place.table} v WHERE NOT EXISTS ({faces} AND f.id = v.id)",  # noqa: S608
                (contract_id,),
            )
            return
        self.drop(place)
        self._database.write("DELETE FROM contracts WHERE collection = %s AND contract_id = %s", (row.id, contract_id))

    def drop(self, place: Place) -> None:
        """A table, with what is in it. An index that is being built holds it for as long as it takes: that is ended."""
        self._database.read(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index WHERE relid = to_regclass(%s)",
            (place.table,),
        )
        self._database.write(f"DROP TABLE {place.table}")

    def drop_all(self, row: CollectionRow) -> None:
        """Of a collection that is erased, with its faces."""
        for place in (*self.tables(row), Place(row.id, 0)):
            self.drop(place)
        self._database.write("DELETE FROM contracts WHERE collection = %s", (row.id,))

    def _note(self, row: CollectionRow, model: ModelInfo, number: int) -> None:
        self._database.write(
            "INSERT INTO contracts (collection, contract_id, dimension, place) VALUES (%s, %s, %s, %s)",
            (row.id, model.contract_id, model.dimension, number),
        )
