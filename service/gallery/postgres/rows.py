"""Columns of the tables, and rows of them as the values that sealing.py knows, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.domain import CollectionSettings, ModelInfo, StoredFace, Vector
from service.errors import StorageError
from service.gallery.postgres.database import Row, Witness
from service.gallery.sealing import CollectionRow, FaceRow, SubjectRow, checked, combined, vector_context
from service.security.vault import MAC_BYTES, Cipher

COLLECTION = (
    "c.id, c.uid, c.name, c.purpose, c.retention_days, c.store_crops, c.require_consent, c.target_fmr, c.model_id,"
    " c.contract_id, c.dimension, c.created_at, c.tally, c.mac, c.changed_seq, c.changed_mac,"
    " (SELECT k.wrapped FROM keyring k WHERE k.uid = c.uid)"
)
SUBJECT = "s.id, s.uid, s.name, s.created_at, s.mac"
FACE = "f.id, f.face_id, f.contract_id, f.quality, f.consent, f.crop IS NOT NULL, f.created_at, f.mac"
FACE_COLUMNS = "collection, subject, id, face_id, contract_id, quality, consent, created_at, mac, code, vector, crop"


@dataclass(frozen=True, slots=True)
class Tally:
    """Of a collection: its people and faces, counted, and their tags combined. Covered by the collection's own tag."""

    macs: bytes = bytes(MAC_BYTES)
    subjects: int = 0
    faces: int = 0

    @property
    def packed(self) -> bytes:
        """As it is stored."""
        return self.macs + self.subjects.to_bytes(8) + self.faces.to_bytes(8)

    def changed(self, subjects: int, faces: int, macs: Sequence[bytes]) -> "Tally":
        """With people and faces come, or gone if negative, whose tags these are."""
        return Tally(combined(self.macs, *macs), self.subjects + subjects, self.faces + faces)

    @staticmethod
    def of(row: CollectionRow) -> "Tally":
        """What a row says."""
        return Tally.unpacked(row.tally)

    @staticmethod
    def unpacked(packed: bytes) -> "Tally":
        """What was packed."""
        macs, rest = packed[:MAC_BYTES], packed[MAC_BYTES:]
        return Tally(macs, int.from_bytes(rest[:8]), int.from_bytes(rest[8:]))


def with_tally(row: CollectionRow, tally: Tally) -> CollectionRow:
    """A collection with another tally."""
    return replace(row, tally=tally.packed)


def unchecked_collection(row: Row) -> CollectionRow:
    """A collection as it is stored; `checked` tells whether by us."""
    settings = CollectionSettings(row[3], row[4], row[5], row[7], row[6])
    return CollectionRow(row[0], row[1], row[2], settings, ModelInfo(*row[8:11]), row[11], bytes(row[12]))


def newest_change(row: Row) -> Witness:
    """The entry of the log that tells of a collection's newest change."""
    return Witness(row[14], bytes(row[15]))


def checked_subject(row: Row, collection_uid: str, cipher: Cipher) -> SubjectRow:
    """A person, if the tag fits."""
    return checked(SubjectRow(row[0], row[1], collection_uid, row[2], row[3]), bytes(row[4]), cipher)


def checked_face(row: Row, subject_uid: str, cipher: Cipher) -> FaceRow:
    """A face, if the tag fits."""
    face = FaceRow(row[0], row[1], subject_uid, row[2], row[3], row[4], row[5], row[6])
    return checked(face, bytes(row[7]), cipher)


def opened_vector(face: FaceRow, sealed: bytes, collection: CollectionRow, cipher: Cipher) -> Vector:
    """The vector of a face.

    Raises:
        StorageError: it is not what was stored, or of another model than its collection.
    """
    plain = cipher.open(sealed, vector_context(face.face_id, face.contract_id))
    if len(plain) != 4 * collection.model.dimension or face.contract_id != collection.model.contract_id:
        raise StorageError(f"collection {collection.name} holds a face of another model")
    return np.frombuffer(plain, dtype="<f4")


def stored(face: FaceRow) -> StoredFace:
    """What is told of a face."""
    return StoredFace(face.face_id, face.quality, face.consent, face.has_crop, face.created_at)
