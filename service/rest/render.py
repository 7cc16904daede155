"""Domain values to the JSON of docs/api.md. The command line prints the same documents."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from starlette.responses import Response

from models.errors import FaceError
from service.catalogue import Detail, Entry
from service.domain import (
    Candidate,
    Collection,
    EmbeddedFace,
    EmbeddedPhoto,
    Enrolment,
    Face,
    Identification,
    Job,
    ModelInfo,
    Page,
    Photo,
    Receipt,
    StoredFace,
    Subject,
    SubjectExport,
    Vector,
    Verification,
)
from service.security.keys import ApiKey

Document = dict[str, Any]
Encoding = Literal["float", "base64"]


class Json(Response):
    """A JSON answer; NumPy arrays are written as lists without a detour over Python floats."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise."""
        return dump(content)


def dump(content: Any) -> bytes:
    """JSON bytes of a document."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def model(info: ModelInfo) -> Document:
    """Model."""
    return {"id": info.id, "contract_id": info.contract_id, "dimension": info.dimension}


def face(value: Face) -> Document:
    """Face."""
    return {"bbox": value.bbox, "kps": value.kps, "det_score": value.det_score, "quality": value.quality}


def embedding(vector: Vector, encoding: Encoding) -> Any:
    """A list of numbers, or base64 of little-endian float32."""
    return vector if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def embedded_face(value: EmbeddedFace, encoding: Encoding) -> Document:
    """Face with its embedding."""
    return {**face(value.face), "embedding": embedding(value.embedding, encoding)}


def photo(value: Photo, info: ModelInfo) -> Document:
    """Answer of /detect."""
    size = {"width": value.width, "height": value.height}
    return {"image": size, "faces": [face(each) for each in value.faces], "model": model(info)}


def embedded_photo(value: EmbeddedPhoto, encoding: Encoding, info: ModelInfo | None = None) -> Document:
    """Answer of /embed; without the model, one result of /embed/batch."""
    document: Document = {
        "image": {"width": value.width, "height": value.height},
        "faces": [embedded_face(each, encoding) for each in value.faces],
    }
    return {**document, "model": model(info)} if info else document


def batch(results: Sequence[EmbeddedPhoto | FaceError], encoding: Encoding, info: ModelInfo) -> Document:
    """Answer of /embed/batch."""
    documents = [
        {"error": {"code": result.code, "message": result.message, "details": result.details}}
        if isinstance(result, FaceError)
        else embedded_photo(result, encoding)
        for result in results
    ]
    return {"results": documents, "model": model(info)}


def verification(value: Verification) -> Document:
    """Answer of /verify."""
    return {
        "matched": value.matched,
        "similarity": value.similarity,
        "angle_degrees": value.angle_degrees,
        "threshold": value.threshold,
        "target_fmr": value.target_fmr,
        "probability": value.probability,
        "a": face(value.a) if value.a else None,
        "b": face(value.b) if value.b else None,
        "model": model(value.model),
    }


def collection(value: Collection) -> Document:
    """Collection."""
    settings = value.settings
    return {
        "name": value.name,
        "purpose": settings.purpose,
        "retention_days": settings.retention_days,
        "store_crops": settings.store_crops,
        "target_fmr": settings.target_fmr,
        "require_consent": settings.require_consent,
        "subjects": value.subjects,
        "faces": value.faces,
        "model": model(value.model),
        "created_at": value.created_at,
    }


def stored_face(value: StoredFace) -> Document:
    """Enrolled face, without its vector."""
    return {
        "face_id": value.face_id,
        "quality": value.quality,
        "consent": value.consent,
        "has_crop": value.has_crop,
        "created_at": value.created_at,
    }


def enrolment(value: Enrolment) -> Document:
    """Answer of an enrolment."""
    rejected = [{"index": each.index, "code": each.code, "message": each.message} for each in value.rejected]
    return {"faces": [stored_face(each) for each in value.faces], "rejected": rejected}


def subject(value: Subject) -> Document:
    """Enrolled person."""
    faces = [stored_face(each) for each in value.faces]
    return {"subject": value.name, "created_at": value.created_at, "faces": faces}


def page(value: Page) -> Document:
    """One page of enrolled people."""
    subjects = [{"subject": each.name, "created_at": each.created_at, "faces": each.faces} for each in value.subjects]
    return {"subjects": subjects, "next_cursor": value.next_cursor}


def candidate(value: Candidate) -> Document:
    """One candidate of an identification."""
    return {
        "subject": value.subject,
        "face_id": value.face_id,
        "similarity": value.similarity,
        "angle_degrees": value.angle_degrees,
        "probability": value.probability,
    }


def identification(value: Identification) -> Document:
    """Answer of identify for one face."""
    return {
        "decision": value.decision,
        "candidates": [candidate(each) for each in value.candidates],
        "threshold": value.threshold,
        "target_fpir": value.target_fpir,
        "gallery_size": value.gallery_size,
        "face": face(value.face) if value.face else None,
        "model": model(value.model),
    }


def receipt(value: Receipt) -> Document:
    """Erasure receipt."""
    return {
        "collection": value.collection,
        "subject": value.subject,
        "face_ids": value.face_ids,
        "erased_at": value.erased_at,
        "public_key": value.public_key,
        "signature": value.signature,
    }


def manifest(entry: Entry) -> Document:
    """A model of the registry."""
    value = entry.manifest
    return {
        "id": value.id,
        "kind": value.kind,
        "contract_id": value.contract_id,
        "dimension": value.dimension,
        "architecture": value.architecture,
        "licence": value.licence.model_dump(),
        "origin": value.provenance.origin,
        "metrics": dict(value.metrics),
        "fmr_range": value.calibration.fmr_range if value.calibration else None,
        "champion": entry.champion,
        "standing": entry.standing,
        "loaded": entry.loaded,
        "in_shadow": entry.in_shadow,
    }


def model_detail(value: Detail) -> Document:
    """All that is known of a model."""
    known = value.entry.manifest
    return {
        **manifest(value.entry),
        "model_sha256": known.model_sha256,
        "input": known.input.model_dump(),
        "template": known.template,
        "mirror": known.mirror,
        "precision": known.precision,
        "provenance": known.provenance.model_dump(),
        "lineage": known.lineage.model_dump() if known.lineage else None,
        "calibration": known.calibration.model_dump() if known.calibration else None,
        "card": value.card,
        "signers": value.signers,
    }


def job(value: Job, names: Mapping[str, str]) -> Document:
    """A job; `names` are those of collections by uid."""
    collections = [{"collection": names.get(uid), **outcome} for uid, outcome in sorted(value.result.items())]
    return {
        "id": value.id,
        "kind": value.kind,
        "model_id": value.model_id,
        "state": value.state,
        "progress": value.progress,
        "error": value.error,
        "collections": collections,
        "actor": value.actor,
        "created_at": value.created_at,
        "updated_at": value.updated_at,
    }


def key(value: ApiKey) -> Document:
    """An API key, without its secret."""
    grant = value.grant
    return {
        "id": value.id,
        "name": grant.name,
        "scopes": sorted(grant.scopes),
        "collections": None if grant.collections is None else sorted(grant.collections),
        "requests_per_minute": grant.requests_per_minute,
        "requests_per_day": grant.requests_per_day,
        "created_at": value.created_at,
        "expires_at": grant.expires_at.isoformat() if grant.expires_at else None,
        "last_used_at": value.last_used_at,
        "revoked_at": value.revoked_at,
    }


def subject_export(value: SubjectExport) -> Document:
    """Everything that is kept of a person."""
    faces = [
        {
            **stored_face(face),
            "embedding": value.vectors[face.face_id],
            "other_embeddings": {
                contract: vectors[face.face_id]
                for contract, vectors in sorted(value.others.items())
                if face.face_id in vectors
            },
            "crop": base64.b64encode(value.crops[face.face_id]).decode() if face.face_id in value.crops else None,
        }
        for face in value.subject.faces
    ]
    return {
        "collection": value.collection,
        "purpose": value.purpose,
        "subject": value.subject.name,
        "created_at": value.subject.created_at,
        "faces": faces,
        "model": model(value.model),
    }
