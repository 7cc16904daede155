"""Calls as requests of REST."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any
from urllib.parse import quote

from facesphere_client import calls
from facesphere_client.calls import Embedding, Probe
from facesphere_client.errors import InvalidRequestError, UnsupportedError

Part = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """Method, path (quoted already), query and body: parts of a form, or JSON."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    parts: Sequence[Part] = ()
    json: dict[str, Any] | None = None


@singledispatch
def request(call: Any) -> Request:
    """The request that asks for a call."""
    raise UnsupportedError(f"REST has no {type(call).__name__}")


def _segment(name: str) -> str:
    # Ids and names become part of a path. An empty one, or dots, would be the path of something else: of the whole
    # collection where one person was meant.
    if name in ("", ".", "..") or "/" in name:
        raise InvalidRequestError(f"{name!r} is no name: it has to have something in it besides dots, and no '/'")
    return quote(name, safe="")


def _collection(name: str) -> str:
    return f"/collections/{_segment(name)}"


def _subject(collection: str, subject: str) -> str:
    return f"{_collection(collection)}/subjects/{_segment(subject)}"


def _given(**options: object) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _query(**options: object) -> dict[str, str]:
    return {name: repr(value) if isinstance(value, float) else str(value) for name, value in _given(**options).items()}


def _vector(probe: Embedding) -> dict[str, Any]:
    return {"embedding": probe.values.tolist()} | _given(contract_id=probe.contract_id)


def _json_probe(probe: Probe) -> dict[str, Any]:
    return {"image": base64.b64encode(probe).decode()} if isinstance(probe, bytes) else _vector(probe)


def _with_probe(path: str, probe: Probe, **options: object) -> Request:
    """A photo as it is, with options in the query; an embedding in JSON, with options beside it."""
    if isinstance(probe, bytes):
        return Request("POST", path, _query(**options), [("image", probe)])
    return Request("POST", path, json=_vector(probe) | _given(**options))


@request.register
def _(call: calls.Ready) -> Request:
    return Request("GET", "/health/ready")


@request.register
def _(call: calls.Detect) -> Request:
    return Request("POST", "/detect", parts=[("image", call.image)])


@request.register
def _(call: calls.Embed) -> Request:
    query = {"faces": call.faces, "encoding": "base64"} | ({"aligned": "true"} if call.aligned else {})
    return Request("POST", "/embed", query, [("image", call.image)])


@request.register
def _(call: calls.Verify) -> Request:
    if isinstance(call.a, bytes) and isinstance(call.b, bytes):
        query = _query(target_fmr=call.target_fmr, threshold=call.threshold)
        return Request("POST", "/verify", query, [("image_a", call.a), ("image_b", call.b)])
    body = {"a": _json_probe(call.a), "b": _json_probe(call.b)}
    return Request("POST", "/verify", json=body | _given(target_fmr=call.target_fmr, threshold=call.threshold))


@request.register
def _(call: calls.ListCollections) -> Request:
    return Request("GET", "/collections")


@request.register
def _(call: calls.PutCollection) -> Request:
    settings = _given(
        purpose=call.purpose,
        retention_days=call.retention_days,
        store_crops=call.store_crops,
        target_fmr=call.target_fmr,
        require_consent=call.require_consent,
    )
    return Request("PUT", _collection(call.name), json=settings)


@request.register
def _(call: calls.GetCollection) -> Request:
    return Request("GET", _collection(call.name))


@request.register
def _(call: calls.DeleteCollection) -> Request:
    return Request("DELETE", _collection(call.name))


@request.register
def _(call: calls.Enrol) -> Request:
    path = f"{_subject(call.collection, call.subject)}/faces"
    options = {"consent": call.consent, "idempotency_key": call.idempotency_key}
    images = [probe for probe in call.probes if isinstance(probe, bytes)]
    vectors = [probe for probe in call.probes if not isinstance(probe, bytes)]
    if not vectors:
        return Request("POST", path, _query(**options), [("images", each) for each in images])
    if images or len(vectors) > 1:
        raise UnsupportedError("REST takes images, or one embedding, in one enrolment; use grpc:// or several of them")
    return Request("POST", path, json=_vector(vectors[0]) | _given(**options))


@request.register
def _(call: calls.GetSubject) -> Request:
    return Request("GET", _subject(call.collection, call.subject))


@request.register
def _(call: calls.ListSubjects) -> Request:
    query = _query(cursor=call.cursor, limit=call.limit)
    return Request("GET", f"{_collection(call.collection)}/subjects", query)


@request.register
def _(call: calls.DeleteSubject) -> Request:
    return Request("DELETE", _subject(call.collection, call.subject))


@request.register
def _(call: calls.DeleteFace) -> Request:
    return Request("DELETE", f"{_subject(call.collection, call.subject)}/faces/{_segment(call.face_id)}")


@request.register
def _(call: calls.Identify) -> Request:
    options = {"target_fpir": call.target_fpir, "threshold": call.threshold, "faces": call.faces}
    return _with_probe(f"{_collection(call.collection)}/identify", call.probe, limit=call.limit, **options)


@request.register
def _(call: calls.VerifySubject) -> Request:
    path = f"{_subject(call.collection, call.subject)}/verify"
    return _with_probe(path, call.probe, target_fmr=call.target_fmr, threshold=call.threshold)


@request.register
def _(call: calls.ListModels) -> Request:
    return Request("GET", "/models")


@request.register
def _(call: calls.ActivateModel) -> Request:
    return Request("POST", f"/models/{_segment(call.model_id)}/activate")


@request.register
def _(call: calls.RollBackModel) -> Request:
    return Request("POST", "/models/rollback")


@request.register
def _(call: calls.GetJob) -> Request:
    return Request("GET", f"/jobs/{_segment(call.job_id)}")


@request.register
def _(call: calls.ListJobs) -> Request:
    return Request("GET", "/jobs", _query(limit=call.limit))
