"""Domain values to messages, and messages to domain values."""

from collections.abc import Sequence
from typing import Any

from service.domain import (
    Collection,
    CollectionSettings,
    Criterion,
    EmbeddedFace,
    EmbeddedPhoto,
    Enrolment,
    Face,
    Identification,
    ModelInfo,
    Page,
    Photo,
    Probe,
    Receipt,
    SearchCriterion,
    Select,
    StoredFace,
    Subject,
    Verification,
)
from service.errors import InvalidRequestError
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb


def to_probe(message: pb.Probe) -> Probe:
    """A probe; InvalidRequestError if it has no source."""
    source = message.WhichOneof("source")
    if source == "image":
        return Probe(image=message.image)
    if source == "embedding":
        return Probe(embedding=list(message.embedding.values), contract_id=message.embedding.contract_id or None)
    raise InvalidRequestError("a probe needs an image or an embedding")


def to_select(value: int, default: Select) -> Select:
    """Which faces are asked for."""
    known: dict[int, Select] = {
        pb.SELECT_UNSPECIFIED: default,
        pb.SELECT_ALL: "all",
        pb.SELECT_LARGEST: "largest",
    }
    if value not in known:
        raise InvalidRequestError(f"unknown value {value} of Select")
    return known[value]


def to_criterion(message: pb.VerifyRequest | pb.VerifySubjectRequest) -> Criterion:
    """How a 1:1 decision is asked for."""
    return Criterion(optional(message, "target_fmr"), optional(message, "threshold"))


def to_search_criterion(message: pb.IdentifyRequest) -> SearchCriterion:
    """How a 1:N decision is asked for."""
    return SearchCriterion(optional(message, "target_fpir"), optional(message, "threshold"))


def to_settings(message: pb.PutCollectionRequest) -> CollectionSettings:
    """What the caller decides about a collection."""
    return CollectionSettings(
        message.purpose,
        optional(message, "retention_days"),
        message.store_crops,
        optional(message, "target_fmr"),
        message.require_consent,
    )


def optional(message: Any, name: str) -> Any:
    """The value of an optional field, or None."""
    return getattr(message, name) if message.HasField(name) else None


def model(info: ModelInfo) -> pb.Model:
    """Model."""
    return pb.Model(id=info.id, contract_id=info.contract_id, dimension=info.dimension)


def face(value: Face) -> pb.Face:
    """Face."""
    x1, y1, x2, y2 = value.bbox
    return pb.Face(
        bbox=pb.BoundingBox(x1=x1, y1=y1, x2=x2, y2=y2),
        kps=[pb.Point(x=x, y=y) for x, y in value.kps],
        det_score=value.det_score,
        quality=value.quality,
    )


def embedded_face(value: EmbeddedFace) -> pb.Face:
    """Face with its embedding."""
    message = face(value.face)
    message.embedding.extend(value.embedding.tolist())
    return message


def photo(value: Photo, info: ModelInfo) -> pb.DetectResponse:
    """Answer of Detect."""
    size = pb.ImageSize(width=value.width, height=value.height)
    return pb.DetectResponse(image=size, faces=[face(each) for each in value.faces], model=model(info))


def embedded_photo(value: EmbeddedPhoto, info: ModelInfo) -> pb.EmbedResponse:
    """Answer of Embed."""
    size = pb.ImageSize(width=value.width, height=value.height)
    return pb.EmbedResponse(image=size, faces=[embedded_face(each) for each in value.faces], model=model(info))


def verification(value: Verification, face_id: str = "") -> pb.VerifyResponse:
    """Answer of Verify and VerifySubject."""
    return pb.VerifyResponse(
        matched=value.matched,
        similarity=value.similarity,
        angle_degrees=value.angle_degrees,
        threshold=value.threshold,
        target_fmr=value.target_fmr,
        probability=value.probability,
        a=face(value.a) if value.a else None,
        b=face(value.b) if value.b else None,
        model=model(value.model),
        face_id=face_id,
    )


def collection(value: Collection) -> pb.Collection:
    """Collection."""
    return pb.Collection(
        name=value.name,
        purpose=value.settings.purpose,
        retention_days=value.settings.retention_days,
        store_crops=value.settings.store_crops,
        target_fmr=value.settings.target_fmr,
        subjects=value.subjects,
        faces=value.faces,
        model=model(value.model),
        created_at=value.created_at,
        require_consent=value.settings.require_consent,
    )


def stored_face(value: StoredFace) -> pb.EnrolledFace:
    """Enrolled face, without its vector."""
    return pb.EnrolledFace(
        face_id=value.face_id,
        quality=value.quality,
        consent=value.consent or "",
        has_crop=value.has_crop,
        created_at=value.created_at,
    )


def enrolment(value: Enrolment) -> pb.EnrollResponse:
    """Answer of Enroll."""
    rejected = [pb.RejectedImage(index=each.index, code=each.code, message=each.message) for each in value.rejected]
    return pb.EnrollResponse(faces=[stored_face(each) for each in value.faces], rejected=rejected)


def subject(value: Subject) -> pb.Subject:
    """Enrolled person."""
    faces = [stored_face(each) for each in value.faces]
    return pb.Subject(name=value.name, created_at=value.created_at, faces=faces)


def page(value: Page) -> pb.ListSubjectsResponse:
    """One page of enrolled people."""
    subjects = [
        pb.SubjectSummary(name=each.name, created_at=each.created_at, faces=each.faces) for each in value.subjects
    ]
    return pb.ListSubjectsResponse(subjects=subjects, next_cursor=value.next_cursor or "")


def receipt(value: Receipt) -> pb.ErasureReceipt:
    """Erasure receipt."""
    return pb.ErasureReceipt(
        collection=value.collection,
        subject=value.subject,
        face_ids=list(value.face_ids),
        erased_at=value.erased_at,
        public_key=value.public_key,
        signature=value.signature,
    )


def identifications(values: Sequence[Identification], info: ModelInfo) -> pb.IdentifyResponse:
    """Answer of Identify. Threshold and gallery size are those of the one search; without a face there is none."""
    first = values[0] if values else None
    return pb.IdentifyResponse(
        results=[_identification(each) for each in values],
        threshold=first.threshold if first else None,
        target_fpir=first.target_fpir if first else None,
        gallery_size=first.gallery_size if first else None,
        model=model(info),
    )


def _identification(value: Identification) -> pb.Identification:
    candidates = [
        pb.Candidate(
            subject=each.subject,
            face_id=each.face_id,
            similarity=each.similarity,
            angle_degrees=each.angle_degrees,
            probability=each.probability,
        )
        for each in value.candidates
    ]
    found = face(value.face) if value.face else None
    return pb.Identification(decision=value.decision, candidates=candidates, face=found)
