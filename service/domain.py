"""Values of the service, frozen. Coordinates: pixels of the upright image, x to the right, y down, origin top left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.image import Pixels
from service.errors import InvalidRequestError

Vector = NDArray[np.float32]  # (D,), L2 norm 1
Select = Literal["all", "largest"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model made a vector. Only vectors of one contract_id may be compared."""

    id: str
    contract_id: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a photo. `kps`: eye, eye, nose, mouth corner, mouth corner, image-left first."""

    bbox: tuple[float, float, float, float]
    kps: tuple[Point, ...]
    det_score: float
    quality: float

    @property
    def area(self) -> float:
        """Pixels covered by the box."""
        x1, y1, x2, y2 = self.bbox
        return max(x2 - x1, 0.0) * max(y2 - y1, 0.0)


@dataclass(frozen=True, slots=True)
class CroppedFace:
    """A face with its aligned crop, uint8 RGB, as the embedder takes it."""

    face: Face
    crop: Pixels


@dataclass(frozen=True, slots=True)
class CroppedPhoto:
    """The faces of a photo of `width` x `height` pixels, cut out, largest first."""

    width: int
    height: int
    faces: Sequence[CroppedFace]


@dataclass(frozen=True, slots=True)
class EmbeddedFace:
    """A face, its aligned crop and its embedding."""

    face: Face
    crop: Pixels
    embedding: Vector


@dataclass(frozen=True, slots=True)
class Photo:
    """What was found in a photo of `width` x `height` pixels, largest face first."""

    width: int
    height: int
    faces: Sequence[Face]


@dataclass(frozen=True, slots=True)
class EmbeddedPhoto:
    """The same with embeddings."""

    width: int
    height: int
    faces: Sequence[EmbeddedFace]


@dataclass(frozen=True, slots=True)
class Probe:
    """What is compared: an image file, or an embedding that the caller kept (with its contract_id, if known)."""

    image: bytes | None = None
    embedding: Sequence[float] | None = None
    contract_id: str | None = None

    def __post_init__(self) -> None:
        if (self.image is None) == (self.embedding is None):
            raise InvalidRequestError("give either an image or an embedding")
        if self.contract_id is not None and len(self.contract_id) > 64:
            raise InvalidRequestError("a contract_id has 16 digits", field="contract_id")


@dataclass(frozen=True, slots=True)
class EmbeddedProbe:
    """A probe as a unit vector; `face` is None where the caller sent an embedding."""

    embedding: Vector
    face: Face | None


@dataclass(frozen=True, slots=True)
class Criterion:
    """How a 1:1 decision is made: at a stated false-match rate, or at a cosine threshold. None of both: the default."""

    target_fmr: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.target_fmr is not None and self.threshold is not None:
            raise InvalidRequestError("give target_fmr or threshold, not both")
        _in_range("target_fmr", self.target_fmr, 0, 1)
        _in_range("threshold", self.threshold, -1, 1)


@dataclass(frozen=True, slots=True)
class SearchCriterion:
    """How a 1:N decision is made: at a stated false-positive identification rate, or at a cosine threshold."""

    target_fpir: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.target_fpir is not None and self.threshold is not None:
            raise InvalidRequestError("give target_fpir or threshold, not both")
        _in_range("target_fpir", self.target_fpir, 0, 1)
        _in_range("threshold", self.threshold, -1, 1)


def _in_range(name: str, value: float | None, low: float, high: float) -> None:
    # The ends of a rate are no rates: 0 can never be met and 1 accepts everybody. A cosine may reach both.
    inside = value is None or (low <= value <= high if low < 0 else low < value < high)
    if not inside:
        raise InvalidRequestError(f"{name} must be between {low} and {high}, got {value}", field=name)


@dataclass(frozen=True, slots=True)
class Verification:
    """A 1:1 decision. `threshold` is on the cosine and inclusive; `probability` is at equal prior odds."""

    matched: bool
    similarity: float
    angle_degrees: float
    threshold: float
    target_fmr: float | None
    probability: float | None
    a: Face | None
    b: Face | None
    model: ModelInfo


@dataclass(frozen=True, slots=True)
class Candidate:
    """An enrolled person who may be the probe, with the best of their faces."""

    subject: str
    face_id: str
    similarity: float
    angle_degrees: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class Identification:
    """A 1:N decision for one face. Candidates are those at or above the threshold, best first."""

    decision: Literal["known", "unknown"]
    candidates: Sequence[Candidate]
    threshold: float
    target_fpir: float | None
    gallery_size: int
    face: Face | None
    model: ModelInfo


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """What the caller decides about a collection."""

    purpose: str
    retention_days: int | None = None
    store_crops: bool = False
    target_fmr: float | None = None
    require_consent: bool = False


@dataclass(frozen=True, slots=True)
class Collection:
    """A gallery of people under one contract."""

    name: str
    settings: CollectionSettings
    model: ModelInfo
    subjects: int
    faces: int
    created_at: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far a collection has vectors under another contract than its own: of `faces`, `missing` have none; of those
    `without_crop` cannot be given one, because no crop was stored with them."""

    faces: int
    missing: int
    without_crop: int


