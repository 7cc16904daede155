from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Select(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SELECT_UNSPECIFIED: _ClassVar[Select]
    SELECT_ALL: _ClassVar[Select]
    SELECT_LARGEST: _ClassVar[Select]
SELECT_UNSPECIFIED: Select
SELECT_ALL: Select
SELECT_LARGEST: Select

class Model(_message.Message):
    __slots__ = ("id", "contract_id", "dimension")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    contract_id: str
    dimension: int
    def __init__(self, id: _Optional[str] = ..., contract_id: _Optional[str] = ..., dimension: _Optional[int] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class BoundingBox(_message.Message):
    __slots__ = ("x1", "y1", "x2", "y2")
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    X2_FIELD_NUMBER: _ClassVar[int]
    Y2_FIELD_NUMBER: _ClassVar[int]
    x1: float
    y1: float
    x2: float
    y2: float
    def __init__(self, x1: _Optional[float] = ..., y1: _Optional[float] = ..., x2: _Optional[float] = ..., y2: _Optional[float] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("bbox", "kps", "det_score", "quality", "embedding")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    KPS_FIELD_NUMBER: _ClassVar[int]
    DET_SCORE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    bbox: BoundingBox
    kps: _containers.RepeatedCompositeFieldContainer[Point]
    det_score: float
    quality: float
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, bbox: _Optional[_Union[BoundingBox, _Mapping]] = ..., kps: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., det_score: _Optional[float] = ..., quality: _Optional[float] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class ImageSize(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("image", "embedding")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    embedding: Embedding
    def __init__(self, image: _Optional[bytes] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values", "contract_id")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_ID_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    contract_id: str
    def __init__(self, values: _Optional[_Iterable[float]] = ..., contract_id: _Optional[str] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    def __init__(self, image: _Optional[bytes] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("image", "faces", "model")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    image: ImageSize
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    model: Model
    def __init__(self, image: _Optional[_Union[ImageSize, _Mapping]] = ..., faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("image", "faces", "aligned")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    faces: Select
    aligned: bool
    def __init__(self, image: _Optional[bytes] = ..., faces: _Optional[_Union[Select, str]] = ..., aligned: _Optional[bool] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("image", "faces", "model")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    image: ImageSize
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    model: Model
    def __init__(self, image: _Optional[_Union[ImageSize, _Mapping]] = ..., faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class EmbedStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: EmbedRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[EmbedRequest, _Mapping]] = ...) -> None: ...

class EmbedStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: EmbedResponse
    error: Error
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[EmbedResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("a", "b", "target_fmr", "threshold")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    a: Probe
    b: Probe
    target_fmr: float
    threshold: float
    def __init__(self, a: _Optional[_Union[Probe, _Mapping]] = ..., b: _Optional[_Union[Probe, _Mapping]] = ..., target_fmr: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("matched", "similarity", "angle_degrees", "threshold", "target_fmr", "probability", "a", "b", "model", "face_id")
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    ANGLE_DEGREES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FACE_ID_FIELD_NUMBER: _ClassVar[int]
    matched: bool
    similarity: float
    angle_degrees: float
    threshold: float
    target_fmr: float
    probability: float
    a: Face
    b: Face
    model: Model
    face_id: str
    def __init__(self, matched: _Optional[bool] = ..., similarity: _Optional[float] = ..., angle_degrees: _Optional[float] = ..., threshold: _Optional[float] = ..., target_fmr: _Optional[float] = ..., probability: _Optional[float] = ..., a: _Optional[_Union[Face, _Mapping]] = ..., b: _Optional[_Union[Face, _Mapping]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., face_id: _Optional[str] = ...) -> None: ...

class Collection(_message.Message):
    __slots__ = ("name", "purpose", "retention_days", "store_crops", "target_fmr", "subjects", "faces", "model", "created_at", "require_consent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    STORE_CROPS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_CONSENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    purpose: str
    retention_days: int
    store_crops: bool
    target_fmr: float
    subjects: int
    faces: int
    model: Model
    created_at: str
    require_consent: bool
    def __init__(self, name: _Optional[str] = ..., purpose: _Optional[str] = ..., retention_days: _Optional[int] = ..., store_crops: _Optional[bool] = ..., target_fmr: _Optional[float] = ..., subjects: _Optional[int] = ..., faces: _Optional[int] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., created_at: _Optional[str] = ..., require_consent: _Optional[bool] = ...) -> None: ...

class PutCollectionRequest(_message.Message):
    __slots__ = ("name", "purpose", "retention_days", "store_crops", "target_fmr", "require_consent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_DAYS_FIELD_NUMBER: _ClassVar[int]
    STORE_CROPS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_CONSENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    purpose: str
    retention_days: int
    store_crops: bool
    target_fmr: float
    require_consent: bool
    def __init__(self, name: _Optional[str] = ..., purpose: _Optional[str] = ..., retention_days: _Optional[int] = ..., store_crops: _Optional[bool] = ..., target_fmr: _Optional[float] = ..., require_consent: _Optional[bool] = ...) -> None: ...

class GetCollectionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections",)
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[Collection]
    def __init__(self, collections: _Optional[_Iterable[_Union[Collection, _Mapping]]] = ...) -> None: ...

class DeleteCollectionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("collection", "subject", "probes", "consent", "idempotency_key")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    collection: str
    subject: str
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    consent: str
    idempotency_key: str
    def __init__(self, collection: _Optional[str] = ..., subject: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ..., consent: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class EnrolledFace(_message.Message):
    __slots__ = ("face_id", "quality", "consent", "has_crop", "created_at")
    FACE_ID_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    HAS_CROP_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    face_id: str
    quality: float
    consent: str
    has_crop: bool
    created_at: str
    def __init__(self, face_id: _Optional[str] = ..., quality: _Optional[float] = ..., consent: _Optional[str] = ..., has_crop: _Optional[bool] = ..., created_at: _Optional[str] = ...) -> None: ...

class RejectedImage(_message.Message):
    __slots__ = ("index", "code", "message")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: str
    message: str
    def __init__(self, index: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("faces", "rejected")
    FACES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[EnrolledFace]
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedImage]
    def __init__(self, faces: _Optional[_Iterable[_Union[EnrolledFace, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[RejectedImage, _Mapping]]] = ...) -> None: ...

class EnrollStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: EnrollRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[EnrollRequest, _Mapping]] = ...) -> None: ...

class EnrollStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: EnrollResponse
    error: Error
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[EnrollResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class GetSubjectRequest(_message.Message):
    __slots__ = ("collection", "subject")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    subject: str
    def __init__(self, collection: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class Subject(_message.Message):
    __slots__ = ("name", "created_at", "faces")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    name: str
    created_at: str
    faces: _containers.RepeatedCompositeFieldContainer[EnrolledFace]
    def __init__(self, name: _Optional[str] = ..., created_at: _Optional[str] = ..., faces: _Optional[_Iterable[_Union[EnrolledFace, _Mapping]]] = ...) -> None: ...

class ListSubjectsRequest(_message.Message):
    __slots__ = ("collection", "cursor", "limit")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    cursor: str
    limit: int
    def __init__(self, collection: _Optional[str] = ..., cursor: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class SubjectSummary(_message.Message):
    __slots__ = ("name", "created_at", "faces")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    name: str
    created_at: str
    faces: int
    def __init__(self, name: _Optional[str] = ..., created_at: _Optional[str] = ..., faces: _Optional[int] = ...) -> None: ...

class ListSubjectsResponse(_message.Message):
    __slots__ = ("subjects", "next_cursor")
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    subjects: _containers.RepeatedCompositeFieldContainer[SubjectSummary]
    next_cursor: str
    def __init__(self, subjects: _Optional[_Iterable[_Union[SubjectSummary, _Mapping]]] = ..., next_cursor: _Optional[str] = ...) -> None: ...

class DeleteSubjectRequest(_message.Message):
    __slots__ = ("collection", "subject")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    subject: str
    def __init__(self, collection: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class DeleteFaceRequest(_message.Message):
    __slots__ = ("collection", "subject", "face_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    FACE_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    subject: str
    face_id: str
    def __init__(self, collection: _Optional[str] = ..., subject: _Optional[str] = ..., face_id: _Optional[str] = ...) -> None: ...

class ErasureReceipt(_message.Message):
    __slots__ = ("collection", "subject", "face_ids", "erased_at", "public_key", "signature")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    FACE_IDS_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    subject: str
    face_ids: _containers.RepeatedScalarFieldContainer[str]
    erased_at: str
    public_key: str
    signature: str
    def __init__(self, collection: _Optional[str] = ..., subject: _Optional[str] = ..., face_ids: _Optional[_Iterable[str]] = ..., erased_at: _Optional[str] = ..., public_key: _Optional[str] = ..., signature: _Optional[str] = ...) -> None: ...

class IdentifyRequest(_message.Message):
    __slots__ = ("collection", "probe", "limit", "target_fpir", "threshold", "faces")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FACES_FIELD_NUMBER: _ClassVar[int]
    collection: str
    probe: Probe
    limit: int
    target_fpir: float
    threshold: float
    faces: Select
    def __init__(self, collection: _Optional[str] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., limit: _Optional[int] = ..., target_fpir: _Optional[float] = ..., threshold: _Optional[float] = ..., faces: _Optional[_Union[Select, str]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("subject", "face_id", "similarity", "angle_degrees", "probability")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    FACE_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    ANGLE_DEGREES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    subject: str
    face_id: str
    similarity: float
    angle_degrees: float
    probability: float
    def __init__(self, subject: _Optional[str] = ..., face_id: _Optional[str] = ..., similarity: _Optional[float] = ..., angle_degrees: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...

class Identification(_message.Message):
    __slots__ = ("decision", "candidates", "face")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    decision: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    face: Face
    def __init__(self, decision: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., face: _Optional[_Union[Face, _Mapping]] = ...) -> None: ...

class IdentifyResponse(_message.Message):
    __slots__ = ("results", "threshold", "target_fpir", "gallery_size", "model")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    GALLERY_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Identification]
    threshold: float
    target_fpir: float
    gallery_size: int
    model: Model
    def __init__(self, results: _Optional[_Iterable[_Union[Identification, _Mapping]]] = ..., threshold: _Optional[float] = ..., target_fpir: _Optional[float] = ..., gallery_size: _Optional[int] = ..., model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class IdentifyStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: IdentifyRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[IdentifyRequest, _Mapping]] = ...) -> None: ...

class IdentifyStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: IdentifyResponse
    error: Error
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[IdentifyResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class VerifySubjectRequest(_message.Message):
    __slots__ = ("collection", "subject", "probe", "target_fmr", "threshold")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    collection: str
    subject: str
    probe: Probe
    target_fmr: float
    threshold: float
    def __init__(self, collection: _Optional[str] = ..., subject: _Optional[str] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., target_fmr: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelDetail]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelDetail, _Mapping]]] = ...) -> None: ...

class ModelDetail(_message.Message):
    __slots__ = ("id", "kind", "contract_id", "dimension", "architecture", "licence", "origin", "metrics", "fmr_range", "champion", "loaded", "standing", "in_shadow")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    FMR_RANGE_FIELD_NUMBER: _ClassVar[int]
    CHAMPION_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    IN_SHADOW_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    contract_id: str
    dimension: int
    architecture: str
    licence: Licence
    origin: str
    metrics: _containers.ScalarMap[str, float]
    fmr_range: _containers.RepeatedScalarFieldContainer[float]
    champion: bool
    loaded: bool
    standing: str
    in_shadow: bool
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., contract_id: _Optional[str] = ..., dimension: _Optional[int] = ..., architecture: _Optional[str] = ..., licence: _Optional[_Union[Licence, _Mapping]] = ..., origin: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., fmr_range: _Optional[_Iterable[float]] = ..., champion: _Optional[bool] = ..., loaded: _Optional[bool] = ..., standing: _Optional[str] = ..., in_shadow: _Optional[bool] = ...) -> None: ...

class Licence(_message.Message):
    __slots__ = ("spdx", "commercial_use", "note")
    SPDX_FIELD_NUMBER: _ClassVar[int]
    COMMERCIAL_USE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    spdx: str
    commercial_use: bool
    note: str
    def __init__(self, spdx: _Optional[str] = ..., commercial_use: _Optional[bool] = ..., note: _Optional[str] = ...) -> None: ...

class ActivateModelRequest(_message.Message):
    __slots__ = ("model_id",)
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    def __init__(self, model_id: _Optional[str] = ...) -> None: ...

class RollBackModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "kind", "model_id", "state", "progress", "error", "collections", "actor", "created_at", "updated_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    model_id: str
    state: str
    progress: float
    error: str
    collections: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Struct]
    actor: str
    created_at: str
    updated_at: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., model_id: _Optional[str] = ..., state: _Optional[str] = ..., progress: _Optional[float] = ..., error: _Optional[str] = ..., collections: _Optional[_Iterable[_Union[_struct_pb2.Struct, _Mapping]]] = ..., actor: _Optional[str] = ..., created_at: _Optional[str] = ..., updated_at: _Optional[str] = ...) -> None: ...
