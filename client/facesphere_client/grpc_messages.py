"""Calls as messages of gRPC, and its answers as values."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, TypeVar

import numpy as np
from google.protobuf.json_format import MessageToDict

from facesphere_client import calls
from facesphere_client.calls import Call, Embedding, Probe, Select
from facesphere_client.errors import UnsupportedError
from facesphere_client.pb.face_embedding.v1 import face_embedding_pb2 as pb
from facesphere_client.values import (
    Candidate,
    Collection,
    EmbeddedFace,
    EmbeddedPhoto,
    EnrolledFace,
    Enrolment,
    Face,
    Identification,
    Job,
    Model,
    ModelDetail,
    Photo,
    Receipt,
    RejectedImage,
    Subject,
    SubjectPage,
    SubjectSummary,
    Verification,
)

T = TypeVar("T")
_SELECT = {"all": pb.SELECT_ALL, "largest": pb.SELECT_LARGEST}


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method and what it is sent."""

    method: str
    message: Any


def rpc(call: Call[Any]) -> Rpc:
    """The method that answers a call, and its message.

    Raises:
        UnsupportedError: gRPC has none.
    """
    method, message = _message(call)
    return Rpc(method, message)


def answer(call: Call[T], message: Any) -> T:
    """The value that a call asks for, out of the message that answers it."""
    value: T = _answer(call, message)
    return value


@singledispatch
def _message(call: Any) -> tuple[str, Any]:
    raise UnsupportedError(f"gRPC has no {type(call).__name__}; use http:// or https:// for it")


@singledispatch
def _answer(call: Any, message: Any) -> Any:
    raise NotImplementedError(type(call).__name__)


def _probe(probe: Probe) -> pb.Probe:
    if isinstance(probe, Embedding):
        return pb.Probe(embedding=pb.Embedding(values=probe.values, contract_id=probe.contract_id or ""))
    return pb.Probe(image=probe)


def _select(faces: Select) -> pb.Select:
    return _SELECT[faces]


@_message.register
def _(call: calls.Detect) -> tuple[str, Any]:
    return "FaceEmbedding/Detect", pb.DetectRequest(image=call.image)


@_message.register
def _(call: calls.Embed) -> tuple[str, Any]:
    message = pb.EmbedRequest(image=call.image, faces=_select(call.faces), aligned=call.aligned)
    return "FaceEmbedding/Embed", message


@_message.register
def _(call: calls.Verify) -> tuple[str, Any]:
    message = pb.VerifyRequest(a=_probe(call.a), b=_probe(call.b), target_fmr=call.target_fmr, threshold=call.threshold)
    return "FaceEmbedding/Verify", message


@_message.register
def _(call: calls.ListCollections) -> tuple[str, Any]:
    return "Gallery/ListCollections", pb.ListCollectionsRequest()


@_message.register
def _(call: calls.PutCollection) -> tuple[str, Any]:
    message = pb.PutCollectionRequest(
        name=call.name,
        purpose=call.purpose,
        retention_days=call.retention_days,
        store_crops=call.store_crops,
        target_fmr=call.target_fmr,
        require_consent=call.require_consent,
    )
    return "Gallery/PutCollection", message


@_message.register
def _(call: calls.GetCollection) -> tuple[str, Any]:
    return "Gallery/GetCollection", pb.GetCollectionRequest(name=call.name)


@_message.register
def _(call: calls.DeleteCollection) -> tuple[str, Any]:
    return "Gallery/DeleteCollection", pb.DeleteCollectionRequest(name=call.name)


@_message.register
def _(call: calls.Enrol) -> tuple[str, Any]:
    message = pb.EnrollRequest(
        collection=call.collection,
        subject=call.subject,
        probes=[_probe(each) for each in call.probes],
        consent=call.consent or "",
        idempotency_key=call.idempotency_key or "",
    )
    return "Gallery/Enroll", message


@_message.register
def _(call: calls.GetSubject) -> tuple[str, Any]:
    return "Gallery/GetSubject", pb.GetSubjectRequest(collection=call.collection, subject=call.subject)