@dataclass(frozen=True, slots=True)
class StoredCrop:
    """The crop (PNG) of an enrolled face; `number` orders them."""

    number: int
    face_id: str
    crop: bytes


@dataclass(frozen=True, slots=True)
class TwoVectors:
    """Vectors of the same N faces under two contracts: uid of each one's person, float32 (N, D) and (N, E)."""

    people: Sequence[str]
    old: NDArray[np.float32]
    new: NDArray[np.float32]


JobKind = Literal["activate", "rollback", "follow"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
OPEN_STATES: tuple[JobState, ...] = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Job:
    """A change of the model that is served, with the collections that follow it.

    `progress` is 0..1; `result` tells of each collection, by its uid, what became of it; times are UTC, ISO 8601.
    """

    id: str
    kind: JobKind
    model_id: str
    actor: str
    state: JobState
    progress: float
    error: str | None
    result: Mapping[str, Any]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class NewFace:
    """A face to be enrolled. `crop` is an encoded PNG, only where the collection stores crops.

    `request`: what the caller calls the request for it; a person's face of the same one is not stored twice. `content`:
    a digest of what was sent for it, by which another face under the same name is told from the same one.
    """

    embedding: Vector
    quality: float | None
    consent: str | None
    crop: bytes | None = None
    request: str | None = None
    content: str = ""


@dataclass(frozen=True, slots=True)
class StoredFace:
    """What is kept about an enrolled face, without its vector."""

    face_id: str
    quality: float | None
    consent: str | None
    has_crop: bool
    created_at: str


@dataclass(frozen=True, slots=True)
class Subject:
    """An enrolled person."""

    name: str
    created_at: str
    faces: Sequence[StoredFace]


@dataclass(frozen=True, slots=True)
class SubjectExport:
    """All that is kept of a person; vectors and crops (PNG) by face_id, `others` under other contracts."""

    collection: str
    purpose: str
    subject: Subject
    vectors: Mapping[str, Vector]
    crops: Mapping[str, bytes]
    model: ModelInfo
    others: Mapping[str, Mapping[str, Vector]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubjectSummary:
    """An enrolled person in a listing."""

    name: str
    created_at: str
    faces: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of subjects by name; `next_cursor` is None on the last."""

    subjects: Sequence[SubjectSummary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A photo that was not enrolled, and why."""

    index: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an enrolment stored and what it refused."""

    faces: Sequence[StoredFace]
    rejected: Sequence[Rejected]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Signed statement that faces were erased: Ed25519 over the canonical JSON of all other fields."""

    collection: str
    subject: str | None
    face_ids: Sequence[str]
    erased_at: str
    public_key: str
    signature: str
