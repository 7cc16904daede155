"""Forms of the requests, checked field by field, and of the answers, for the OpenAPI document."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.bundle import InputSpec, Lineage, Precision, Provenance
from models.calibration import Calibration
from models.registry import Standing


class _In(BaseModel):
    """Requests: an unknown field is an error, so that a misspelt rate is never silently left out."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class NoOptions(_In):
    """No query parameters."""


class BatchOptions(_In):
    """Query parameters of /embed/batch."""

    faces: Literal["all", "largest"] = Field("all", description="Every face, or the one with the largest box.")
    encoding: Literal["float", "base64"] = Field("float", description="base64: little-endian float32 bytes.")


class EmbedOptions(BatchOptions):
    """Query parameters of /embed."""

    aligned: bool = Field(False, description="The image is a crop already; it is not searched for faces.")


class VerifyOptions(_In):
    """How a 1:1 decision is made; one of the two, or neither for the default rate."""

    target_fmr: float | None = Field(None, description="False-match rate, 0..1.", examples=[0.001])
    threshold: float | None = Field(None, description="On the cosine, -1..1, inclusive.", examples=[0.36])


class IdentifyOptions(_In):
    """How a 1:N decision is made."""

    limit: int = Field(5, description="Candidates a face, 1..1000.")
    faces: Literal["all", "largest"] = Field("largest", description="Every face, or the one with the largest box.")
    target_fpir: float | None = Field(None, description="Rate at which a stranger may be named, 0..1.", examples=[0.01])
    threshold: float | None = Field(None, description="On the cosine, -1..1, inclusive.")


class PageOptions(_In):
    """Query parameters of a listing."""

    cursor: str | None = Field(None, description="next_cursor of the page before.")
    limit: int = Field(100, description="1..1000.")


class EnrolOptions(_In):
    """Query parameters, or form fields, of an enrolment."""

    consent: str | None = Field(None, description="Reference to the person's consent.")
    idempotency_key: str | None = Field(
        None, description="What the caller calls this request; sent again, it stores nothing twice."
    )


class ImageBody(_In):
    """JSON with one image."""

    image: str = Field(description="base64 of a JPEG, PNG, WebP or BMP file.", examples=["/9j/4AAQSkZJRgABAQ..."])


class ProbeBody(_In):
    """An image or an embedding."""

    image: str | None = Field(None, description="base64 of an image file.", examples=["/9j/4AAQSkZJRgABAQ..."])
    embedding: list[float] | None = Field(None, description="An embedding of this model.")
    contract_id: str | None = Field(None, description="Contract of the embedding; if given, it must be the server's.")


class VerifyBody(VerifyOptions):
    """JSON of /verify."""

    a: ProbeBody
    b: ProbeBody


class SubjectVerifyBody(VerifyOptions, ProbeBody):
    """JSON of .../verify."""


class EnrolBody(EnrolOptions, ProbeBody):
    """JSON of an enrolment."""


class IdentifyBody(IdentifyOptions, ProbeBody):
    """JSON of identify."""


class CollectionBody(_In):
    """JSON of PUT /collections/{collection}."""

    purpose: str = Field(description="What the collection is for.", examples=["door of the lab"])
    retention_days: int | None = Field(None, description="Faces are erased after that many days.")
    store_crops: bool = Field(False, description="Keep aligned crops, so that a later model can embed them anew.")
    target_fmr: float | None = Field(None, description="Default rate of 1:1 decisions in this collection.")
    require_consent: bool = Field(False, description="Enrol nobody without a consent reference.")


class KeyBody(_In):
    """JSON of POST /keys."""

    name: str = Field(description="Who or what will use it.", examples=["door of the lab"])
    scopes: list[str] = Field(
        description="Of embed, verify, identify, enroll, metrics, admin.", examples=[["identify"]]
    )
    collections: list[str] | None = Field(None, description="The only collections it may be used for.")
    expires_at: datetime | None = Field(None, description="From then on it opens nothing.")
    requests_per_minute: int | None = Field(None, description="More of them get 429.")
    requests_per_day: int | None = Field(None, description="The same for a day.")


class AuditOptions(_In):
    """Query parameters of /audit."""

    before: int | None = Field(
        None, ge=1, lt=2**62, description="Entries before this one; next_before of the page before."
    )
    limit: int = Field(100, description="1..1000.")


class JobOptions(_In):
    """Query parameters of /jobs."""

    limit: int = Field(20, ge=1, le=1000, description="1..1000.")


