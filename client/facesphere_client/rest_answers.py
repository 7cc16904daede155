"""Answers of REST as values."""

import base64
from collections.abc import Mapping
from dataclasses import fields
from functools import singledispatch
from typing import Any, TypeVar

import numpy as np

from facesphere_client import calls
from facesphere_client.calls import Call
from facesphere_client.errors import ProtocolError
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
Document = Mapping[str, Any]


def answer(call: Call[T], document: Any) -> T:
    """The value that a call asks for, out of the JSON of its answer.

    Raises:
        ProtocolError: it has another form.
    """
    try:
        value: T = _answer(call, document)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"the answer to {type(call).__name__} has another form than expected: {error!r}") from error
    return value


@singledispatch
def _answer(call: Any, document: Document) -> Any:
    raise NotImplementedError(type(call).__name__)


def _take(kind: type[T], document: Document, **made: Any) -> T:
    """A value of what the document says; what a later server adds to it is left out."""
    known = {each.name: document[each.name] for each in fields(kind) if each.name in document}  # type: ignore[arg-type]
    return kind(**known | made)


def _model(document: Document) -> Model:
    return _take(Model, document)


def _face(document: Document) -> Face:
    return Face(**_geometry(document))


def _geometry(document: Document) -> dict[str, Any]:
    x1, y1, x2, y2 = document["bbox"]
    return {
        "bbox": (x1, y1, x2, y2),
        "kps": tuple((x, y) for x, y in document["kps"]),
        "det_score": document["det_score"],
        "quality": document["quality"],
    }


def _optional_face(document: Document | None) -> Face | None:
    return None if document is None else _face(document)


def _embedded_face(document: Document, model: Model) -> EmbeddedFace:
    vector = np.frombuffer(base64.b64decode(document["embedding"], validate=True), "<f4").astype(np.float32)
    if vector.shape != (model.dimension,):
        raise ValueError(f"{vector.shape[0]} values in place of {model.dimension}")
    return EmbeddedFace(**_geometry(document), embedding=vector, contract_id=model.contract_id)


def _collection(document: Document) -> Collection:
    return _take(Collection, document, model=_model(document["model"]))


def _enrolled(document: Document) -> EnrolledFace:
    return _take(EnrolledFace, document)


def _verification(document: Document) -> Verification:
    a, b = _optional_face(document["a"]), _optional_face(document["b"])
    return _take(Verification, document, a=a, b=b, model=_model(document["model"]))


def _identification(document: Document) -> Identification:
    return _take(
        Identification,
        document,
        candidates=tuple(_take(Candidate, each) for each in document["candidates"]),
        face=_optional_face(document["face"]),
        model=_model(document["model"]),
    )


def _receipt(document: Document) -> Receipt:
    return _take(Receipt, document, face_ids=tuple(document["face_ids"]))


def _job(document: Document) -> Job:
    return _take(Job, document, collections=tuple(document["collections"]))


@_answer.register
def _(call: calls.Ready, document: Document) -> bool:
    return str(document["status"]) == "ready"


@_answer.register
def _(call: calls.Detect, document: Document) -> Photo:
    faces = tuple(_face(each) for each in document["faces"])
    return Photo(document["image"]["width"], document["image"]["height"], faces, _model(document["model"]))


@_answer.register
def _(call: calls.Embed, document: Document) -> EmbeddedPhoto:
    model = _model(document["model"])
    faces = tuple(_embedded_face(each, model) for each in document["faces"])
    return EmbeddedPhoto(document["image"]["width"], document["image"]["height"], faces, model)


@_answer.register(calls.Verify)
@_answer.register(calls.VerifySubject)
def _(call: Any, document: Document) -> Verification:
    return _verification(document)


@_answer.register
def _(call: calls.ListCollections, document: Document) -> tuple[Collection, ...]:
    return tuple(_collection(each) for each in document["collections"])


@_answer.register(calls.PutCollection)
@_answer.register(calls.GetCollection)
def _(call: Any, document: Document) -> Collection:
    return _collection(document)


@_answer.register(calls.DeleteCollection)
@_answer.register(calls.DeleteSubject)
@_answer.register(calls.DeleteFace)
def _(call: Any, document: Document) -> Receipt:
    return _receipt(document)


@_answer.register
def _(call: calls.Enrol, document: Document) -> Enrolment:
    faces = tuple(_enrolled(each) for each in document["faces"])
    return Enrolment(faces, tuple(_take(RejectedImage, each) for each in document["rejected"]))


@_answer.register
def _(call: calls.GetSubject, document: Document) -> Subject:
    faces = tuple(_enrolled(each) for each in document["faces"])
    return Subject(document["subject"], document["created_at"], faces)


@_answer.register
def _(call: calls.ListSubjects, document: Document) -> SubjectPage:
    people = (SubjectSummary(each["subject"], each["created_at"], each["faces"]) for each in document["subjects"])
    return SubjectPage(tuple(people), document["next_cursor"])


@_answer.register
def _(call: calls.Identify, document: Document) -> tuple[Identification, ...]:
    each = document["results"] if call.faces == "all" else [document]
    return tuple(_identification(one) for one in each)


@_answer.register
def _(call: calls.ListModels, document: Document) -> tuple[ModelDetail, ...]:
    found = []
    for each in document["models"]:
        rates = each["fmr_range"]
        found.append(_take(ModelDetail, each, fmr_range=None if rates is None else (rates[0], rates[1])))
    return tuple(found)


@_answer.register(calls.ActivateModel)
@_answer.register(calls.RollBackModel)
@_answer.register(calls.GetJob)
def _(call: Any, document: Document) -> Job:
    return _job(document)


@_answer.register
def _(call: calls.ListJobs, document: Document) -> tuple[Job, ...]:
    return tuple(_job(each) for each in document["jobs"])
