"""REST and gRPC are two faces of one application layer: the same answer, or the same code, through both."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from live_server import LiveServer, live_server, wait_until
from photos import encode

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb

PURPOSE = {"purpose": "parity"}
EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))
BOMB = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
BOMB += (20_000).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
UNIT = [1.0] + [0.0] * 127

Rest = Callable[[LiveServer, bytes], Any]
Rpc = Callable[[LiveServer, bytes], Any]


@dataclass(frozen=True)
class Case:
    """One request in both protocols."""

    name: str
    rest: Rest
    rpc: Rpc


def _probe(image: bytes) -> pb.Probe:
    return pb.Probe(image=image)


def _vector(values: list[float], contract: str = "") -> pb.Probe:
    return pb.Probe(embedding=pb.Embedding(values=values, contract_id=contract))


def _photo_cases() -> list[Case]:
    images: dict[str, Callable[[bytes], bytes]] = {
        "a face": lambda photo: photo,
        "no face": lambda _: EMPTY,
        "nothing": lambda _: b"",
        "no image": lambda _: b"hello, world",
        "truncated": lambda photo: photo[: len(photo) // 2],
        "a GIF": lambda _: b"GIF89a" + bytes(50),
        "a header bomb": lambda _: BOMB,
        "too many bytes": lambda _: b"BM" + bytes(20 * 2**20),
    }
    cases = []
    for name, image in images.items():
        cases += [
            Case(
                f"detect {name}",
                lambda s, p, image=image: s.client.post("/detect", files={"image": image(p)}),
                lambda s, p, image=image: s.faces.Detect(pb.DetectRequest(image=image(p))),
            ),
            Case(
                f"embed {name}",
                lambda s, p, image=image: s.client.post("/embed?faces=largest", files={"image": image(p)}),
                lambda s, p, image=image: s.faces.Embed(pb.EmbedRequest(image=image(p), faces=pb.SELECT_LARGEST)),
            ),
            Case(
                f"embed aligned {name}",
                lambda s, p, image=image: s.client.post("/embed?aligned=true", files={"image": image(p)}),
                lambda s, p, image=image: s.faces.Embed(pb.EmbedRequest(image=image(p), aligned=True)),
            ),
            Case(
                f"verify a face and {name}",
                lambda s, p, image=image: s.client.post("/verify", files={"image_a": p, "image_b": image(p)}),
                lambda s, p, image=image: s.faces.Verify(pb.VerifyRequest(a=_probe(p), b=_probe(image(p)))),
            ),
            Case(
                f"identify {name}",
                lambda s, p, image=image: s.client.post("/collections/parity/identify", files={"image": image(p)}),
                lambda s, p, image=image: s.gallery.Identify(
                    pb.IdentifyRequest(collection="parity", probe=_probe(image(p)))
                ),
            ),
            Case(
                f"identify all of {name}",
                lambda s, p, image=image: s.client.post(
                    "/collections/parity/identify?faces=all", files={"image": image(p)}
                ),
                lambda s, p, image=image: s.gallery.Identify(
                    pb.IdentifyRequest(collection="parity", probe=_probe(image(p)), faces=pb.SELECT_ALL)
                ),
            ),
            Case(
                f"verify a subject with {name}",
                lambda s, p, image=image: s.client.post(
                    "/collections/parity/subjects/eileen/verify", files={"image": image(p)}
                ),
                lambda s, p, image=image: s.gallery.VerifySubject(
                    pb.VerifySubjectRequest(collection="parity", subject="eileen", probe=_probe(image(p)))
                ),
            ),
        ]
    return cases


def _decision_cases() -> list[Case]:
    criteria: list[dict[str, float]] = [
        {"target_fmr": 0.01},
        {"target_fmr": 0.00001},
        {"target_fmr": 1e-20},
        {"target_fmr": 0.0},
        {"threshold": 0.5},
        {"threshold": 2.0},
        {"threshold": 0.5, "target_fmr": 0.01},
    ]
    cases = [
        Case(
            f"verify at {criterion}",
            lambda s, p, c=criterion: s.client.post("/verify", params=c, files={"image_a": p, "image_b": p}),
            lambda s, p, c=criterion: s.faces.Verify(pb.VerifyRequest(a=_probe(p), b=_probe(p), **c)),
        )
        for criterion in criteria
    ]
    vectors: dict[str, tuple[list[float], str]] = {
        "an embedding": (UNIT, ""),
        "too short an embedding": ([1.0], ""),
        "a zero embedding": ([0.0] * 128, ""),
        "an embedding of another contract": (UNIT, "f00df00df00df00d"),
    }
    for name, (values, contract) in vectors.items():
        body = {"embedding": values} | ({"contract_id": contract} if contract else {})
        cases += [
            Case(
                f"verify {name}",
                lambda s, _, b=body: s.client.post("/verify", json={"a": b, "b": {"embedding": UNIT}}),
                lambda s, _, v=values, c=contract: s.faces.Verify(pb.VerifyRequest(a=_vector(v, c), b=_vector(UNIT))),
            ),
            Case(
                f"identify {name}",
                lambda s, _, b=body: s.client.post("/collections/parity/identify", json={**b, "threshold": -1}),
                lambda s, _, v=values, c=contract: s.gallery.Identify(
                    pb.IdentifyRequest(collection="parity", probe=_vector(v, c), threshold=-1)
                ),
            ),
        ]
    searches: list[dict[str, float]] = [{"target_fpir": 0.1}, {"target_fpir": 1.0}, {"threshold": 0.2}, {"limit": 5000}]
    cases += [
        Case(
            f"identify with {search}",
            lambda s, p, c=search: s.client.post("/collections/parity/identify", params=c, files={"image": p}),
            lambda s, p, c=search: s.gallery.Identify(
                pb.IdentifyRequest(collection="parity", probe=_probe(p), **c)  # type: ignore[arg-type]
            ),
        )
        for search in searches
    ]
    return cases


def _gallery_cases() -> list[Case]:
    return [
        Case(
            "a collection",
            lambda s, _: s.client.get("/collections/parity"),
            lambda s, _: s.gallery.GetCollection(pb.GetCollectionRequest(name="parity")),
        ),
        Case(
            "collections",
            lambda s, _: s.client.get("/collections"),
            lambda s, _: s.gallery.ListCollections(pb.ListCollectionsRequest()),
        ),
        Case(
            "a missing collection",
            lambda s, _: s.client.get("/collections/missing"),
            lambda s, _: s.gallery.GetCollection(pb.GetCollectionRequest(name="missing")),
        ),
        Case(
            "a collection changed",
            lambda s, _: s.client.put("/collections/parity", json=PURPOSE),
            lambda s, _: s.gallery.PutCollection(pb.PutCollectionRequest(name="parity", **PURPOSE)),
        ),
        Case(
            "a collection without a purpose",
            lambda s, _: s.client.put("/collections/other", json={"purpose": ""}),
            lambda s, _: s.gallery.PutCollection(pb.PutCollectionRequest(name="other")),
        ),
        Case(
            "a collection with a bad name",
            lambda s, _: s.client.put("/collections/a b", json=PURPOSE),
            lambda s, _: s.gallery.PutCollection(pb.PutCollectionRequest(name="a b", **PURPOSE)),
        ),
        Case(
            "subjects",
            lambda s, _: s.client.get("/collections/parity/subjects"),
            lambda s, _: s.gallery.ListSubjects(pb.ListSubjectsRequest(collection="parity")),
        ),
        Case(
            "a page of subjects",
            lambda s, _: s.client.get("/collections/parity/subjects?limit=1"),
            lambda s, _: s.gallery.ListSubjects(pb.ListSubjectsRequest(collection="parity", limit=1)),
        ),
        Case(
            "a subject",
            lambda s, _: s.client.get("/collections/parity/subjects/eileen"),
            lambda s, _: s.gallery.GetSubject(pb.GetSubjectRequest(collection="parity", subject="eileen")),
        ),
        Case(
            "a missing subject",
            lambda s, _: s.client.get("/collections/parity/subjects/nobody"),
            lambda s, _: s.gallery.GetSubject(pb.GetSubjectRequest(collection="parity", subject="nobody")),
        ),
        Case(
            "erasing a missing subject",
            lambda s, _: s.client.delete("/collections/parity/subjects/nobody"),
            lambda s, _: s.gallery.DeleteSubject(pb.DeleteSubjectRequest(collection="parity", subject="nobody")),
        ),
        Case(
            "erasing a missing face",
            lambda s, _: s.client.delete("/collections/parity/subjects/eileen/faces/none"),
            lambda s, _: s.gallery.DeleteFace(
                pb.DeleteFaceRequest(collection="parity", subject="eileen", face_id="none")
            ),
        ),
        Case(
            "erasing a missing collection",
            lambda s, _: s.client.delete("/collections/missing"),
            lambda s, _: s.gallery.DeleteCollection(pb.DeleteCollectionRequest(name="missing")),
        ),
        Case(
            "enrolling nothing",
            lambda s, _: s.client.post("/collections/parity/subjects/p/faces", files={"images": EMPTY}),
            lambda s, _: s.gallery.Enroll(pb.EnrollRequest(collection="parity", subject="p", probes=[_probe(EMPTY)])),
        ),
        Case(
            "enrolling into a missing collection",
            lambda s, p: s.client.post("/collections/missing/subjects/p/faces", files={"images": p}),
            lambda s, p: s.gallery.Enroll(pb.EnrollRequest(collection="missing", subject="p", probes=[_probe(p)])),
        ),
    ]


def _model_cases() -> list[Case]:
    return [
        Case("models", lambda s, _: s.client.get("/models"), lambda s, _: s.models.ListModels(pb.ListModelsRequest())),
        Case("jobs", lambda s, _: s.client.get("/jobs"), lambda s, _: s.models.ListJobs(pb.ListJobsRequest())),
        Case(
            "a missing job",
            lambda s, _: s.client.get("/jobs/none"),
            lambda s, _: s.models.GetJob(pb.GetJobRequest(job_id="none")),
        ),
        Case(
            "activating a missing model",
            lambda s, _: s.client.post("/models/nobody/activate"),
            lambda s, _: s.models.ActivateModel(pb.ActivateModelRequest(model_id="nobody")),
        ),
        Case(
            "rolling back where nothing was promoted before",
            lambda s, _: s.client.post("/models/rollback"),
            lambda s, _: s.models.RollBackModel(pb.RollBackModelRequest()),
        ),
    ]


CASES = [*_photo_cases(), *_decision_cases(), *_gallery_cases(), *_model_cases()]


@pytest.fixture(scope="module")
def server(own_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a registry of its own."""
    with live_server(tmp_path_factory.mktemp("data"), models_dir=str(own_models)) as running:
        yield running


