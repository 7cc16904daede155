"""What changes people and faces: each change a transaction with its entry of the audit log.

Writers of one collection take turns on its row, so that a change finds the people as the one before has left them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from service.domain import CollectionSettings, ModelInfo, NewFace, StoredFace
from service.errors import NotFoundError
from service.gallery.contract import SYSTEM, same_contract
from service.gallery.postgres.database import Database, Witness
from service.gallery.postgres.keyring import Keyring
from service.gallery.postgres.records import Records
from service.gallery.postgres.rows import (
    FACE,
    FACE_COLUMNS,
    SUBJECT,
    CollectionRow,
    Tally,
    checked_face,
    checked_subject,
    stored,
    with_tally,
)
from service.gallery.postgres.schema import make_partition
from service.gallery.postgres.trail import PostgresTrail
from service.gallery.postgres.vectors import Vectors
from service.gallery.sealing import (
    FaceRow,
    SubjectRow,
    content_digest,
    crop_context,
    request_digest,
    same_content,
)

WRITING = " FOR NO KEY UPDATE"
_ERASING = " FOR UPDATE"
_INSERT_FACE = f"({FACE_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::halfvec, %s, %s, %s, %s)"


@dataclass(frozen=True, slots=True)
class DatedFace:
    """A face with the name and the date that it has already."""

    face_id: str
    created_at: str
    face: NewFace


class Changes:
    """Calls may come from several threads, and from several servers."""

    def __init__(
        self, database: Database, keyring: Keyring, records: Records, vectors: Vectors, trail: PostgresTrail
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._records = records
        self._vectors = vectors
        self._trail = trail

    def put_collection(
        self, name: str, settings: CollectionSettings, model: ModelInfo, actor: str
    ) -> tuple[CollectionRow, bool]:
        """Create a collection or change its settings; its model stays what it was. Its row, True if it was created."""
        with self._database.transaction():
            # Whoever else creates it at this moment is waited for: the name is taken by one of both.
            self._database.read("SELECT 1 FROM pg_advisory_xact_lock(hashtext('collection'), hashtext(%s))", (name,))
            row = self._records.find(name, WRITING)
            if row is None:
                return self.add_collection(name, settings, model, self._database.now(), actor), True
            witness = self._trail.add(actor, "collection.change", collection=row.uid)
            changed = replace(row, settings=settings)
            self.update(changed, witness)
            return changed, False

    def add_collection(
        self,
        name: str,
        settings: CollectionSettings,
        model: ModelInfo,
        created_at: str,
        actor: str,
        uid: str | None = None,
    ) -> CollectionRow:
        """A new collection with a key and a partition of its own; inside a transaction."""
        uid, (number,) = uid or uuid.uuid4().hex, self._numbers(1)
        self._keyring.create(uid)
        row = CollectionRow(number, uid, name, settings, model, created_at, Tally().packed, 0)
        make_partition(self._database, number)
        witness = self._trail.add(actor, "collection.create", collection=uid)
        self._database.write(
            "INSERT INTO collections (id, uid, name, purpose, retention_days, store_crops, require_consent, target_fmr,"
            " model_id, contract_id, dimension, created_at, tally, mac, changed_seq, changed_mac)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            (
                *(number, uid, name, *_settings(settings), model.id, model.contract_id, model.dimension, created_at),
                *(row.tally, self._mac(row), witness.seq, witness.mac),
            ),
        )
        self._vectors.note_first(row)
        return row

    def enrol(
        self, collection: str, contract_id: str, subject: str, faces: Sequence[NewFace], actor: str
    ) -> list[StoredFace]:
        """Store faces of a person, who is created if new: all or none."""
        now = self._database.now()
        with self._database.transaction():
            row = self._records.look_up(collection, WRITING)
            same_contract(row.name, row.model, contract_id)
            before = self._stored_before(row, subject, faces)
            dated = [DatedFace(uuid.uuid4().hex, now, face) for index, face in enumerate(faces) if index not in before]
            if not dated:
                return [before[index] for index in range(len(faces))]
            person, rows, tally = self.add_faces(row, subject, now, dated)
            witness = self._trail.add(
                actor, "enrol", collection=row.uid, subject=person.uid, faces=[face.face_id for face in rows]
            )
            self.update(with_tally(row, tally), witness)
        added = iter(rows)
        return [before[index] if index in before else stored(next(added)) for index in range(len(faces))]

    def _stored_before(self, row: CollectionRow, subject: str, faces: Sequence[NewFace]) -> dict[int, StoredFace]:
        """What is stored already of some faces of a person, by their place among them; inside a transaction."""
        if all(face.request is None for face in faces):
            return {}
        person, cipher = self._records.find_subject(row, subject), self._keyring.cipher(row.uid)
        found: dict[int, StoredFace] = {}
        for index, face in enumerate(faces):
            if person is not None and face.request is not None:
                known_by = request_digest(cipher, person.uid, face.request)
                rows = self._database.read(
                    f"SELECT {FACE}, f.content FROM faces_{row.id} f WHERE f.collection = %s AND f.request = %s",  # noqa: S608
                    (row.id, known_by),
                )
                if rows:
                    same_content(rows[0][8], cipher, known_by, face.content)
                    found[index] = stored(checked_face(rows[0], person.uid, cipher))
        return found

    def add_faces(
        self, row: CollectionRow, subject: str, created_at: str, faces: Sequence[DatedFace], uid: str | None = None
    ) -> tuple[SubjectRow, list[FaceRow], Tally]:
        """The same inside a transaction that holds the collection, without its entry and tally."""
        cipher, new = self._keyring.cipher(row.uid), []
        person = self._records.find_subject(row, subject)
        numbers = self._numbers(len(faces) + 1)
        if person is None:
            person = SubjectRow(numbers[0], uid or uuid.uuid4().hex, row.uid, subject, created_at)
            new.append(person.mac(cipher))
            self._database.write(
                "INSERT INTO subjects (id, uid, collection, name, created_at, mac) VALUES (%s, %s, %s, %s, %s, %s)",
                (person.id, person.uid, row.id, subject, created_at, new[0]),
            )
        rows = [_face_row(number, each, person, row) for number, each in zip(numbers[1:], faces, strict=True)]
        macs = [each.mac(cipher) for each in rows]
        if rows:
            self._insert(row, person, rows, macs, faces)
        return person, rows, Tally.of(row).changed(len(new), len(rows), [*new, *macs])

    def update_tally(self, row: CollectionRow, tally: Tally, witness: Witness) -> CollectionRow:
        """What a collection comes to after a change; inside its transaction."""
        changed = with_tally(row, tally)
        self.update(changed, witness)
        return changed

    def erase_collection(self, name: str, actor: str) -> list[str]:
        """Erase a collection with its people and its key; the face_ids of what went."""
        with self._database.transaction():
            row = self._records.look_up(name, _ERASING)
            faces = [face for (face,) in self._database.read(f"SELECT face_id FROM faces_{row.id} ORDER BY id")]  # noqa: S608
            self._vectors.drop_all(row)
            self._database.write("DELETE FROM subjects WHERE collection = %s", (row.id,))
            self._database.write("DELETE FROM collections WHERE id = %s", (row.id,))
            self._keyring.destroy(row.uid)
            self._trail.add(actor, "erase.collection", collection=row.uid, subject=None, faces=faces)
        return faces

    def erase_subject(self, collection: str, subject: str, face_id: str | None, actor: str) -> list[str]:
        """Erase a person, or one of their faces; a person whose last face is erased stays, without faces.

        Raises:
            NotFoundError: there is no such collection, person or face.
        """
        with self._database.transaction():
            row = self._records.look_up(collection, WRITING)
            person = self._records.look_up_subject(row, subject)
            deleted = self._database.read(
                f"DELETE FROM faces_{row.id} WHERE subject = %s AND (%s::text IS NULL OR face_id = %s)"  # noqa: S608
                " RETURNING id, face_id, mac",
                (person.id, face_id, face_id),
            )
            self._vectors.remove(row, [number for number, _, _ in deleted])
            faces, macs, people = [face for _, face, _ in sorted(deleted)], [bytes(each[2]) for each in deleted], 0
            if face_id is None:
                people = self._database.write("DELETE FROM subjects WHERE id = %s", (person.id,))
                macs.append(person.mac(self._keyring.cipher(row.uid)))
            elif not faces:
                raise NotFoundError(f"{subject!r} has no face {face_id!r}", face_id=face_id)
            what = "subject" if face_id is None else "face"
            witness = self._trail.add(actor, f"erase.{what}", collection=row.uid, subject=person.uid, faces=faces)
            self.update_tally(row, Tally.of(row).changed(-people, -len(faces), macs), witness)
        return faces

    def erase_expired(self, collection: str, now: datetime, limit: int) -> int:
        """Erase up to `limit` faces of a collection whose retention is over, and people who then have none."""
        with self._database.transaction():
            row = self._records.find(collection, WRITING)
            if row is None or row.settings.retention_days is None:
                return 0
            end = now.astimezone(UTC) - timedelta(days=row.settings.retention_days)
            deleted = self._database.read(
                f"DELETE FROM faces_{row.id} WHERE id IN (SELECT id FROM faces_{row.id} WHERE created_at <= %s"  # noqa: S608
                " ORDER BY created_at LIMIT %s) RETURNING face_id, mac, subject, id",
                (end.isoformat(timespec="milliseconds"), limit),
            )
            if not deleted:
                return 0
            self._vectors.remove(row, [number for _, _, _, number in deleted])
            people, macs = self._erase_faceless(row, sorted({owner for _, _, owner, _ in deleted}))
            faces = [face for face, _, _, _ in deleted]
            witness = self._trail.add(SYSTEM, "erase.expired", collection=row.uid, subjects=people, faces=faces)
            macs += [bytes(mac) for _, mac, _, _ in deleted]
            self.update_tally(row, Tally.of(row).changed(-len(people), -len(faces), macs), witness)
        return len(faces)

    def _erase_faceless(self, row: CollectionRow, people: Sequence[int]) -> tuple[list[str], list[bytes]]:
        """Those of some people who have no face: their uids, and their tags."""
        gone = self._database.read(
            f"DELETE FROM subjects s WHERE s.id = ANY(%s) AND NOT EXISTS"  # noqa: S608
            f" (SELECT 1 FROM faces_{row.id} f WHERE f.subject = s.id) RETURNING {SUBJECT}",
            (list(people),),
        )
        cipher = self._keyring.cipher(row.uid)
        return [checked_subject(each, row.uid, cipher).uid for each in gone], [bytes(each[4]) for each in gone]

    def _insert(
        self,
        row: CollectionRow,
        person: SubjectRow,
        rows: Sequence[FaceRow],
        macs: Sequence[bytes],
        faces: Sequence[DatedFace],
    ) -> None:
        cipher, values = self._keyring.cipher(row.uid), []
        vectors = self._vectors.sealed(row, row.model, [(each.face_id, each.face.embedding) for each in faces])
        for face, mac, vector, given in zip(rows, macs, vectors, faces, strict=True):
            crop = given.face.crop
            sealed_crop = None if crop is None else cipher.seal(crop, crop_context(face.face_id))
            about = (face.face_id, face.contract_id, face.quality, face.consent, face.created_at)
            beside = (None, None) if row.number else (vector.code, vector.vector)
            request = given.face.request
            known_by = None if request is None else request_digest(cipher, person.uid, request)
            content = None if known_by is None else content_digest(cipher, known_by, given.face.content)
            values.append((row.id, person.id, face.id, *about, mac, *beside, sealed_crop, known_by, content))
        self._database.write_many(f"INSERT INTO faces_{row.id} {_INSERT_FACE}", values)
        if row.number:
            self._vectors.put(row.place, [(face.id, each) for face, each in zip(rows, vectors, strict=True)])

    def update(self, row: CollectionRow, witness: Witness) -> None:
        """What a collection is after a change; inside its transaction."""
        self._database.write(
            "UPDATE collections SET purpose = %s, retention_days = %s, store_crops = %s, require_consent = %s,"
            " target_fmr = %s, model_id = %s, contract_id = %s, dimension = %s, place = %s, tally = %s, mac = %s,"
            " changed_seq = %s, changed_mac = %s WHERE id = %s",
            (
                *(*_settings(row.settings), row.model.id, row.model.contract_id, row.model.dimension, row.number),
                *(row.tally, self._mac(row), witness.seq, witness.mac, row.id),
            ),
        )

    def _mac(self, row: CollectionRow) -> bytes:
        return row.mac(self._keyring.cipher(row.uid))

    def _numbers(self, count: int) -> list[int]:
        rows = self._database.read("SELECT nextval('numbers') FROM generate_series(1, %s)", (count,))
        return [number for (number,) in rows]


def _face_row(number: int, given: DatedFace, person: SubjectRow, collection: CollectionRow) -> FaceRow:
    face = given.face
    # As the database gives it back: a quality of 1 would come back as 1.0, and have another tag.
    quality = None if face.quality is None else float(face.quality)
    contract, has_crop = collection.model.contract_id, face.crop is not None
    return FaceRow(number, given.face_id, person.uid, contract, quality, face.consent, has_crop, given.created_at)


def _settings(settings: CollectionSettings) -> tuple[object, ...]:
    return (
        settings.purpose,
        settings.retention_days,
        settings.store_crops,
        settings.require_consent,
        settings.target_fmr,
    )
