"""What the server answers, frozen. Coordinates: pixels of the upright image, x right, y down, origin top left."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from facesphere_client.errors import FacesphereError

T = TypeVar("T")
Vector = NDArray[np.float32]  # (D,), L2 norm 1
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Model:
    """Which model made an answer. Only vectors of one contract_id may be compared."""

    id: str
    contract_id: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Face:
    """A face. `kps`: eye, eye, nose, mouth corner, mouth corner, from left to right in the image."""

    bbox: tuple[float, float, float, float]
    kps: tuple[Point, ...]
    det_score: float
    quality: float


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedFace(Face):
    """A face and its vector, float32 (D,) of L2 norm 1, with the contract that it is of. It can be sent as a probe."""

    embedding: Vector
    contract_id: str


@dataclass(frozen=True, slots=True)
class Photo:
    """What was found in an image of `width` x `height` pixels, largest face first."""

    width: int
    height: int
    faces: tuple[Face, ...]
    model: Model


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPhoto:
    """The same with embeddings."""

    width: int
    height: int
    faces: tuple[EmbeddedFace, ...]
    model: Model

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """(N, D), a row a face."""
        rows = [face.embedding for face in self.faces]
        return np.stack(rows) if rows else np.empty((0, self.model.dimension), np.float32)


@dataclass(frozen=True, slots=True)
class Verification:
    """A 1:1 decision. `threshold` is on the cosine and inclusive; `probability` is at equal prior odds.

    `a`, `b`: the faces that were compared, None where an embedding was sent. `face_id`: of the nearest enrolled face,
    where an enrolled person was asked about.
    """

    matched: bool
    similarity: float
    angle_degrees: float
    threshold: float
    target_fmr: float | None
    probability: float | None
    a: Face | None
    b: Face | None
    model: Model
    face_id: str | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A gallery of people."""

    name: str
    purpose: str
    retention_days: int | None
    store_crops: bool
    target_fmr: float | None
    require_consent: bool
    subjects: int
    faces: int
    model: Model
    created_at: str


@dataclass(frozen=True, slots=True)
class EnrolledFace:
    """What is kept about an enrolled face; its vector is never answered."""

    face_id: str
    quality: float | None
    consent: str | None
    has_crop: bool
    created_at: str


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """An image of an enrolment that was not taken: its index, and why."""

    index: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What was stored, durably, and what was not taken."""

    faces: tuple[EnrolledFace, ...]
    rejected: tuple[RejectedImage, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """An enrolled person."""

    name: str
    created_at: str
    faces: tuple[EnrolledFace, ...]


@dataclass(frozen=True, slots=True)
class SubjectSummary:
    """An enrolled person in a listing; `faces` is their number."""

    name: str
    created_at: str
    faces: int


@dataclass(frozen=True, slots=True)
class SubjectPage:
    """A page of people by name; `next_cursor` is None on the last."""

    subjects: tuple[SubjectSummary, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An enrolled person who may be the probe, by the best of their faces."""

    subject: str
    face_id: str
    similarity: float
    angle_degrees: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class Identification:
    """A 1:N decision for one face. Candidates are those at or above the threshold, best first."""

    decision: Literal["known", "unknown"]
    candidates: tuple[Candidate, ...]
    threshold: float
    target_fpir: float | None
    gallery_size: int
    face: Face | None
    model: Model

    @property
    def subject(self) -> str | None:
        """The name of the best candidate; None for an unknown person."""
        return self.candidates[0].subject if self.candidates else None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Signed statement that faces were erased; `subject` is None where a collection was."""

    collection: str
    subject: str | None
    face_ids: tuple[str, ...]
    erased_at: str
    public_key: str
    signature: str

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over: the JSON of all other fields, keys sorted, without spaces."""
        fields = {
            "collection": self.collection,
            "subject": self.subject,
            "face_ids": list(self.face_ids),
            "erased_at": self.erased_at,
            "public_key": self.public_key,
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def is_signed_by(self, public_key: str) -> bool:
        """Whether the server with this key (base64) signed it, and it was not changed since. Needs `cryptography`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
            key.verify(base64.b64decode(self.signature, validate=True), self.signed_bytes)
        except (ValueError, InvalidSignature):
            return False
        return public_key == self.public_key


@dataclass(frozen=True, slots=True)
class ModelDetail:
    """A model of the server's registry. `champion`: promoted; `loaded`: in use now.

    `standing`: champion, retired (it was promoted once) or candidate (it never was). `in_shadow`: compared beside the
    model that answers.
    """

    id: str
    kind: Literal["detector", "embedder"]
    contract_id: str
    dimension: int | None
    architecture: str
    licence: Mapping[str, Any]
    origin: str
    metrics: Mapping[str, float]
    fmr_range: tuple[float, float] | None
    champion: bool
    loaded: bool
    standing: str = ""
    in_shadow: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A change of the model that is served; `progress` is 0..1, `collections` tells what became of each."""

    id: str
    kind: Literal["activate", "rollback", "follow"]
    model_id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float
    error: str | None
    collections: tuple[Mapping[str, Any], ...] = field(default=())
    actor: str = ""
    created_at: str = ""
    updated_at: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome(Generic[T]):
    """What became of one item of many: a value, or the error it failed with."""

    id: str
    value: T | None
    error: FacesphereError | None = None

    def get(self) -> T:
        """The value; raises the error if there is none."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value
