"""People over REST: enrol, identify, erase, against a real server."""

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from enrolment import files_with, new_face
from galleries import open_gallery
from live_server import LiveServer, live_server
from photos import encode
from postgres_server import Cluster

from models.registry import Registry
from service.domain import CollectionSettings, ModelInfo, Receipt
from service.security.receipts import verify


@pytest.fixture(scope="module", params=["embedded", "postgres"])
def server(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A real server with an empty gallery of each engine, shared by the tests of this file."""
    settings = {"models_dir": str(models_dir)}
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        settings["gallery_url"] = cluster.url(cluster.new_database())
    with live_server(tmp_path_factory.mktemp("data"), **settings) as running:
        yield running


PURPOSE = {"purpose": "test of the door"}
EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))


def _unit(seed: int) -> list[float]:
    vector = np.random.default_rng(seed).normal(size=128)
    return list(vector / np.linalg.norm(vector))


def _collection(server: LiveServer, name: str, **settings: object) -> str:
    answer = server.client.put(f"/collections/{name}", json={**PURPOSE, **settings})
    assert answer.status_code == 201, answer.text
    return f"/collections/{name}"


def _enrol(server: LiveServer, path: str, subject: str, seed: int) -> str:
    answer = server.client.post(f"{path}/subjects/{subject}/faces", json={"embedding": _unit(seed)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["faces"][0]["face_id"])


def test_a_collection_is_created_once_and_then_changed(server: LiveServer) -> None:
    created = server.client.put("/collections/door", json={**PURPOSE, "retention_days": 30, "target_fmr": 0.0001})
    changed = server.client.put("/collections/door", json={"purpose": "other"})

    assert (created.status_code, changed.status_code) == (201, 200)
    body = created.json()
    assert (body["retention_days"], body["target_fmr"], body["faces"], body["subjects"]) == (30, 0.0001, 0, 0)
    assert body["model"]["id"] == "sface-2021dec"
    assert changed.json()["purpose"] == "other"
    assert changed.json()["retention_days"] is None
    assert "door" in [each["name"] for each in server.client.get("/collections").json()["collections"]]


def test_an_enrolled_person_is_identified_and_verified(server: LiveServer, face_photo: bytes) -> None:
    path = _collection(server, "people")
    enrolled = server.client.post(
        f"{path}/subjects/Eileen Collins/faces", files={"images": face_photo}, data={"consent": "form 7"}
    )
    for seed in range(20):
        _enrol(server, path, f"stranger-{seed}", seed)

    found = server.client.post(f"{path}/identify", files={"image": face_photo}).json()
    same = server.client.post(f"{path}/subjects/Eileen Collins/verify", files={"image": face_photo}).json()
    other = server.client.post(f"{path}/subjects/stranger-1/verify", files={"image": face_photo}).json()

    (face,) = enrolled.json()["faces"]
    assert enrolled.status_code == 201
    assert face["consent"] == "form 7"
    assert found["decision"] == "known"
    assert [each["subject"] for each in found["candidates"]] == ["Eileen Collins"]
    assert found["candidates"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert found["candidates"][0]["face_id"] == face["face_id"]
    assert (found["gallery_size"], found["target_fpir"]) == (21, 0.01)
    assert same["matched"] is True
    assert same["face_id"] == face["face_id"]
    assert other["matched"] is False


def test_a_stranger_is_unknown(server: LiveServer, face_photo: bytes) -> None:
    path = _collection(server, "strangers")
    for seed in range(5):
        _enrol(server, path, f"p{seed}", seed)

    body = server.client.post(f"{path}/identify", content=face_photo, headers={"content-type": "image/jpeg"}).json()

    assert body["decision"] == "unknown"
    assert body["candidates"] == []
    assert body["face"]["bbox"]


def test_an_empty_collection_knows_nobody(server: LiveServer, face_photo: bytes) -> None:
    path = _collection(server, "empty")

    body = server.client.post(f"{path}/identify", files={"image": face_photo}).json()

    assert (body["decision"], body["gallery_size"]) == ("unknown", 0)


def test_the_threshold_rises_with_the_gallery(server: LiveServer) -> None:
    path = _collection(server, "growing")
    thresholds = []
    for seed in range(4):
        for number in range(seed * 10):
            _enrol(server, path, f"p{seed}-{number}", 100 * seed + number)
        body = server.client.post(f"{path}/identify", json={"embedding": _unit(999)}).json()
        thresholds.append(body["threshold"])

    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1]


def test_candidates_are_people_best_first_and_limited(server: LiveServer) -> None:
    path = _collection(server, "ranked")
    for seed in range(6):
        _enrol(server, path, f"p{seed}", seed)
        _enrol(server, path, f"p{seed}", seed + 50)

    probe = {"embedding": _unit(3), "threshold": -1, "limit": 4}
    candidates = server.client.post(f"{path}/identify", json=probe).json()["candidates"]

    expected = {
        f"p{seed}": max(float(np.dot(_unit(3), _unit(seed))), float(np.dot(_unit(3), _unit(seed + 50))))
        for seed in range(6)
    }
    best = sorted(expected.items(), key=lambda item: -item[1])[:4]
    assert [each["subject"] for each in candidates] == [name for name, _ in best]
    assert [each["similarity"] for each in candidates] == pytest.approx([value for _, value in best], abs=1e-5)


def test_every_face_of_a_photo_is_identified_when_asked_for(server: LiveServer, face_photo: bytes) -> None:
    path = _collection(server, "group")
    server.client.post(f"{path}/subjects/eileen/faces", files={"images": face_photo})

    faces = server.client.post(f"{path}/identify?faces=all", files={"image": face_photo}).json()["results"]
    nobody = server.client.post(f"{path}/identify?faces=all", files={"image": EMPTY}).json()["results"]

    assert [each["decision"] for each in faces] == ["known"]
    assert nobody == []


def test_bad_photos_are_rejected_one_by_one(server: LiveServer, face_photo: bytes) -> None:
    path = _collection(server, "partly")
    parts = [("images", EMPTY), ("images", face_photo), ("images", b"junk")]

    answer = server.client.post(f"{path}/subjects/e/faces", files=parts)

    assert answer.status_code == 201
    assert len(answer.json()["faces"]) == 1
    assert [(each["index"], each["code"]) for each in answer.json()["rejected"]] == [
        (0, "face_not_found"),
        (2, "invalid_image"),
    ]


def test_nothing_is_stored_when_every_photo_is_bad(server: LiveServer) -> None:
    path = _collection(server, "none")

    answer = server.client.post(f"{path}/subjects/e/faces", files=[("images", EMPTY), ("images", b"junk")])

    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "face_not_found"
    assert [each["index"] for each in answer.json()["error"]["details"]["rejected"]] == [0, 1]
    assert server.client.get(f"{path}/subjects/e").status_code == 404


def test_a_subject_shows_its_faces_without_vectors(server: LiveServer) -> None:
    path = _collection(server, "shown")
    face_id = _enrol(server, path, "a@b.example", 1)

    body = server.client.get(f"{path}/subjects/a@b.example").json()

    assert body["subject"] == "a@b.example"
    assert [face["face_id"] for face in body["faces"]] == [face_id]
    assert set(body["faces"][0]) == {"face_id", "quality", "consent", "has_crop", "created_at"}


def test_subjects_are_listed_page_by_page(server: LiveServer) -> None:
    path = _collection(server, "pages")
    names = [f"p{number:02}" for number in range(7)]
    for seed, name in enumerate(names):
        _enrol(server, path, name, seed)

    seen, cursor = [], None
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = server.client.get(f"{path}/subjects", params=params).json()
        seen += [each["subject"] for each in page["subjects"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == names


def test_an_erased_person_is_gone_and_the_receipt_proves_it(server: LiveServer) -> None:
    path = _collection(server, "erasure")
    kept, erased = _enrol(server, path, "kept", 1), _enrol(server, path, "erased", 2)

    receipt = server.client.delete(f"{path}/subjects/erased").json()
    found = server.client.post(f"{path}/identify", json={"embedding": _unit(2), "threshold": -1}).json()

    assert receipt["face_ids"] == [erased]
    assert verify(Receipt(**receipt))
    assert not verify(Receipt(**{**receipt, "subject": "kept"}))
    assert [each["face_id"] for each in found["candidates"]] == [kept]
    assert server.client.get(f"{path}/subjects/erased").status_code == 404
    assert server.client.delete(f"{path}/subjects/erased").status_code == 404


def test_one_face_of_a_person_can_be_erased(server: LiveServer) -> None:
    path = _collection(server, "one-face")
    first, second = _enrol(server, path, "p", 1), _enrol(server, path, "p", 2)

    receipt = server.client.delete(f"{path}/subjects/p/faces/{first}").json()

    assert receipt["face_ids"] == [first]
    faces = server.client.get(f"{path}/subjects/p").json()["faces"]
    assert [face["face_id"] for face in faces] == [second]


def test_a_deleted_collection_takes_its_people_with_it(server: LiveServer) -> None:
    path = _collection(server, "doomed")
    face_id = _enrol(server, path, "p", 1)

    receipt = server.client.delete(path).json()
    again = _collection(server, "doomed")

    assert receipt["face_ids"] == [face_id]
    assert receipt["subject"] is None
    assert server.client.get(again).json()["faces"] == 0


def test_crops_are_kept_only_where_the_collection_says_so(server: LiveServer, face_photo: bytes) -> None:
    without = _collection(server, "no-crops")
    with_crops = _collection(server, "crops", store_crops=True)

    for path, expected in ((without, False), (with_crops, True)):
        faces = server.client.post(f"{path}/subjects/e/faces", files={"images": face_photo}).json()["faces"]
        assert faces[0]["has_crop"] is expected


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/collections/bad%20name", PURPOSE, 400),
        ("PUT", "/collections/x", {}, 400),
        ("PUT", "/collections/x", {"purpose": " "}, 400),
        ("PUT", "/collections/x", {**PURPOSE, "retention_days": 0}, 400),
        ("PUT", "/collections/x", {**PURPOSE, "target_fmr": 1e-30}, 400),
        ("PUT", "/collections/x", {**PURPOSE, "retention": 3}, 400),
        ("GET", "/collections/missing", None, 404),
        ("DELETE", "/collections/missing", None, 404),
        ("GET", "/collections/missing/subjects", None, 404),
        ("POST", "/collections/missing/identify", {"embedding": _unit(0)}, 404),
        ("POST", "/collections/missing/subjects/p/faces", {"embedding": _unit(0)}, 404),
        ("POST", "/collections/known/subjects/p/faces", {"embedding": [1, 2]}, 400),
        ("POST", "/collections/known/subjects/p/faces", {}, 400),
        ("POST", "/collections/known/subjects/%0A/faces", {"embedding": _unit(0)}, 400),
        ("POST", "/collections/known/subjects/nobody/verify", {"embedding": _unit(0)}, 404),
        ("DELETE", "/collections/known/subjects/nobody/faces/f", None, 404),
        ("POST", "/collections/known/identify", {"embedding": _unit(0), "limit": 0}, 400),
        ("POST", "/collections/known/identify", {"embedding": _unit(0), "limit": 100000}, 400),
        ("POST", "/collections/known/identify", {"embedding": _unit(0), "target_fpir": 2}, 400),
        ("POST", "/collections/known/identify", {"embedding": _unit(0), "target_fpir": 0.1, "threshold": 0}, 400),
        ("GET", "/collections/known/subjects?limit=0", None, 400),
        ("GET", "/collections/known/subjects?page=2", None, 400),
    ],
)
def test_bad_requests_get_a_clear_error(server: LiveServer, method: str, path: str, body: object, status: int) -> None:
    server.client.put("/collections/known", json=PURPOSE)

    answer = server.client.request(method, path, json=body) if body is not None else server.client.request(method, path)

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_too_many_photos_at_once_are_refused(server: LiveServer) -> None:
    path = _collection(server, "many")

    answer = server.client.post(f"{path}/subjects/p/faces", files=[("images", b"x")] * 21)

    assert answer.status_code == 400


def test_a_restart_keeps_everyone(models_dir: Path, tmp_path: Path, face_photo: bytes) -> None:
    with live_server(tmp_path, models_dir=str(models_dir)) as first:
        path = _collection(first, "kept", retention_days=100)
        first.client.post(f"{path}/subjects/eileen/faces", files={"images": face_photo})
        _enrol(first, path, "other", 5)
        before = first.client.get(f"{path}/subjects/eileen").json()
        key = first.client.delete(f"{path}/subjects/other").json()["public_key"]
        assert first.stop() == 0

    with live_server(tmp_path, models_dir=str(models_dir)) as second:
        found = second.client.post(f"{path}/identify", files={"image": face_photo}).json()

        assert second.client.get(f"{path}/subjects/eileen").json() == before
        assert [each["subject"] for each in found["candidates"]] == ["eileen"]
        assert found["gallery_size"] == 1
        assert second.client.delete(path).json()["public_key"] == key


def test_a_collection_of_another_model_is_never_searched(models_dir: Path, tmp_path: Path, face_photo: bytes) -> None:
    path, other = "/collections/old", ModelInfo("another", "f00d" * 4, 128)
    with closing(open_gallery(tmp_path)) as gallery:
        gallery.put_collection("old", CollectionSettings("of an earlier model"), other)
        gallery.enrol("old", other.contract_id, "eileen", [new_face(np.array(_unit(1), np.float32))])

    with live_server(tmp_path, models_dir=str(models_dir)) as second:
        answers = [
            second.client.post(f"{path}/identify", files={"image": face_photo}),
            second.client.post(f"{path}/subjects/eileen/verify", files={"image": face_photo}),
            second.client.post(f"{path}/subjects/eileen/faces", files={"images": face_photo}),
        ]

        assert [answer.status_code for answer in answers] == [409, 409, 409]
        assert {answer.json()["error"]["code"] for answer in answers} == {"contract_mismatch"}
        assert second.client.delete(f"{path}/subjects/eileen").status_code == 200


def test_base64_photos_enrol_too(server: LiveServer, face_photo: bytes) -> None:
    path = _collection(server, "base64")
    body = {"image": base64.b64encode(face_photo).decode(), "consent": "c"}

    answer = server.client.post(
        f"{path}/subjects/e/faces", content=json.dumps(body), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 201
    assert answer.json()["faces"][0]["consent"] == "c"


def test_two_forms_of_one_name_are_one_person(server: LiveServer) -> None:
    path = _collection(server, "forms")
    composed, apart = "Zo\u00eb", "Zoe\u0308"
    ids = [_enrol(server, path, composed, 1), _enrol(server, path, apart, 2)]

    shown = server.client.get(f"{path}/subjects/{apart}").json()
    verified = server.client.post(f"{path}/subjects/{apart}/verify", json={"embedding": _unit(2)}).json()

    assert shown["subject"] == composed
    assert [face["face_id"] for face in shown["faces"]] == ids
    assert (verified["matched"], verified["face_id"]) == (True, ids[1])
    assert server.client.delete(f"{path}/subjects/{apart}/faces/{ids[0]}").json()["face_ids"] == ids[:1]
    receipt = server.client.delete(f"{path}/subjects/{apart}").json()
    assert (receipt["subject"], receipt["face_ids"]) == (composed, ids[1:])
    assert server.client.get(f"{path}/subjects/{composed}").status_code == 404


@pytest.mark.parametrize("name", ["%20", "%20%20", "%EF%BF%BD", "a%FFb"])
def test_a_name_that_is_blank_or_badly_encoded_is_refused(server: LiveServer, name: str) -> None:
    path = _collection(server, f"names-{name.replace('%', '')}")

    answer = server.client.post(f"{path}/subjects/{name}/faces", json={"embedding": _unit(0)})

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["details"]["field"] == "subject"
    assert server.client.get(f"{path}/subjects").json()["subjects"] == []


def test_the_threshold_is_that_of_the_gallery_size_in_the_answer(server: LiveServer, registry: Registry) -> None:
    path = _collection(server, "sizes")
    calibration = registry.resolve("embedder").manifest.calibration
    assert calibration is not None

    for seed in range(3):
        body = server.client.post(f"{path}/identify", json={"embedding": _unit(50)}).json()
        assert body["gallery_size"] == seed
        assert body["threshold"] == pytest.approx(calibration.threshold_for_gallery(0.01, seed).value)
        _enrol(server, path, f"p{seed}", seed)


def test_a_person_is_erased_with_a_receipt_while_another_program_reads_the_gallery(
    models_dir: Path, tmp_path: Path
) -> None:
    with live_server(tmp_path, models_dir=str(models_dir)) as server:
        path = _collection(server, "read")
        face_id = _enrol(server, path, "Ann Unforgotten", 1)
        with closing(sqlite3.connect(tmp_path / "gallery.sqlite3", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM faces").fetchone()

            answer = server.client.delete(f"{path}/subjects/Ann Unforgotten")

        assert answer.status_code == 200, answer.text
        assert answer.json()["face_ids"] == [face_id]
        assert verify(Receipt(**answer.json()))
        assert server.client.delete(f"{path}/subjects/Ann Unforgotten").status_code == 404
        assert files_with(tmp_path, b"Ann Unforgotten") == []
