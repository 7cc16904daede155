"""Columns of the tables, and rows of them as the values that sealing.py knows, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.domain import CollectionSettings, ModelInfo, StoredFace, Vector
from service.errors import StorageError
from service.gallery import sealing
from service.gallery.postgres.database import Row, Witness
from service.gallery.sealing import FaceRow, SubjectRow, checked, combined, vector_context
from service.security.vault import MAC_BYTES, Cipher

COLLECTION = (
    "c.id, c.uid, c.name, c.purpose, c.retention_days, c.store_crops, c.require_consent, c.target_fmr, c.model_id,"
    " c.contract_id, c.dimension, c.created_at, c.tally, c.mac, c.changed_seq, c.changed_mac,"
    " (SELECT k.wrapped FROM keyring k WHERE k.uid = c.uid), c.place"
)
SUBJECT = "s.id, s.uid, s.name, s.created_at, s.mac"
FACE = "f.id, f.face_id, f.contract_id, f.quality, f.consent, f.crop IS NOT NULL, f.created_at, f.mac"
FACE_COLUMNS = (
    "collection, subject, id, face_id, contract_id, quality, consent, created_at, mac, code, vector, crop, request,"
    " content"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the vectors of a collection under one contract lie, with their codes: under the first contract that it had
    in the rows of its faces (number 0), under each other in a table of its own."""

    collection: int
    number: int

    @property
    def table(self) -> str:
        """Has id, code and vector."""
        return f"vectors_{self.collection}_{self.number}" if self.number else f"faces_{self.collection}"

    @property
    def vector(self) -> str:
        """The vector of a face `f`, sealed; NULL if it has none here."""
        return f"(SELECT v.vector FROM {self.table} v WHERE v.id = f.id)" if self.number else "f.vector"  # noqa: S608

    @property
    def lacks(self) -> str:
        """Whether a face `f` has none here."""
        if not self.number:
            return "f.vector IS NULL"
        return f"NOT EXISTS (SELECT 1 FROM {self.table} v WHERE v.id = f.id)"  # noqa: S608


@dataclass(frozen=True, slots=True)
class CollectionRow(sealing.CollectionRow):
    """A collection as it is stored here. Where its vectors lie is covered by no tag: each is sealed under its contract,
    and one that is looked for in another place does not open."""

    number: int

    @property
    def place(self) -> Place:
        """Of vectors under its contract."""
        return Place(self.id, self.number)


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
    return CollectionRow(row[0], row[1], row[2], settings, ModelInfo(*row[8:11]), row[11], bytes(row[12]), row[17])


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


def opened_vector(face: FaceRow, sealed: bytes | None, collection: CollectionRow, cipher: Cipher) -> Vector:
    """The vector of a face under the contract of its collection.

    Raises:
        StorageError: there is none, or it is not what was stored.
    """
    vector = vector_under(collection.model.contract_id, face, sealed, cipher)
    if len(vector) != collection.model.dimension:
        raise StorageError(f"the gallery is damaged: collection {collection.name} holds a face of another model")
    return vector


def vector_under(contract_id: str, face: FaceRow, sealed: bytes | None, cipher: Cipher) -> Vector:
    """The vector of a face under a contract."""
    if sealed is None:
        raise StorageError(f"the gallery is damaged: face number {face.id} has no vector of its collection's model")
    return np.frombuffer(cipher.open(bytes(sealed), vector_context(face.face_id, contract_id)), dtype="<f4")


def stored(face: FaceRow) -> StoredFace:
    """What is told of a face."""
    return StoredFace(face.face_id, face.quality, face.consent, face.has_crop, face.created_at)