@_message.register
def _(call: calls.ListSubjects) -> tuple[str, Any]:
    message = pb.ListSubjectsRequest(collection=call.collection, cursor=call.cursor or "", limit=call.limit)
    return "Gallery/ListSubjects", message


@_message.register
def _(call: calls.DeleteSubject) -> tuple[str, Any]:
    return "Gallery/DeleteSubject", pb.DeleteSubjectRequest(collection=call.collection, subject=call.subject)


@_message.register
def _(call: calls.DeleteFace) -> tuple[str, Any]:
    message = pb.DeleteFaceRequest(collection=call.collection, subject=call.subject, face_id=call.face_id)
    return "Gallery/DeleteFace", message


@_message.register
def _(call: calls.Identify) -> tuple[str, Any]:
    message = pb.IdentifyRequest(
        collection=call.collection,
        probe=_probe(call.probe),
        limit=call.limit,
        target_fpir=call.target_fpir,
        threshold=call.threshold,
        faces=_select(call.faces),
    )
    return "Gallery/Identify", message


@_message.register
def _(call: calls.VerifySubject) -> tuple[str, Any]:
    message = pb.VerifySubjectRequest(
        collection=call.collection,
        subject=call.subject,
        probe=_probe(call.probe),
        target_fmr=call.target_fmr,
        threshold=call.threshold,
    )
    return "Gallery/VerifySubject", message


@_message.register
def _(call: calls.ListModels) -> tuple[str, Any]:
    return "Models/ListModels", pb.ListModelsRequest()


@_message.register
def _(call: calls.ActivateModel) -> tuple[str, Any]:
    return "Models/ActivateModel", pb.ActivateModelRequest(model_id=call.model_id)


@_message.register
def _(call: calls.RollBackModel) -> tuple[str, Any]:
    return "Models/RollBackModel", pb.RollBackModelRequest()


@_message.register
def _(call: calls.GetJob) -> tuple[str, Any]:
    return "Models/GetJob", pb.GetJobRequest(job_id=call.job_id)


@_message.register
def _(call: calls.ListJobs) -> tuple[str, Any]:
    return "Models/ListJobs", pb.ListJobsRequest(limit=call.limit)


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _model(message: pb.Model) -> Model:
    return Model(message.id, message.contract_id, message.dimension)


def _geometry(message: pb.Face) -> dict[str, Any]:
    box = message.bbox
    return {
        "bbox": (box.x1, box.y1, box.x2, box.y2),
        "kps": tuple((point.x, point.y) for point in message.kps),
        "det_score": message.det_score,
        "quality": message.quality,
    }


def _face(message: pb.Face) -> Face:
    return Face(**_geometry(message))


def _optional_face(message: Any, name: str) -> Face | None:
    return _face(getattr(message, name)) if message.HasField(name) else None


def _embedded_face(message: pb.Face, model: Model) -> EmbeddedFace:
    vector = np.fromiter(message.embedding, np.float32, len(message.embedding))
    return EmbeddedFace(**_geometry(message), embedding=vector, contract_id=model.contract_id)


def _collection(message: pb.Collection) -> Collection:
    return Collection(
        message.name,
        message.purpose,
        _optional(message, "retention_days"),
        message.store_crops,
        _optional(message, "target_fmr"),
        message.require_consent,
        message.subjects,
        message.faces,
        _model(message.model),
        message.created_at,
    )


def _enrolled(messages: Iterable[pb.EnrolledFace]) -> tuple[EnrolledFace, ...]:
    return tuple(
        EnrolledFace(each.face_id, _optional(each, "quality"), each.consent or None, each.has_crop, each.created_at)
        for each in messages
    )


def _model_detail(message: pb.ModelDetail) -> ModelDetail:
    licence, rates = message.licence, message.fmr_range
    return ModelDetail(
        message.id,
        "detector" if message.kind == "detector" else "embedder",
        message.contract_id,
        _optional(message, "dimension"),
        message.architecture,
        {"spdx": licence.spdx, "commercial_use": licence.commercial_use, "note": licence.note},
        message.origin,
        dict(message.metrics),
        (rates[0], rates[1]) if rates else None,
        message.champion,
        message.loaded,
        message.standing,
        message.in_shadow,
    )


