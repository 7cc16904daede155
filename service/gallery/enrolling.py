"""What is added to the records. When a call returns, what it did is on the disk."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from service.domain import CollectionSettings, ModelInfo, NewFace, StoredFace
from service.gallery.contract import SYSTEM
from service.gallery.rows import COLLECTION, FACE, Rows, checked_face, model_values, settings_values, stored
from service.gallery.sealing import (
    EMPTY,
    CollectionRow,
    FaceRow,
    SubjectRow,
    combined,
    content_digest,
    crop_context,
    request_digest,
    same_content,
    vector_context,
)


class Enrolling(Rows):
    """Makes collections, and stores faces of people."""

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

    def add_faces(
        self, collection: str, subject: str, faces: Sequence[NewFace], actor: str = SYSTEM
    ) -> list[tuple[int | None, StoredFace]]:
        """Store faces of a person, who is created if new. Row numbers and what was stored, in order; no number where
        the same request has stored it before.

        Raises:
            NotFoundError: no such collection.
            InvalidRequestError: the same request stored something else before; nothing was stored.
            StorageFullError: no room; nothing was stored.
        """
        with self._trail.change():
            row, macs = self._look_up(collection), []
            person = self._find_subject(row, subject)
            before = {} if person is None else self._stored_before(row, person, faces)
            if len(before) == len(faces):
                return [(None, before[index]) for index in range(len(faces))]
            if person is None:
                person, mac = self._add_subject(row, subject)
                macs.append(mac)
            added = {
                index: self._add_face(row, person, face) for index, face in enumerate(faces) if index not in before
            }
            macs += [mac for _, _, mac in added.values()]
            self._update(row, replace(row, tally=combined(row.tally, *macs)))
            ids = [stored.face_id for _, stored, _ in added.values()]
            self._trail.add(actor, "enrol", collection=row.uid, subject=person.uid, faces=ids)
        return [added[index][:2] if index in added else (None, before[index]) for index in range(len(faces))]

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

    def _create(
        self, name: str, settings: CollectionSettings, model: ModelInfo, created_at: str | None = None
    ) -> CollectionRow:
        uid = uuid.uuid4().hex
        self._vault.create(uid)
        number = self._database.next_id("collections")
        row = CollectionRow(number, uid, name, settings, model, created_at or self._database.now(), EMPTY)
        self._database.write(
            f"INSERT INTO collections ({COLLECTION}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
            (
                number,
                uid,
                name,
                *settings_values(settings),
                *model_values(model),
                row.created_at,
                row.tally,
                self._mac(row),
            ),
        )
        self._first.retally(self._mac(row))
        return row

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

    def _stored_before(
        self, collection: CollectionRow, person: SubjectRow, faces: Sequence[NewFace]
    ) -> dict[int, StoredFace]:
        """What is stored already of some faces, by their place among them."""
        cipher, found = self._vault.cipher(collection.uid), {}
        for index, face in enumerate(faces):
            if face.request is not None:
                known_by = request_digest(cipher, person.uid, face.request)
                row = self._database.one(f"SELECT {FACE}, f.content FROM faces f WHERE f.request = ?", (known_by,))  # noqa: S608
                if row is not None:
                    same_content(row[8], cipher, known_by, face.content)
                    found[index] = stored(checked_face(row, person.uid, cipher))
        return found

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
        known_by = None if face.request is None else request_digest(cipher, person.uid, face.request)
        self._database.write(
            "INSERT INTO faces (id, face_id, subject, contract_id, vector, quality, consent, crop, created_at, mac,"
            " request, content) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
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
                known_by,
                None if known_by is None else content_digest(cipher, known_by, face.content),
            ),
        )
        return number, stored(row), mac
