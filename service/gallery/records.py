"""Enrolled people in SQLite: the source of truth. When a call returns, what it did is on the disk."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import numpy as np

from models.preprocess import Vectors
from service.domain import (
    Collection,
    CollectionSettings,
    ModelInfo,
    NewFace,
    Page,
    StoredFace,
    Subject,
    SubjectSummary,
    Vector,
)
from service.errors import NotFoundError, StorageError
from service.gallery.contract import SYSTEM
from service.gallery.database import Database, Row
from service.gallery.errands import Errands
from service.gallery.first_row import FirstRow
from service.gallery.sealing import (
    EMPTY,
    CollectionRow,
    FaceRow,
    SubjectRow,
    checked,
    combined,
    crop_context,
    vector_context,
)
from service.gallery.trail import Trail
from service.security.ledger import Erasure
from service.security.vault import Cipher, Vault

_CHUNK = 4096
_COLLECTION = (
    "id, uid, name, purpose, retention_days, store_crops, require_consent, target_fmr, model_id, contract_id,"
    " dimension, created_at, tally, mac"
)
_SUBJECT = "s.id, s.uid, s.name, s.created_at, s.mac"
_FACE = "f.id, f.face_id, f.contract_id, f.quality, f.consent, f.crop IS NOT NULL, f.created_at, f.mac"


class Named(NamedTuple):
    """Whose face a row is."""

    subject: str
    face_id: str
    subject_uid: str


class Records:
    """Collections, people and faces. Calls may come from several threads; they take turns.

    Every row that is answered with is checked against its tag (sealing.py); vectors and crops are encrypted.
    """

    def __init__(
        self, database: Database, vault: Vault, trail: Trail, errands: Errands, first: FirstRow | None = None
    ) -> None:
        self._database = database
        self._first = first or FirstRow(database, vault)
        self._vault = vault
        self._trail = trail
        self._errands = errands

    def put_collection(self, name: str, settings: CollectionSettings, model: ModelInfo, actor: str = SYSTEM) -> bool:
        """Create a collection or change its settings; its model stays what it was. True if it was created."""
        with self._trail.change():
            row = self._find(name)
            if row is None:
                self._trail.add(actor, "collection.create", collection=self._create(name, settings, model).uid)
            else:
                self._update(row, replace(row, settings=settings))
                self._trail.add(actor, "collection.change", collection=row.uid)
        return row is None

    def collections(self, name: str | None = None) -> list[Collection]:
        """All collections by name, or the one of that name."""
        with self._database.holding():
            rows = self._database.read(
                f"SELECT {_COLLECTION} FROM collections WHERE ?1 IS NULL OR name = ?1 ORDER BY name",  # noqa: S608
                (name,),
            )
            return [self._counted(self._checked_collection(row)) for row in rows]

    def collection(self, name: str) -> Collection:
        """One collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.holding():
            return self._counted(self._look_up(name))

    def collection_info(self, name: str) -> tuple[CollectionSettings, ModelInfo]:
        """Settings and model of a collection, in a time that does not grow with its people.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.holding():
            row = self._look_up(name)
        return row.settings, row.model

    def model_of(self, name: str) -> ModelInfo:
        """The model of a collection, as cheaply.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self.collection_info(name)[1]

    def people(self, collection: str) -> int:
        """How many people there are in a collection, those without a face too; 0 if there is no such collection."""
        row = self._database.one(
            "SELECT count(*) FROM subjects s JOIN collections c ON c.id = s.collection WHERE c.name = ?", (collection,)
        )
        return row[0] if row else 0

    def uids(self, collection: str, subject: str | None = None) -> tuple[str, str | None]:
        """The names that a collection and a person of it have in the audit log; None where there is no such person.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            found = None if subject is None else self._find_subject(row, subject)
        return row.uid, found.uid if found else None

    def add_faces(
        self, collection: str, subject: str, faces: Sequence[NewFace], actor: str = SYSTEM
    ) -> list[tuple[int, StoredFace]]:
        """Store faces of a person, who is created if new. Row numbers and what was stored, in order.

        Raises:
            NotFoundError: no such collection.
            StorageFullError: no room; nothing was stored.
        """
        with self._trail.change():
            row, macs = self._look_up(collection), []
            person = self._find_subject(row, subject)
            if person is None:
                person, mac = self._add_subject(row, subject)
                macs.append(mac)
            added = [self._add_face(row, person, face) for face in faces]
            macs += [mac for _, _, mac in added]
            self._update(row, replace(row, tally=combined(row.tally, *macs)))
            ids = [stored.face_id for _, stored, _ in added]
            self._trail.add(actor, "enrol", collection=row.uid, subject=person.uid, faces=ids)
        return [(number, stored) for number, stored, _ in added]

    def subject(self, collection: str, name: str) -> Subject:
        """A person and what is kept of their faces, oldest first.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():
            row = self._look_up(collection)
            person = self._look_up_subject(row, name)
            rows = self._database.read(f"SELECT {_FACE} FROM faces f WHERE f.subject = ? ORDER BY f.id", (person.id,))  # noqa: S608
            cipher = self._vault.cipher(row.uid)
            faces = [_checked_face(each, person.uid, cipher) for each in rows]
        return Subject(name, person.created_at, [_stored(face) for face in faces])

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name, those after `after`, at most `limit`.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            rows = self._database.read(
                f"SELECT {_SUBJECT}, (SELECT count(*) FROM faces f WHERE f.subject = s.id) FROM subjects s"  # noqa: S608
                " WHERE s.collection = ? AND s.name > ? ORDER BY s.name LIMIT ?",
                (row.id, after, limit + 1),
            )
            cipher = self._vault.cipher(row.uid)
            people = [(_checked_subject(each, row.uid, cipher), each[5]) for each in rows[:limit]]
        shown = [SubjectSummary(person.name, person.created_at, count) for person, count in people]
        return Page(shown, shown[-1].name if len(rows) > limit else None)

    def vectors_of(self, collection: str, subject: str) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():
            row = self._look_up(collection)
            person = self._look_up_subject(row, subject)
            rows = self._database.read(
                f"SELECT {_FACE}, f.vector FROM faces f WHERE f.subject = ? ORDER BY f.id",  # noqa: S608
                (person.id,),
            )
            cipher = self._vault.cipher(row.uid)
            return [_face_and_vector(each, person.uid, row, cipher) for each in rows]

    def crops_of(self, collection: str, subject: str) -> dict[str, bytes]:
        """The stored crop, a PNG, of each face of a person that has one, by face_id.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():
            row = self._look_up(collection)
            person = self._look_up_subject(row, subject)
            rows = self._database.read(
                "SELECT face_id, crop FROM faces WHERE subject = ? AND crop IS NOT NULL ORDER BY id", (person.id,)
            )
            cipher = self._vault.cipher(row.uid)
            return {face_id: cipher.open(crop, crop_context(face_id)) for face_id, crop in rows}

    def check(self) -> Iterator[tuple[str, int]]:
        """Read and check every row: each collection's name and number of faces.

        Raises:
            StorageError: a row was changed, is missing, or is of another contract than its collection.
        """
        return ((name, len(rows)) for name, rows, _ in self.vectors())

    def vectors(self) -> Iterator[tuple[str, list[int], Vectors]]:
        """Per collection: name, row numbers (N) and vectors (N, D), to build the index from. All rows are checked.

        Raises:
            StorageError: a row was changed, is missing, or is of another contract than its collection.
        """
        with self._database.holding():
            yield from self._vectors()

    def _vectors(self) -> Iterator[tuple[str, list[int], Vectors]]:
        self._check_store()
        for collection in self.collections():
            row = self._look_up(collection.name)
            cipher = self._vault.cipher(row.uid)
            people, tally = self._checked_people(row, cipher)
            numbers: list[int] = []
            parts = [np.empty((0, row.model.dimension), np.float32)]
            for chunk in self._faces_by_chunk(row):
                parts.append(
                    np.stack([_face_and_vector(each, people.get(each[9], ""), row, cipher)[1] for each in chunk])
                )
                numbers += [each[0] for each in chunk]
                tally = combined(tally, *(each[7] for each in chunk))
            if tally != row.tally:
                raise StorageError(f"the gallery is damaged: people or faces of collection {row.name} are missing")
            yield row.name, numbers, np.concatenate(parts)

    def names_of(self, rows: Sequence[int]) -> dict[int, Named]:
        """Whose face it is, of those of the rows that still exist."""
        found = self._database.read(
            f"SELECT {_FACE}, {_SUBJECT}, c.uid FROM faces f JOIN subjects s ON s.id = f.subject"  # noqa: S608
            " JOIN collections c ON c.id = s.collection WHERE f.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(rows)),),
        )
        names = {}
        for each in found:
            if not self._vault.knows(each[13]):
                continue  # its collection is being erased
            cipher = self._vault.cipher(each[13])
            person = _checked_subject(each[8:13], each[13], cipher)
            names[each[0]] = Named(person.name, _checked_face(each, person.uid, cipher).face_id, person.uid)
        return names

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

    def adopt_collection(self, name: str, settings: CollectionSettings, model: ModelInfo, created_at: str) -> None:
        """A collection out of an older file; inside a transaction."""
        self._create(name, settings, model, created_at)

    def adopt_subject(
        self, collection: str, name: str, created_at: str, faces: Sequence[tuple[str, str, NewFace]]
    ) -> None:
        """A person out of an older file, with face_id, date and content of each face; inside a transaction."""
        row = self._look_up(collection)
        person, mac = self._add_subject(row, name, created_at)
        macs = [self._add_face(row, person, face, face_id, at)[2] for face_id, at, face in faces]
        self._update(row, replace(row, tally=combined(row.tally, mac, *macs)))

    # Below: one row at a time, inside of what holds the database.

    def _find(self, name: str) -> CollectionRow | None:
        row = self._database.one(f"SELECT {_COLLECTION} FROM collections WHERE name = ?", (name,))  # noqa: S608
        return None if row is None else self._checked_collection(row)

    def _look_up(self, name: str) -> CollectionRow:
        row = self._find(name)
        if row is None:
            raise NotFoundError(f"there is no collection {name!r}", collection=name)
        return row

    def _checked_collection(self, row: Row) -> CollectionRow:
        settings = CollectionSettings(row[3], row[4], bool(row[5]), row[7], bool(row[6]))
        model = ModelInfo(row[8], row[9], row[10])
        collection = CollectionRow(row[0], row[1], row[2], settings, model, row[11], row[12])
        return checked(collection, row[13], self._vault.cipher(row[1]))

    def _counted(self, row: CollectionRow) -> Collection:
        counts = self._database.one(
            "SELECT (SELECT count(*) FROM subjects WHERE collection = ?1),"
            " (SELECT count(*) FROM subjects s JOIN faces f ON f.subject = s.id WHERE s.collection = ?1)",
            (row.id,),
        )
        subjects, faces = counts or (0, 0)
        return Collection(row.name, row.settings, row.model, subjects, faces, row.created_at)

    def _create(
        self, name: str, settings: CollectionSettings, model: ModelInfo, created_at: str | None = None
    ) -> CollectionRow:
        uid = uuid.uuid4().hex
        self._vault.create(uid)
        number = self._database.next_id("collections")
        row = CollectionRow(number, uid, name, settings, model, created_at or self._database.now(), EMPTY)
        about_model = (model.id, model.contract_id, model.dimension)
        self._database.write(
            f"INSERT INTO collections ({_COLLECTION}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
            (number, uid, name, *_settings(settings), *about_model, row.created_at, row.tally, self._mac(row)),
        )
        self._first.retally(self._mac(row))
        return row

    def _update(self, old: CollectionRow, new: CollectionRow) -> None:
        self._database.write(
            "UPDATE collections SET purpose=?, retention_days=?, store_crops=?, require_consent=?, target_fmr=?,"
            " tally=?, mac=? WHERE id=?",
            (*_settings(new.settings), new.tally, self._mac(new), new.id),
        )
        self._first.retally(self._mac(old), self._mac(new))

    def _mac(self, row: CollectionRow) -> bytes:
        return row.mac(self._vault.cipher(row.uid))

    def _check_store(self) -> None:
        """That no collection is missing."""
        with self._database.holding():
            tally = self._first.read().tally
            rows = self._database.read("SELECT mac FROM collections")
        if combined(EMPTY, *(mac for (mac,) in rows)) != tally:
            raise StorageError("the gallery is damaged: a collection is missing; restore a backup")

    def _find_subject(self, collection: CollectionRow, name: str) -> SubjectRow | None:
        row = self._database.one(
            f"SELECT {_SUBJECT} FROM subjects s WHERE s.collection = ? AND s.name = ?",  # noqa: S608
            (collection.id, name),
        )
        return None if row is None else _checked_subject(row, collection.uid, self._vault.cipher(collection.uid))

    def _look_up_subject(self, collection: CollectionRow, name: str) -> SubjectRow:
        person = self._find_subject(collection, name)
        if person is None:
            raise NotFoundError(f"there is no subject {name!r} in {collection.name!r}", subject=name)
        return person

    def _add_subject(
        self, collection: CollectionRow, name: str, created_at: str | None = None
    ) -> tuple[SubjectRow, bytes]:
        number = self._database.next_id("subjects")
        row = SubjectRow(number, uuid.uuid4().hex, collection.uid, name, created_at or self._database.now())
        mac = row.mac(self._vault.cipher(collection.uid))
        self._database.write(
            "INSERT INTO subjects (id, uid, collection, name, created_at, mac) VALUES (?,?,?,?,?,?)",
            (number, row.uid, collection.id, name, row.created_at, mac),
        )
        return row, mac

    def _add_face(
        self,
        collection: CollectionRow,
        person: SubjectRow,
        face: NewFace,
        face_id: str | None = None,
        created_at: str | None = None,
    ) -> tuple[int, StoredFace, bytes]:
        number, contract = self._database.next_id("faces"), collection.model.contract_id
        face_id, created_at = face_id or uuid.uuid4().hex, created_at or self._database.now()
        cipher, has_crop = self._vault.cipher(collection.uid), face.crop is not None
        # Row values as SQLite gives them back: a quality of 1 would come back as 1.0, and have another tag.
        quality = None if face.quality is None else float(face.quality)
        row = FaceRow(number, face_id, person.uid, contract, quality, face.consent, has_crop, created_at)
        mac = row.mac(cipher)
        self._database.write(
            "INSERT INTO faces (id, face_id, subject, contract_id, vector, quality, consent, crop, created_at, mac)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                number,
                face_id,
                person.id,
                contract,
                cipher.seal(face.embedding.astype("<f4").tobytes(), vector_context(face_id, contract)),
                quality,
                face.consent,
                None if face.crop is None else cipher.seal(face.crop, crop_context(face_id)),
                row.created_at,
                mac,
            ),
        )
        return number, _stored(row), mac

    def _checked_people(self, collection: CollectionRow, cipher: Cipher) -> tuple[dict[int, str], bytes]:
        """uid of each person by row number, and the tally of their tags."""
        rows = self._database.read(
            f"SELECT {_SUBJECT} FROM subjects s WHERE s.collection = ?",  # noqa: S608
            (collection.id,),
        )
        people = {row[0]: _checked_subject(row, collection.uid, cipher).uid for row in rows}
        return people, combined(EMPTY, *(row[4] for row in rows))

    def _faces_by_chunk(self, collection: CollectionRow) -> Iterator[list[Row]]:
        last = 0
        while True:
            rows = self._database.read(
                f"SELECT {_FACE}, f.vector, f.subject FROM faces f JOIN subjects s ON s.id = f.subject"  # noqa: S608
                " WHERE s.collection = ? AND f.id > ? ORDER BY f.id LIMIT ?",
                (collection.id, last, _CHUNK),
            )
            if not rows:
                return
            yield rows
            last = rows[-1][0]

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
            "SELECT id, face_id, mac FROM faces WHERE subject = ?1 AND (?2 IS NULL OR face_id = ?2)",
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


def _settings(settings: CollectionSettings) -> tuple[object, ...]:
    return (
        settings.purpose,
        settings.retention_days,
        int(settings.store_crops),
        int(settings.require_consent),
        settings.target_fmr,
    )


def _checked_subject(row: Row, collection_uid: str, cipher: Cipher) -> SubjectRow:
    return checked(SubjectRow(row[0], row[1], collection_uid, row[2], row[3]), row[4], cipher)


def _checked_face(row: Row, subject_uid: str, cipher: Cipher) -> FaceRow:
    face = FaceRow(row[0], row[1], subject_uid, row[2], row[3], row[4], bool(row[5]), row[6])
    return checked(face, row[7], cipher)


def _face_and_vector(row: Row, subject_uid: str, collection: CollectionRow, cipher: Cipher) -> tuple[str, Vector]:
    face = _checked_face(row, subject_uid, cipher)
    plain = cipher.open(row[8], vector_context(face.face_id, face.contract_id))
    if len(plain) != 4 * collection.model.dimension or face.contract_id != collection.model.contract_id:
        raise StorageError(f"collection {collection.name} holds a face of another model")
    return face.face_id, np.frombuffer(plain, dtype="<f4")


def _stored(face: FaceRow) -> StoredFace:
    return StoredFace(face.face_id, face.quality, face.consent, face.has_crop, face.created_at)
