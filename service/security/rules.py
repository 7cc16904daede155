"""What each route and RPC asks of a caller: the one table of who may do what.

`scopes`: one of them is enough, and `admin` always is. `collection`: whether the operation is about one collection,
which a key may be kept to; "" where it is about none.
"""

from dataclasses import dataclass

SCOPES = ("embed", "verify", "identify", "enroll", "metrics", "admin")


@dataclass(frozen=True, slots=True)
class Rule:
    """One operation. `collection` is where its name stands: a path parameter, or a field of the gRPC message."""

    scopes: frozenset[str]
    collection: str = ""
    whole: bool = False


def _rule(*scopes: str, collection: str = "", whole: bool = False) -> Rule:
    return Rule(frozenset((*scopes, "admin")), collection, whole)


_ANY = SCOPES
_IN = "collection"

RULES: dict[str, Rule] = {
    "POST /detect": _rule("embed"),
    "POST /embed": _rule("embed"),
    "POST /embed/batch": _rule("embed"),
    "POST /verify": _rule("verify"),
    "GET /collections": _rule("identify", "enroll", "verify"),
    "PUT /collections/{collection}": _rule(collection=_IN),
    "GET /collections/{collection}": _rule("identify", "enroll", "verify", collection=_IN),
    "DELETE /collections/{collection}": _rule(collection=_IN),
    "GET /collections/{collection}/subjects": _rule("enroll", collection=_IN),
    "GET /collections/{collection}/subjects/{subject}": _rule("enroll", collection=_IN),
    "GET /collections/{collection}/subjects/{subject}/export": _rule(collection=_IN),
    "DELETE /collections/{collection}/subjects/{subject}": _rule("enroll", collection=_IN),
    "POST /collections/{collection}/subjects/{subject}/faces": _rule("enroll", collection=_IN),
    "DELETE /collections/{collection}/subjects/{subject}/faces/{face_id}": _rule("enroll", collection=_IN),
    "POST /collections/{collection}/identify": _rule("identify", collection=_IN),
    "POST /collections/{collection}/subjects/{subject}/verify": _rule("verify", collection=_IN),
    "GET /models": _rule(*_ANY),
    "GET /models/{model_id}": _rule(*_ANY),
    "GET /metrics": _rule(*_ANY),
    "POST /models/{model_id}/activate": _rule(whole=True),
    "POST /models/rollback": _rule(whole=True),
    "POST /models/{model_id}/shadow": _rule(whole=True),
    "GET /models/shadow": _rule(whole=True),
    "DELETE /models/shadow": _rule(whole=True),
    "GET /jobs": _rule(whole=True),
    "GET /jobs/{job_id}": _rule(whole=True),
    "GET /keys": _rule(whole=True),
    "POST /keys": _rule(whole=True),
    "DELETE /keys/{key_id}": _rule(whole=True),
    "GET /audit": _rule(whole=True),
    "FaceEmbedding/Detect": _rule("embed"),
    "FaceEmbedding/Embed": _rule("embed"),
    "FaceEmbedding/EmbedStream": _rule("embed"),
    "FaceEmbedding/Verify": _rule("verify"),
    "Gallery/PutCollection": _rule(collection="name"),
    "Gallery/GetCollection": _rule("identify", "enroll", "verify", collection="name"),
    "Gallery/ListCollections": _rule("identify", "enroll", "verify"),
    "Gallery/DeleteCollection": _rule(collection="name"),
    "Gallery/Enroll": _rule("enroll", collection=_IN),
    "Gallery/EnrollStream": _rule("enroll", collection="request.collection"),
    "Gallery/GetSubject": _rule("enroll", collection=_IN),
    "Gallery/ListSubjects": _rule("enroll", collection=_IN),
    "Gallery/DeleteSubject": _rule("enroll", collection=_IN),
    "Gallery/DeleteFace": _rule("enroll", collection=_IN),
    "Gallery/Identify": _rule("identify", collection=_IN),
    "Gallery/IdentifyStream": _rule("identify", collection="request.collection"),
    "Gallery/VerifySubject": _rule("verify", collection=_IN),
    "Models/ListModels": _rule(*_ANY),
    "Models/ActivateModel": _rule(whole=True),
    "Models/RollBackModel": _rule(whole=True),
    "Models/GetJob": _rule(whole=True),
    "Models/ListJobs": _rule(whole=True),
}
# What is not in the table is for the administrator alone, until somebody thinks about it.
UNKNOWN = _rule(whole=True)
