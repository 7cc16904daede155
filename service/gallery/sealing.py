"""Tags over rows, so that a changed, swapped or missing one is noticed before anybody is taken for somebody else.

Each row bears a mac over all its values under the key of its collection. A person's covers the collection, a face's
the person, by names that are never used twice (uid): a row that turns up under somebody else does not fit. The tally
of a collection is the exclusive or of the macs of all its people and faces, and is covered by the collection's own
mac: a row that went missing, or was put back, changes it. `store` does the same for collections.
"""

import hmac
from dataclasses import dataclass
from typing import TypeVar

from service.domain import CollectionSettings, ModelInfo
from service.errors import InvalidRequestError, StorageError
from service.security.vault import MAC_BYTES, Cipher

EMPTY = bytes(MAC_BYTES)
R = TypeVar("R", "CollectionRow", "SubjectRow", "FaceRow")


@dataclass(frozen=True, slots=True)
class CollectionRow:
    """A collection as it is stored."""

    id: int
    uid: str
    name: str
    settings: CollectionSettings
    model: ModelInfo
    created_at: str
    tally: bytes

    def mac(self, cipher: Cipher) -> bytes:
        """The tag of this row."""
        chosen, model = self.settings, self.model
        return cipher.mac(
            "collection",
            self.id,
            self.uid,
            self.name,
            chosen.purpose,
            chosen.retention_days,
            int(chosen.store_crops),
            int(chosen.require_consent),
            chosen.target_fmr,
            model.id,
            model.contract_id,
            model.dimension,
            self.created_at,
            self.tally,
        )


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A person as they are stored."""

    id: int
    uid: str
    collection_uid: str
    name: str
    created_at: str

    def mac(self, cipher: Cipher) -> bytes:
        """The tag of this row."""
        return cipher.mac("subject", self.id, self.uid, self.collection_uid, self.name, self.created_at)


@dataclass(frozen=True, slots=True)
class FaceRow:
    """A face as it is stored, without its vector and crop, which are sealed by themselves."""

    id: int
    face_id: str
    subject_uid: str
    contract_id: str
    quality: float | None
    consent: str | None
    has_crop: bool
    created_at: str

    def mac(self, cipher: Cipher) -> bytes:
        """The tag of this row."""
        return cipher.mac(
            "face",
            self.id,
            self.face_id,
            self.subject_uid,
            self.contract_id,
            self.quality,
            self.consent,
            int(self.has_crop),
            self.created_at,
        )


def vector_context(face_id: str, contract_id: str) -> bytes:
    """Whose vector a sealed one is."""
    return f"vector of {face_id} under {contract_id}".encode()


def crop_context(face_id: str) -> bytes:
    """Whose crop a sealed one is."""
    return f"crop of {face_id}".encode()


def request_digest(cipher: Cipher, subject_uid: str, request: str) -> bytes:
    """By which a request about a person is known when it comes again."""
    return cipher.mac("request", subject_uid, request)


def content_digest(cipher: Cipher, request: bytes, content: str) -> bytes:
    """By which it is known whether it asks for the same thing again."""
    return cipher.mac("content", request.hex(), content)


def same_content(known: bytes | None, cipher: Cipher, request: bytes, content: str) -> None:
    """Raises InvalidRequestError where a request that was answered before comes again with something else in it."""
    if known is None or not hmac.compare_digest(bytes(known), content_digest(cipher, request, content)):
        raise InvalidRequestError(
            "this idempotency_key was used for another photo or another consent of this person; nothing was stored",
            field="idempotency_key",
        )


def checked(row: R, mac: bytes, cipher: Cipher) -> R:
    """The row, if its tag fits.

    Raises:
        StorageError: it was changed outside of this program.
    """
    if row.mac(cipher) != mac:
        what = type(row).__name__.removesuffix("Row").lower()
        raise StorageError(f"the gallery is damaged: {what} number {row.id} is not what was stored; restore a backup")
    return row


def combined(tally: bytes, *macs: bytes) -> bytes:
    """A tally with macs taken in, or out: the exclusive or undoes itself."""
    value = int.from_bytes(tally)
    for mac in macs:
        value ^= int.from_bytes(mac)
    return value.to_bytes(MAC_BYTES)