@pytest.fixture(scope="module")
def gallery(server: LiveServer, face_photo: bytes) -> LiveServer:
    """A server with one collection of two people."""
    server.client.put("/collections/parity", json=PURPOSE)
    server.client.post("/collections/parity/subjects/eileen/faces", files={"images": face_photo})
    server.client.post("/collections/parity/subjects/vector/faces", json={"embedding": UNIT})
    return server


def _rest_outcome(answer: Any) -> Any:
    body = answer.json()
    if answer.is_success:
        return body
    assert set(body) == {"error", "request_id"}
    return ("error", body["error"]["code"], body["error"]["message"])


def _rpc_outcome(call: Callable[[], Any]) -> Any:
    try:
        return MessageToDict(call(), preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata())
        assert trailing["x-request-id"]
        return ("error", trailing["error-code"], error.details())


def _common(rest: Any, rpc: Any) -> tuple[Any, Any]:
    """Both answers in one shape: gRPC names points and boxes, keeps 64-bit numbers as text, and leaves out None."""
    if isinstance(rest, dict) and isinstance(rpc, dict):
        if "subject" in rest and "name" in rpc:
            rpc = {"subject": rpc.pop("name"), **rpc}
        if "decision" in rest and "results" in rpc:  # REST answers one face at the top level
            (one,) = rpc.pop("results")
            rpc = {**rpc, **one}
        if set(rest) == {"results"}:
            shared = {key: rpc[key] for key in rpc if key != "results"}
            rpc = {"results": [{**each, **shared} for each in rpc["results"]]}
        keys = {key for key in {*rest, *rpc} if rest.get(key) not in (None, "") or rpc.get(key) not in (None, "", [])}
        pairs = {key: _common(rest.get(key), rpc.get(key)) for key in sorted(keys)}
        return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}
    if isinstance(rest, list) and isinstance(rpc, dict):
        return rest, [rpc[key] for key in sorted(rpc, key=lambda key: (key[1:], key))]  # x1 y1 x2 y2, or x y
    if isinstance(rest, list) and isinstance(rpc, list):
        pairs = [_common(a, b) for a, b in zip(rest, rpc, strict=True)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if isinstance(rest, int | float) and isinstance(rpc, str):
        rpc = float(rpc)
    return rest, rpc


def _assert_close(rest: Any, rpc: Any, path: str = "answer") -> None:
    if isinstance(rest, dict):
        assert rest.keys() == rpc.keys(), path
        for key in rest:
            _assert_close(rest[key], rpc[key], f"{path}.{key}")
    elif isinstance(rest, list):
        assert len(rest) == len(rpc), path
        for index, (a, b) in enumerate(zip(rest, rpc, strict=True)):
            _assert_close(a, b, f"{path}[{index}]")
    elif isinstance(rest, float) and not isinstance(rpc, bool):
        assert rest == pytest.approx(rpc, rel=1e-6, abs=1e-5), path
    else:
        assert rest == rpc, path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rest_and_grpc_answer_alike(gallery: LiveServer, face_photo: bytes, case: Case) -> None:
    rest = _rest_outcome(case.rest(gallery, face_photo))
    rpc = _rpc_outcome(lambda: case.rpc(gallery, face_photo))

    if isinstance(rest, tuple) or isinstance(rpc, tuple):
        assert rest == rpc
    else:
        _assert_close(*_common(rest, rpc))


def test_enrolling_and_erasing_alike(gallery: LiveServer, face_photo: bytes) -> None:
    rest = gallery.client.post(
        "/collections/parity/subjects/r/faces", files=[("images", face_photo), ("images", EMPTY)], data={"consent": "c"}
    ).json()
    rpc = gallery.gallery.Enroll(
        pb.EnrollRequest(collection="parity", subject="g", probes=[_probe(face_photo), _probe(EMPTY)], consent="c")
    )

    assert rest["faces"][0]["quality"] == pytest.approx(rpc.faces[0].quality)
    assert (rest["faces"][0]["consent"], rpc.faces[0].consent) == ("c", "c")
    assert [(each["index"], each["code"]) for each in rest["rejected"]] == [(e.index, e.code) for e in rpc.rejected]
    by_rest = gallery.client.delete("/collections/parity/subjects/r").json()
    by_rpc = gallery.gallery.DeleteSubject(pb.DeleteSubjectRequest(collection="parity", subject="g"))
    assert by_rest["face_ids"] == [rest["faces"][0]["face_id"]]
    assert list(by_rpc.face_ids) == [rpc.faces[0].face_id]
    assert by_rest["public_key"] == by_rpc.public_key


def test_the_stream_answers_every_request_by_its_id(gallery: LiveServer, face_photo: bytes) -> None:
    images = {"face": face_photo, "empty": EMPTY, "junk": b"junk", **{f"more-{n}": face_photo for n in range(40)}}
    requests = (pb.EmbedStreamRequest(id=key, request=pb.EmbedRequest(image=image)) for key, image in images.items())

    answers = {answer.id: answer for answer in gallery.faces.EmbedStream(requests)}

    single = gallery.faces.Embed(pb.EmbedRequest(image=face_photo))
    assert set(answers) == set(images)
    np.testing.assert_allclose(answers["face"].response.faces[0].embedding, single.faces[0].embedding, atol=1e-5)
    assert list(answers["empty"].response.faces) == []
    assert answers["junk"].error.code == "invalid_image"
    assert all(answers[f"more-{n}"].WhichOneof("result") == "response" for n in range(40))


def test_the_identify_stream_answers_every_request_by_its_id(gallery: LiveServer, face_photo: bytes) -> None:
    def request(key: str, **fields: Any) -> pb.IdentifyStreamRequest:
        return pb.IdentifyStreamRequest(id=key, request=pb.IdentifyRequest(**fields))

    requests = [
        request("known", collection="parity", probe=_probe(face_photo)),
        request("missing", collection="missing", probe=_probe(face_photo)),
        request("none", collection="parity"),
    ]

    answers = {answer.id: answer for answer in gallery.gallery.IdentifyStream(iter(requests))}

    assert answers["known"].response.results[0].candidates[0].subject == "eileen"
    assert answers["missing"].error.code == "not_found"
    assert answers["none"].error.code == "invalid_request"


def test_the_enrol_stream_answers_each_photo_when_it_is_kept(gallery: LiveServer, face_photo: bytes) -> None:
    def request(key: str, **fields: Any) -> pb.EnrollStreamRequest:
        return pb.EnrollStreamRequest(id=key, request=pb.EnrollRequest(**fields))

    photos = [request(f"ann-{n}", collection="parity", subject="ann", probes=[_probe(face_photo)]) for n in range(20)]
    others = [
        request("consent", collection="parity", subject="bob", probes=[_vector(UNIT)], consent="form 17"),
        request("empty", collection="parity", subject="ann", probes=[_probe(EMPTY)]),
        request("missing", collection="missing", subject="ann", probes=[_probe(face_photo)]),
        request("none", collection="parity", subject="ann"),
    ]

    answers = {}
    for answer in gallery.gallery.EnrollStream(iter([*photos, *others])):
        answers[answer.id] = answer
        if answer.id.startswith("ann-"):  # found by another call as soon as it is answered
            (face,) = answer.response.faces
            kept = gallery.client.get("/collections/parity/subjects/ann").json()["faces"]
            assert face.face_id in {each["face_id"] for each in kept}

    assert answers["consent"].response.faces[0].consent == "form 17"
    assert [answers[key].error.code for key in ("empty", "missing", "none")] == [
        "face_not_found",
        "not_found",
        "invalid_request",
    ]
    kept = gallery.client.get("/collections/parity/subjects/ann").json()["faces"]
    assert {each["face_id"] for each in kept} == {answers[f"ann-{n}"].response.faces[0].face_id for n in range(20)}
    for name in ("ann", "bob"):
        gallery.client.delete(f"/collections/parity/subjects/{name}")


def test_a_change_of_model_is_the_same_job_through_both(gallery: LiveServer) -> None:
    (loaded,) = [
        each.id for each in gallery.models.ListModels(pb.ListModelsRequest()).models if each.dimension and each.loaded
    ]

    job_id = gallery.models.ActivateModel(pb.ActivateModelRequest(model_id=loaded)).id
    wait_until(lambda: gallery.client.get(f"/jobs/{job_id}").json()["state"] == "done")

    rest = gallery.client.get(f"/jobs/{job_id}").json()
    rpc = _rpc_outcome(lambda: gallery.models.GetJob(pb.GetJobRequest(job_id=job_id)))
    assert [each["state"] for each in rest["collections"]] == ["there"]
    _assert_close(*_common(rest, rpc))


def test_base64_and_bytes_carry_one_vector(gallery: LiveServer, face_photo: bytes) -> None:
    rest = gallery.client.post("/embed?encoding=base64", files={"image": face_photo}).json()
    rpc = gallery.faces.Embed(pb.EmbedRequest(image=face_photo))

    vector = np.frombuffer(base64.b64decode(rest["faces"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, rpc.faces[0].embedding, atol=1e-6)