class ShadowOptions(_In):
    """Query parameters of /models/{model_id}/shadow."""

    share: float = Field(0.1, gt=0, le=1, description="Of 1:1 comparisons of two photos, above 0 and up to 1.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["face_not_found"])
    message: str = Field(examples=["there is no face in the image"])
    details: dict[str, object] = {}


class ErrorOut(BaseModel):
    """Every error."""

    error: ErrorDetail
    request_id: str


class ModelOut(BaseModel):
    """Only vectors of one contract_id may be compared."""

    id: str = Field(examples=["sface-2021dec"])
    contract_id: str = Field(examples=["0123456789abcdef"])
    dimension: int = Field(examples=[128])


class FaceOut(BaseModel):
    """Pixels of the upright image."""

    bbox: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2", examples=[[61.5, 40.2, 130.9, 133.0]])
    kps: list[tuple[float, float]] = Field(
        description="Eye, eye, nose, mouth corner, mouth corner, image-left first.",
        min_length=5,
        max_length=5,
    )
    det_score: float = Field(ge=0, le=1)
    quality: float = Field(ge=0, le=1)


class EmbeddedFaceOut(FaceOut):
    """With its embedding: numbers, or base64 of little-endian float32."""

    embedding: list[float] | str


class SizeOut(BaseModel):
    """Of the upright image."""

    width: int
    height: int


class DetectOut(BaseModel):
    """Faces, largest first; none is an empty list."""

    image: SizeOut
    faces: list[FaceOut]
    model: ModelOut


class EmbedOut(BaseModel):
    """Faces with embeddings, largest first."""

    image: SizeOut
    faces: list[EmbeddedFaceOut]
    model: ModelOut


class BatchResultOut(BaseModel):
    """Faces of one image, or why there are none."""

    image: SizeOut | None = None
    faces: list[EmbeddedFaceOut] | None = None
    error: ErrorDetail | None = None


class BatchOut(BaseModel):
    """One result an image, in order."""

    results: list[BatchResultOut]
    model: ModelOut


class VerifyOut(BaseModel):
    """A 1:1 decision."""

    matched: bool
    similarity: float = Field(description="Cosine, -1..1.", examples=[0.61])
    angle_degrees: float = Field(examples=[52.4])
    threshold: float = Field(description="On the cosine, inclusive.", examples=[0.33])
    target_fmr: float | None = Field(description="None where the caller stated a threshold.", examples=[0.001])
    probability: float | None = Field(description="P(same person) at equal prior odds.", examples=[0.998])
    a: FaceOut | None
    b: FaceOut | None
    model: ModelOut


class SubjectVerifyOut(VerifyOut):
    """A 1:1 decision against an enrolled person."""

    face_id: str = Field(description="The enrolled face that was nearest.")


class CollectionOut(BaseModel):
    """A gallery of people."""

    name: str
    purpose: str
    retention_days: int | None
    store_crops: bool
    target_fmr: float | None
    require_consent: bool
    subjects: int
    faces: int
    model: ModelOut
    created_at: str


class CollectionsOut(BaseModel):
    """All collections."""

    collections: list[CollectionOut]


class StoredFaceOut(BaseModel):
    """An enrolled face, without its vector."""

    face_id: str
    quality: float | None
    consent: str | None
    has_crop: bool
    created_at: str


class RejectedOut(BaseModel):
    """An image that was not enrolled."""

    index: int
    code: str
    message: str


class EnrolOut(BaseModel):
    """What was stored and what was not."""

    faces: list[StoredFaceOut]
    rejected: list[RejectedOut]


class SubjectOut(BaseModel):
    """An enrolled person."""

    subject: str
    created_at: str
    faces: list[StoredFaceOut]


class SubjectSummaryOut(BaseModel):
    """An enrolled person in a listing."""

    subject: str
    created_at: str
    faces: int


class PageOut(BaseModel):
    """One page of people by name."""

    subjects: list[SubjectSummaryOut]
    next_cursor: str | None


class CandidateOut(BaseModel):
    """Who it may be."""

    subject: str
    face_id: str
    similarity: float
    angle_degrees: float
    probability: float | None


class IdentifyOut(BaseModel):
    """A 1:N decision."""

    decision: Literal["known", "unknown"]
    candidates: list[CandidateOut] = Field(description="At or above the threshold, best first.")
    threshold: float
    target_fpir: float | None
    gallery_size: int = Field(description="Faces searched.")
    face: FaceOut | None
    model: ModelOut


class IdentifyAllOut(BaseModel):
    """With faces=all: one decision a face, largest first."""

    results: list[IdentifyOut]


class ReceiptOut(BaseModel):
    """Ed25519 over the canonical JSON of all other fields."""

    collection: str
    subject: str | None
    face_ids: list[str]
    erased_at: str
    public_key: str
    signature: str


class ModelDetailOut(BaseModel):
    """A model of the registry."""

    id: str
    kind: Literal["detector", "embedder"]
    contract_id: str
    dimension: int | None
    architecture: str
    licence: dict[str, object]
    origin: str
    metrics: dict[str, float]
    fmr_range: tuple[float, float] | None
    champion: bool
    standing: Standing = Field(description="champion: promoted; retired: it was once; candidate: it never was.")
    loaded: bool
    in_shadow: bool


class ModelsOut(BaseModel):
    """All models."""

    models: list[ModelDetailOut]


class ModelFullOut(ModelDetailOut):
    """All that is known of a model."""

    model_config = ConfigDict(protected_namespaces=())

    model_sha256: str
    input: InputSpec
    template: str | None
    mirror: bool
    precision: Precision
    provenance: Provenance
    lineage: Lineage | None
    calibration: Calibration | None = Field(description="None where thresholds stand for no rate.")
    card: str | None = Field(description="Markdown.")
    signers: list[str] = Field(description="Public keys, Ed25519.")


class AgreementOut(BaseModel):
    """Two models on the same faces of a collection; pairs are of each face with each other one."""

    faces: int
    rank1_overlap: float | None = Field(description="Share of faces whose nearest other face is of the same person.")
    pairs: int
    flipped_to_match: int | None = Field(description="Pairs that only the new model takes for one person.")
    flipped_to_match_of_one_person: int | None = Field(description="Those of them that are.")
    flipped_to_non_match: int | None = Field(description="Pairs that only the old model takes for one person.")
    flipped_to_non_match_of_one_person: int | None = Field(description="Those of them that are.")


class MovedOut(BaseModel):
    """What became of a collection."""

    model_config = ConfigDict(protected_namespaces=())

    collection: str | None = Field(description="None where it was erased since.")
    state: Literal["switching", "switched", "stays", "there", "erased", "cancelled"]
    before: str | None = Field(None, description="The model that it was on.")
    before_contract_id: str | None = Field(None, description="The contract of that model.")
    model: str | None = Field(None, description="The model that it is on.")
    faces: int | None = None
    without_crop: int | None = Field(
        None, description="Faces that must be enrolled again: they cannot be embedded anew."
    )
    reason: str | None = Field(None, description="Why it stays on its model.")
    agreement: AgreementOut | None = None


class JobOut(BaseModel):
    """A change of the model that is served."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    kind: Literal["activate", "rollback", "follow"]
    model_id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: float = Field(ge=0, le=1)
    error: str | None
    collections: list[MovedOut]
    actor: str
    created_at: str
    updated_at: str


class ShadowOut(BaseModel):
    """A candidate beside the model that answers, since it was set."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    share: float
    compared: int
    same: int
    flipped_to_match: int = Field(description="Only the candidate would have matched.")
    flipped_to_non_match: int = Field(description="Only the answer matched.")
    failed: int = Field(description="The candidate gave no answer.")
    left_out: int = Field(description="Too many were under way.")
    mean_shift: float = Field(description="Of the cosine: the candidate's less the answer's.")


class JobsOut(BaseModel):
    """The newest jobs."""

    jobs: list[JobOut]


class KeyOut(BaseModel):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[str]
    collections: list[str] | None
    requests_per_minute: int | None
    requests_per_day: int | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class KeyCreatedOut(KeyOut):
    """A new key."""

    key: str = Field(description="What callers send; it cannot be asked for again.")


class KeysOut(BaseModel):
    """All keys."""

    keys: list[KeyOut]


class AuditEntryOut(BaseModel):
    """One entry of the audit log."""

    seq: int
    at: str
    actor: str = Field(description="Id of a key; settings, local, cli or system.")
    event: str
    detail: dict[str, object]


class AuditOut(BaseModel):
    """Entries, newest first."""

    entries: list[AuditEntryOut]
    next_before: int | None


class KeptFaceOut(StoredFaceOut):
    """Everything that is kept of a face."""

    embedding: list[float]
    other_embeddings: dict[str, list[float]] = Field(description="Under other models, by contract_id.")
    crop: str | None = Field(description="base64 of a PNG.")


class SubjectExportOut(BaseModel):
    """Everything that is kept of a person."""

    collection: str
    purpose: str
    subject: str
    created_at: str
    faces: list[KeptFaceOut]
    model: ModelOut


class HealthOut(BaseModel):
    """State of the server."""

    status: str
