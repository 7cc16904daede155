"""Every route and every RPC against the one table of who may do what, over a real server with real keys."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from live_server import LiveServer, live_server

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.security.rules import RULES, SCOPES

ADMIN = "0123456789abcdef0123456789abcdef"
PUBLIC = {"GET /health/live", "GET /health/ready"}
HIDDEN = {"GET /metrics"}  # not in the OpenAPI document
RPCS = [name for name in RULES if " " not in name]
ROUTES = [name for name in RULES if " " in name]


@dataclass(frozen=True)
class Keyed:
    """A server, and the text of a key for each purpose."""

    server: LiveServer
    keys: dict[str, str]
    ids: dict[str, str]


@pytest.fixture(scope="module")
def keyed(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("access")
    with live_server(folder / "data", models_dir=str(models_dir), api_key=ADMIN) as server:
        keys, ids = {}, {}

        def create(purpose: str, **body: Any) -> None:
            answer = server.client.post("/keys", json={"name": purpose, **body}, headers=_bearer(ADMIN))
            assert answer.status_code == 201, answer.text
            keys[purpose], ids[purpose] = answer.json()["key"], answer.json()["id"]

        for scope in SCOPES:
            create(scope, scopes=[scope])
        create("elsewhere", scopes=list(SCOPES), collections=["elsewhere"])
        create("expired", scopes=list(SCOPES), expires_at=(datetime.now(UTC) - timedelta(days=1)).isoformat())
        create("revoked", scopes=list(SCOPES))
        assert server.client.delete(f"/keys/{ids['revoked']}", headers=_bearer(ADMIN)).status_code == 200
        yield Keyed(server, keys, ids)


def _bearer(key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _route(keyed: Keyed, operation: str, key: str | None) -> str:
    """The error code of a call, or "" if it came through the door; what happens behind it is of other tests."""
    method, path = operation.split(" ")
    names = {
        "collection": "none",
        "subject": "nobody",
        "face_id": "f" * 32,
        "key_id": "nokey",
        "model_id": "nobody",
        "job_id": "none",
    }
    answer = keyed.server.client.request(method, path.format(**names), headers=_bearer(key))
    code = str(answer.json()["error"]["code"]) if answer.status_code >= 400 else ""
    expected = {"unauthenticated": 401, "permission_denied": 403}
    assert answer.status_code == expected.get(code, answer.status_code)
    assert answer.status_code < 500, answer.text
    return code if code in expected else ""


def _rpc(keyed: Keyed, operation: str, key: str | None) -> str:
    service, _, name = operation.partition("/")
    server = keyed.server
    stub: Any = {"FaceEmbedding": server.faces, "Gallery": server.gallery, "Models": server.models}[service]
    metadata = [("authorization", f"Bearer {key}")] if key else []
    method = pb.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    request = getattr(pb, method.input_type.name)()
    for field, value in (("collection", "none"), ("name", "none")):
        if field in method.input_type.fields_by_name:
            setattr(request, field, value)
    if "request" in method.input_type.fields_by_name and name in ("IdentifyStream", "EnrollStream"):
        request.request.collection = "none"
    try:
        if method.client_streaming:
            (answer,) = list(getattr(stub, name)(iter([request]), metadata=metadata, timeout=30))
            code = answer.error.code
        else:
            getattr(stub, name)(request, metadata=metadata, timeout=30)
            code = ""
    except grpc.RpcError as error:
        code = dict(error.trailing_metadata() or ()).get("error-code", "missing")  # type: ignore[attr-defined]
        assert code != "missing"
    return code if code in ("unauthenticated", "permission_denied") else ""


def _call(keyed: Keyed, operation: str, key: str | None) -> str:
    return (_route if " " in operation else _rpc)(keyed, operation, key)


def test_every_route_is_in_the_table(keyed: Keyed) -> None:
    document = keyed.server.client.get("/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}

    assert routes | HIDDEN == set(ROUTES) | PUBLIC


def test_every_rpc_is_in_the_table() -> None:
    rpcs = {
        f"{service.name}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert rpcs == set(RPCS)


@pytest.mark.parametrize("operation", RULES)
def test_nobody_comes_through_without_a_key_that_is_valid_now(keyed: Keyed, operation: str) -> None:
    for key in (None, "wrong" * 8, keyed.keys["revoked"], keyed.keys["expired"], keyed.keys["embed"][:-2] + "!!"):
        assert _call(keyed, operation, key) == "unauthenticated", key


@pytest.mark.parametrize("operation", RULES)
def test_a_key_comes_through_exactly_where_its_scope_lets_it(keyed: Keyed, operation: str) -> None:
    for scope in SCOPES:
        expected = "" if scope in RULES[operation].scopes else "permission_denied"
        assert _call(keyed, operation, keyed.keys[scope]) == expected, scope


@pytest.mark.parametrize("operation", RULES)
def test_a_key_for_other_collections_touches_none_but_its_own(keyed: Keyed, operation: str) -> None:
    rule = RULES[operation]
    expected = "permission_denied" if rule.collection or rule.whole else ""

    assert _call(keyed, operation, keyed.keys["elsewhere"]) == expected


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/openapi.json", "/docs", "/console"])
def test_probes_and_documents_need_no_key(keyed: Keyed, path: str) -> None:
    assert keyed.server.client.get(path).status_code == 200


def test_a_listing_shows_a_key_its_own_collections_only(keyed: Keyed) -> None:
    client = keyed.server.client
    for name in ("elsewhere", "other"):
        answer = client.put(f"/collections/{name}", json={"purpose": "test"}, headers=_bearer(ADMIN))
        assert answer.status_code == 201

    def names(key: str) -> list[str]:
        listed = client.get("/collections", headers=_bearer(key)).json()["collections"]
        stub = keyed.server.gallery.ListCollections
        rpc = stub(pb.ListCollectionsRequest(), metadata=[("authorization", f"Bearer {key}")])
        found = [each["name"] for each in listed]
        assert [each.name for each in rpc.collections] == found
        return found

    assert names(keyed.keys["elsewhere"]) == ["elsewhere"]
    assert names(keyed.keys["admin"]) == ["elsewhere", "other"]


def test_a_key_revoked_in_the_middle_of_a_stream_ends_what_the_stream_does(keyed: Keyed) -> None:
    client = keyed.server.client
    made = client.post("/keys", json={"name": "stream", "scopes": ["embed"]}, headers=_bearer(ADMIN)).json()

    revoked = threading.Event()

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        yield pb.EmbedStreamRequest(id="before")
        revoked.wait(30)
        yield pb.EmbedStreamRequest(id="after")

    metadata = [("authorization", f"Bearer {made['key']}")]
    answers = keyed.server.faces.EmbedStream(requests(), metadata=metadata, timeout=30)
    before = next(answers)
    assert client.delete(f"/keys/{made['id']}", headers=_bearer(ADMIN)).status_code == 200
    revoked.set()
    (after,) = list(answers)

    assert (before.id, after.id) == ("before", "after")
    assert before.error.code == "invalid_image"  # none at all, but it was let in
    assert after.error.code == "unauthenticated"


def test_a_limited_key_is_told_when_to_come_back(keyed: Keyed) -> None:
    body = {"name": "limited", "scopes": ["embed"], "requests_per_minute": 2}
    key = keyed.server.client.post("/keys", json=body, headers=_bearer(ADMIN)).json()["key"]

    answers: list[httpx.Response] = [keyed.server.client.get("/models", headers=_bearer(key)) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "rate_limited"
    assert int(answers[2].headers["retry-after"]) >= 1
    with pytest.raises(grpc.RpcError) as limited:
        keyed.server.faces.Detect(pb.DetectRequest(), metadata=[("authorization", f"Bearer {key}")])
    assert limited.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_keys_are_listed_without_their_secrets_and_the_log_tells_who_did_what(keyed: Keyed) -> None:
    client = keyed.server.client
    listed = client.get("/keys", headers=_bearer(keyed.keys["admin"])).json()["keys"]
    log = client.get("/audit", params={"limit": 1000}, headers=_bearer(keyed.keys["admin"])).json()

    assert {each["id"] for each in listed} >= set(keyed.ids.values())
    assert not any(key[12:] in str(listed) + str(log) for key in keyed.keys.values())
    assert ("settings", "key.revoke") in [(entry["actor"], entry["event"]) for entry in log["entries"]]
    assert log["next_before"] is None
    pages, before = [], None
    while True:
        params = {"limit": 4} | ({"before": before} if before else {})
        page = client.get("/audit", params=params, headers=_bearer(ADMIN)).json()
        pages += page["entries"]
        before = page["next_before"]
        if before is None:
            break
    assert pages == log["entries"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "n", "scopes": []}, "scopes"),
        ({"name": "n", "scopes": ["fly"]}, "scopes"),
        ({"name": "", "scopes": ["embed"]}, "name"),
        ({"name": "n", "scopes": ["embed"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "n", "scopes": ["embed"], "expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"name": "n", "scopes": ["embed"], "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "n", "scopes": ["embed"], "colections": ["lab"]}, "colections"),
    ],
)
def test_a_key_that_makes_no_sense_is_a_400(keyed: Keyed, body: dict[str, Any], field: str) -> None:
    answer = keyed.server.client.post("/keys", json=body, headers=_bearer(ADMIN))

    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
