"""Rows of the records: their columns, and one at a time looked up and checked, inside of what holds the database."""

import numpy as np

from service.domain import CollectionSettings, ModelInfo, StoredFace, Vector
from service.errors import NotFoundError, StorageError
from service.gallery.database import Database, Row
from service.gallery.errands import Errands
from service.gallery.first_row import FirstRow
from service.gallery.sealing import CollectionRow, FaceRow, SubjectRow, checked, vector_context
from service.gallery.trail import Trail
from service.security.vault import Cipher, Vault

COLLECTION = (
    "id, uid, name, purpose, retention_days, store_crops, require_consent, target_fmr, model_id, contract_id,"
    " dimension, created_at, tally, mac"
)
SUBJECT = "s.id, s.uid, s.name, s.created_at, s.mac"
# The vector of a face under the contract that is the query's first value; NULL if it has none.
VECTOR = (
    "CASE WHEN f.contract_id = ?1 THEN f.vector"
    " ELSE (SELECT v.vector FROM vectors v WHERE v.face = f.id AND v.contract_id = ?1) END"
)
FACE = "f.id, f.face_id, f.contract_id, f.quality, f.consent, f.crop IS NOT NULL, f.created_at, f.mac"


class Rows:
    """What reading, enrolling and erasing have in common.

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

    def _find(self, name: str) -> CollectionRow | None:
        row = self._database.one(f"SELECT {COLLECTION} FROM collections WHERE name = ?", (name,))  # noqa: S608
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

    def _update(self, old: CollectionRow, new: CollectionRow) -> None:
        self._database.write(
            "UPDATE collections SET purpose=?, retention_days=?, store_crops=?, require_consent=?, target_fmr=?,"
            " model_id=?, contract_id=?, dimension=?, tally=?, mac=? WHERE id=?",
            (*settings_values(new.settings), *model_values(new.model), new.tally, self._mac(new), new.id),
        )
        self._first.retally(self._mac(old), self._mac(new))

    def _mac(self, row: CollectionRow) -> bytes:
        return row.mac(self._vault.cipher(row.uid))

    def _find_subject(self, collection: CollectionRow, name: str) -> SubjectRow | None:
        row = self._database.one(
            f"SELECT {SUBJECT} FROM subjects s WHERE s.collection = ? AND s.name = ?",  # noqa: S608
            (collection.id, name),
        )
        return None if row is None else checked_subject(row, collection.uid, self._vault.cipher(collection.uid))

    def _look_up_subject(self, collection: CollectionRow, name: str) -> SubjectRow:
        person = self._find_subject(collection, name)
        if person is None:
            raise NotFoundError(f"there is no subject {name!r} in {collection.name!r}", subject=name)
        return person


def settings_values(settings: CollectionSettings) -> tuple[object, ...]:
    """In the order of their columns."""
    return (
        settings.purpose,
        settings.retention_days,
        int(settings.store_crops),
        int(settings.require_consent),
        settings.target_fmr,
    )


def model_values(model: ModelInfo) -> tuple[object, ...]:
    """In the order of their columns."""
    return (model.id, model.contract_id, model.dimension)


def checked_subject(row: Row, collection_uid: str, cipher: Cipher) -> SubjectRow:
    """The person in a row of SUBJECT."""
    return checked(SubjectRow(row[0], row[1], collection_uid, row[2], row[3]), row[4], cipher)


def checked_face(row: Row, subject_uid: str, cipher: Cipher) -> FaceRow:
    """The face in a row of FACE."""
    face = FaceRow(row[0], row[1], subject_uid, row[2], row[3], row[4], bool(row[5]), row[6])
    return checked(face, row[7], cipher)


def face_and_vector(
    row: Row, subject_uid: str, collection: CollectionRow, cipher: Cipher, contract_id: str | None = None
) -> tuple[str, Vector]:
    """face_id and vector of a row of FACE with the vector behind it (VECTOR); of the collection's contract, if no
    other is named."""
    face = checked_face(row, subject_uid, cipher)
    contract = contract_id or collection.model.contract_id
    if row[8] is None:
        raise StorageError(f"collection {collection.name} holds a face of another model")
    plain = cipher.open(row[8], vector_context(face.face_id, contract))
    if contract == collection.model.contract_id and len(plain) != 4 * collection.model.dimension:
        raise StorageError(f"collection {collection.name} holds a face of another model")
    return face.face_id, np.frombuffer(plain, dtype="<f4")


def stored(face: FaceRow) -> StoredFace:
    """What is told of a face."""
    return StoredFace(face.face_id, face.quality, face.consent, face.has_crop, face.created_at)
