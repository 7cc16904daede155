"""What the index is made from: all vectors of the records, or those that a snapshot does not hold."""

import json
from collections.abc import Iterator

import numpy as np

from models.preprocess import Vectors
from service.errors import StorageError
from service.gallery.blocks import Ids
from service.gallery.catching_up import caught_up, tags_of
from service.gallery.database import Row
from service.gallery.rows import FACE, SUBJECT, VECTOR, Rows, checked_subject, face_and_vector
from service.gallery.sealing import EMPTY, CollectionRow, combined, vector_context
from service.gallery.snapshot_file import Tags
from service.gallery.snapshots import Snapshots
from service.security.vault import Cipher

_CHUNK = 4096


class IndexSource(Rows):
    """Vectors by row number, and the tags of rows."""

    def check(self) -> Iterator[tuple[str, int]]:
        """Read and check every row, vectors under other contracts too: each collection's name and number of faces.

        Raises:
            StorageError: a row was changed, is missing, or is of another contract than its collection.
        """
        with self._database.holding():  # one state of it
            for name, rows, _ in self.vectors():
                self._check_others(self._look_up(name))
                yield name, len(rows)

    def _check_others(self, collection: CollectionRow) -> None:
        """Vectors under other contracts than the collection's, kept for a change of the model or for the way back."""
        cipher = self._vault.cipher(collection.uid)
        sizes = {collection.model.contract_id: 4 * collection.model.dimension}
        for face_id, contract, sealed in self._others(collection):
            size = len(cipher.open(sealed, vector_context(face_id, contract)))
            if size != sizes.setdefault(contract, size) or size % 4:
                raise StorageError(f"the gallery is damaged: vectors of contract {contract} differ in length")

    def _others(self, collection: CollectionRow) -> Iterator[Row]:
        """face_id, contract and sealed vector of each: of those made since, and of those that faces began with."""
        for key, chosen in (
            ("v.rowid", "v.contract_id, v.vector FROM vectors v CROSS JOIN faces f ON f.id = v.face"),
            ("f.id", "f.contract_id, f.vector FROM faces f"),
        ):
            last = 0
            while True:
                rows = self._database.read(
                    f"SELECT {key}, f.face_id, {chosen} CROSS JOIN subjects s ON s.id = f.subject"
                    f" WHERE s.collection = ? AND {key} > ? ORDER BY {key} LIMIT ?",
                    (collection.id, last, _CHUNK),
                )
                if not rows:
                    break
                yield from (row[1:] for row in rows if row[2] != collection.model.contract_id)
                last = rows[-1][0]

    def vectors(self, snapshots: Snapshots | None = None) -> Iterator[tuple[str, list[int], Vectors]]:
        """Per collection: name, row numbers (N) and vectors (N, D), to build the index from. All rows are checked.

        What a snapshot holds is taken from it. Then of most rows only the tag is looked at here, and the rest of the
        row when it is answered with.

        Raises:
            StorageError: a row was changed, is missing, or is of another contract than its collection.
        """
        with self._database.holding():
            yield from self._vectors(snapshots)

    def _vectors(self, snapshots: Snapshots | None) -> Iterator[tuple[str, list[int], Vectors]]:
        self._check_store()
        for (name,) in self._database.read("SELECT name FROM collections ORDER BY name"):
            row = self._look_up(name)
            known = caught_up(self._database, row, snapshots, self._vectors_at) if snapshots else None
            if known is not None:
                yield row.name, *known
                continue
            cipher = self._vault.cipher(row.uid)
            people, tally = self._checked_people(row, cipher)
            numbers: list[int] = []
            parts = [np.empty((0, row.model.dimension), np.float32)]
            for chunk in self._faces_by_chunk(row):
                parts.append(
                    np.stack([face_and_vector(each, people.get(each[9], ""), row, cipher)[1] for each in chunk])
                )
                numbers += [each[0] for each in chunk]
                tally = combined(tally, *(each[7] for each in chunk))
            if tally != row.tally:
                raise StorageError(f"the gallery is damaged: people or faces of collection {row.name} are missing")
            yield row.name, numbers, np.concatenate(parts)

    def tags_of(self, rows: Ids) -> Tags:
        """The tags of faces (N, MAC_BYTES), in the order of their row numbers (N,).

        Raises:
            StorageError: one is not there.
        """
        return tags_of(self._database, rows)

    def _check_store(self) -> None:
        """That no collection is missing."""
        with self._database.holding():
            tally = self._first.read().tally
            rows = self._database.read("SELECT mac FROM collections")
        if combined(EMPTY, *(mac for (mac,) in rows)) != tally:
            raise StorageError("the gallery is damaged: a collection is missing; restore a backup")

    def _checked_people(self, collection: CollectionRow, cipher: Cipher) -> tuple[dict[int, str], bytes]:
        """uid of each person by row number, and the tally of their tags."""
        rows = self._database.read(
            f"SELECT {SUBJECT} FROM subjects s WHERE s.collection = ?",  # noqa: S608
            (collection.id,),
        )
        people = {row[0]: checked_subject(row, collection.uid, cipher).uid for row in rows}
        return people, combined(EMPTY, *(row[4] for row in rows))

    def _faces_by_chunk(self, collection: CollectionRow) -> Iterator[list[Row]]:
        last = 0
        while True:
            rows = self._database.read(
                # By row number, as the file is: an index would be faster to the rows, and they are all over the file.
                f"SELECT {FACE}, {VECTOR}, f.subject FROM faces f CROSS JOIN subjects s ON s.id = f.subject"  # noqa: S608
                " WHERE s.collection = ?2 AND f.id > ?3 ORDER BY f.id LIMIT ?4",
                (collection.model.contract_id, collection.id, last, _CHUNK),
            )
            if not rows:
                return
            yield rows
            last = rows[-1][0]

    def _vectors_at(self, collection: CollectionRow, numbers: Ids) -> Vectors:
        """Vectors of faces by row number, ascending."""
        cipher = self._vault.cipher(collection.uid)
        parts = [np.empty((0, collection.model.dimension), np.float32)]
        for start in range(0, len(numbers), _CHUNK):
            rows = self._database.read(
                f"SELECT {FACE}, {VECTOR}, s.uid FROM faces f JOIN subjects s ON s.id = f.subject"  # noqa: S608
                " WHERE f.id IN (SELECT value FROM json_each(?2)) ORDER BY f.id",
                (collection.model.contract_id, json.dumps(numbers[start : start + _CHUNK].tolist())),
            )
            parts.append(np.stack([face_and_vector(each, each[9], collection, cipher)[1] for each in rows]))
        return np.concatenate(parts)