def _job(message: pb.Job) -> Job:
    kind: Any = message.kind
    state: Any = message.state
    return Job(
        message.id,
        kind,
        message.model_id,
        state,
        message.progress,
        _optional(message, "error"),
        tuple(MessageToDict(each) for each in message.collections),
        message.actor,
        message.created_at,
        message.updated_at,
    )


@_answer.register
def _(call: calls.Detect, message: pb.DetectResponse) -> Photo:
    faces = tuple(_face(each) for each in message.faces)
    return Photo(message.image.width, message.image.height, faces, _model(message.model))


@_answer.register
def _(call: calls.Embed, message: pb.EmbedResponse) -> EmbeddedPhoto:
    model = _model(message.model)
    faces = tuple(_embedded_face(each, model) for each in message.faces)
    return EmbeddedPhoto(message.image.width, message.image.height, faces, model)


@_answer.register(calls.Verify)
@_answer.register(calls.VerifySubject)
def _(call: Any, message: pb.VerifyResponse) -> Verification:
    return Verification(
        message.matched,
        message.similarity,
        message.angle_degrees,
        message.threshold,
        _optional(message, "target_fmr"),
        _optional(message, "probability"),
        _optional_face(message, "a"),
        _optional_face(message, "b"),
        _model(message.model),
        message.face_id or None,
    )


@_answer.register
def _(call: calls.ListCollections, message: pb.ListCollectionsResponse) -> tuple[Collection, ...]:
    return tuple(_collection(each) for each in message.collections)


@_answer.register(calls.PutCollection)
@_answer.register(calls.GetCollection)
def _(call: Any, message: pb.Collection) -> Collection:
    return _collection(message)


@_answer.register(calls.DeleteCollection)
@_answer.register(calls.DeleteSubject)
@_answer.register(calls.DeleteFace)
def _(call: Any, message: pb.ErasureReceipt) -> Receipt:
    subject, faces = _optional(message, "subject"), tuple(message.face_ids)
    return Receipt(message.collection, subject, faces, message.erased_at, message.public_key, message.signature)


@_answer.register
def _(call: calls.Enrol, message: pb.EnrollResponse) -> Enrolment:
    rejected = tuple(RejectedImage(each.index, each.code, each.message) for each in message.rejected)
    return Enrolment(_enrolled(message.faces), rejected)


@_answer.register
def _(call: calls.GetSubject, message: pb.Subject) -> Subject:
    return Subject(message.name, message.created_at, _enrolled(message.faces))


@_answer.register
def _(call: calls.ListSubjects, message: pb.ListSubjectsResponse) -> SubjectPage:
    people = tuple(SubjectSummary(each.name, each.created_at, each.faces) for each in message.subjects)
    return SubjectPage(people, message.next_cursor or None)


@_answer.register
def _(call: calls.Identify, message: pb.IdentifyResponse) -> tuple[Identification, ...]:
    return tuple(
        Identification(
            decision="known" if each.decision == "known" else "unknown",
            candidates=tuple(
                Candidate(one.subject, one.face_id, one.similarity, one.angle_degrees, _optional(one, "probability"))
                for one in each.candidates
            ),
            threshold=message.threshold,
            target_fpir=_optional(message, "target_fpir"),
            gallery_size=message.gallery_size,
            face=_optional_face(each, "face"),
            model=_model(message.model),
        )
        for each in message.results
    )


@_answer.register
def _(call: calls.ListModels, message: pb.ListModelsResponse) -> tuple[ModelDetail, ...]:
    return tuple(_model_detail(each) for each in message.models)


@_answer.register(calls.ActivateModel)
@_answer.register(calls.RollBackModel)
@_answer.register(calls.GetJob)
def _(call: Any, message: pb.Job) -> Job:
    return _job(message)


@_answer.register
def _(call: calls.ListJobs, message: pb.ListJobsResponse) -> tuple[Job, ...]:
    return tuple(_job(each) for each in message.jobs)
