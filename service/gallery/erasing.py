"""What is taken out of the records: on request, for its age, and once more after a backup has brought it back."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from service.errors import NotFoundError
from service.gallery.contract import SYSTEM
from service.gallery.rows import Rows
from service.gallery.sealing import CollectionRow, combined
from service.security.ledger import Erasure


class Erasing(Rows):
    """What must be done beside the file is left as errands (errands.py)."""

    def erase(
        self, collection: str, subject: str | None = None, face_id: str | None = None, actor: str = SYSTEM
    ) -> list[tuple[int, str]]:
        """Erase a collection, a person of it, or one of their faces; row numbers and face_ids of what went.

        A person whose last face is erased stays, without faces. What must be done beside the file is left as errands;
        `Database.overwrite_erased` makes the bytes unreadable.

        Raises:
            NotFoundError: there is no such thing.
        """
        with self._trail.change():
            row = self._look_up(collection)
            erased = self._erase_collection(row) if subject is None else self._erase_person(row, subject, face_id)
            numbers, person = erased
            faces = tuple(face for _, face in numbers)
            what = "collection" if subject is None else "subject" if face_id is None else "face"
            self._note_erased(row, person if what == "subject" else None, faces if what != "collection" else ())
            if what == "collection":
                self._errands.note_destroy(row.uid)
            self._trail.add(actor, f"erase.{what}", collection=row.uid, subject=person, faces=list(faces))
        return numbers

    def erase_expired(self, now: datetime, limit: int) -> Iterator[tuple[str, list[int]]]:
        """Erase up to `limit` faces whose retention is over, and people who then have none.

        Gives each collection's name and row numbers when they are erased. `Database.overwrite_erased` makes the bytes
        unreadable.
        """
        by_collection: dict[str, list[int]] = {}
        for collection, number, _ in self.expired(now, limit):
            by_collection.setdefault(collection, []).append(number)
        for collection, numbers in by_collection.items():
            with self._trail.change():
                self._erase_rows(self._look_up(collection), numbers)
            yield collection, numbers

    def expired(self, now: datetime, limit: int = -1) -> list[tuple[str, int, str]]:
        """Collection, row number and face_id of faces whose collection's retention_days are over, oldest first."""
        return self._database.read(
            "SELECT c.name, f.id, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject"
            " JOIN collections c ON c.id = s.collection WHERE c.retention_days IS NOT NULL"
            " AND julianday(f.created_at) + c.retention_days <= julianday(?) ORDER BY f.created_at LIMIT ?",
            (now.isoformat(), limit),
        )

    def sweep_clock(self) -> str | None:
        """What the last program kept of the time (retention.py)."""
        row = self._database.one("SELECT sweep_clock FROM store")
        return row[0] if row else None

    def keep_sweep_clock(self, text: str) -> None:
        """Keep it for the next program."""
        with self._database.transaction():
            self._database.write("UPDATE store SET sweep_clock = ?", (text,))

    def forget(self, erasure: Erasure) -> bool:
        """Erase again what a backup has brought back; False if it is not there."""
        found = self._database.one(
            "SELECT c.name, s.name FROM collections c LEFT JOIN subjects s ON s.collection = c.id AND s.uid = ?2"
            " WHERE c.uid = ?1",
            (erasure.collection, erasure.subject),
        )
        if found is None:
            return False
        collection, subject = found
        if erasure.subject is not None:
            if subject is not None:
                self.erase(collection, subject)
            return subject is not None or self._forget_faces(collection, erasure.faces)
        return self._forget_faces(collection, erasure.faces)

    def drop(self, collection_uid: str) -> bool:
        """Delete a collection that was erased from a copy that still has it, whether its key is there or not."""
        row = self._database.one("SELECT mac FROM collections WHERE uid = ?", (collection_uid,))
        if row is not None:
            with self._trail.change():
                self._database.write("DELETE FROM collections WHERE uid = ?", (collection_uid,))
                self._first.retally(row[0])
                self._database.note_pending()
                self._errands.note_destroy(collection_uid)
                self._trail.add(SYSTEM, "erase.collection", collection=collection_uid)
        return row is not None

    def _forget_faces(self, collection: str, face_ids: Sequence[str]) -> bool:
        rows = self._database.read(
            "SELECT s.name, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject"
            " JOIN collections c ON c.id = s.collection WHERE c.name = ?"
            " AND f.face_id IN (SELECT value FROM json_each(?))",
            (collection, json.dumps(list(face_ids))),
        )
        for subject, face_id in rows:
            self.erase(collection, subject, face_id)
        return bool(rows)

    def _erase_collection(self, row: CollectionRow) -> tuple[list[tuple[int, str]], None]:
        erased = self._database.read(
            "SELECT f.id, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject WHERE s.collection = ?", (row.id,)
        )
        self._database.write("DELETE FROM collections WHERE id = ?", (row.id,))
        self._first.retally(self._mac(row))
        self._database.note_pending()
        return erased, None

    def _erase_person(self, row: CollectionRow, subject: str, face_id: str | None) -> tuple[list[tuple[int, str]], str]:
        person = self._look_up_subject(row, subject)
        erased = self._database.read(
            "SELECT id, face_id, mac FROM faces WHERE subject = ?1 AND (?2 IS NULL OR face_id = ?2) ORDER BY id",
            (person.id, face_id),
        )
        macs = [mac for _, _, mac in erased]
        if face_id is None:
            self._database.write("DELETE FROM subjects WHERE id = ?", (person.id,))
            macs.append(person.mac(self._vault.cipher(row.uid)))
        elif not erased:
            raise NotFoundError(f"{subject!r} has no face {face_id!r}", face_id=face_id)
        else:
            self._database.write("DELETE FROM faces WHERE face_id = ?", (face_id,))
        self._update(row, replace(row, tally=combined(row.tally, *macs)))
        self._database.note_pending()
        return [(number, face) for number, face, _ in erased], person.uid

    def _erase_rows(self, row: CollectionRow, numbers: Sequence[int]) -> None:
        """Delete faces by row number, and those of their people who then have none."""
        listed = (json.dumps(list(numbers)),)
        chosen = "WHERE id IN (SELECT value FROM json_each(?))"
        faces = self._database.read(f"SELECT face_id, mac, subject FROM faces {chosen}", listed)  # noqa: S608
        self._database.write(f"DELETE FROM faces {chosen}", listed)  # noqa: S608
        owners = self._database.read(
            "SELECT s.id, s.uid, s.mac FROM subjects s WHERE s.id IN (SELECT value FROM json_each(?1))"
            " AND NOT EXISTS (SELECT 1 FROM faces f WHERE f.subject = s.id)",
            (json.dumps(sorted({owner for _, _, owner in faces})),),
        )
        if not faces and not owners:
            return
        gone = json.dumps([owner for owner, _, _ in owners])
        self._database.write("DELETE FROM subjects WHERE id IN (SELECT value FROM json_each(?))", (gone,))
        macs = [mac for _, mac, _ in faces] + [mac for _, _, mac in owners]
        self._update(row, replace(row, tally=combined(row.tally, *macs)))
        self._database.note_pending()
        face_ids, people = [face_id for face_id, _, _ in faces], [uid for _, uid, _ in owners]
        for person in people:
            self._note_erased(row, person, ())
        self._note_erased(row, None, tuple(face_ids))
        self._trail.add(SYSTEM, "erase.expired", collection=row.uid, subjects=people, faces=face_ids)

    def _note_erased(self, row: CollectionRow, subject: str | None, faces: tuple[str, ...]) -> None:
        self._errands.note_erasure(Erasure(self._database.now(), row.uid, subject, faces))
