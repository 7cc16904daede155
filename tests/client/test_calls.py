"""Every call of the client against a real server, over both protocols, waiting and awaited."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import facesphere_client as fc
import numpy as np
import pytest
from awaited import Awaited
from facesphere_client.errors import BY_CODE
from live_server import LiveServer, live_server
from photos import astronaut, encode

from service.rest.errors import STATUS

KEY = "a-key-of-enough-characters"
EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))
KINDS = ("rest", "grpc", "async rest", "async grpc")
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def keyed(own_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that asks for a key."""
    with live_server(tmp_path_factory.mktemp("data"), models_dir=str(own_models), api_key=KEY) as running:
        yield running


def made(kind: str, server: LiveServer, **options: Any) -> Any:
    """A client of a kind."""
    url = server.http if kind.endswith("rest") else f"grpc://{server.grpc}"
    return Awaited(fc.AsyncClient(url, **options)) if kind.startswith("async") else fc.Client(url, **options)


@pytest.fixture(scope="module", params=KINDS)
def client(request: pytest.FixtureRequest, keyed: LiveServer) -> Iterator[Any]:
    """A client of each kind in turn, whose collection `lab` is its own."""
    made_one = made(request.param, keyed, key=KEY)
    made_one.put_collection("lab", "tests of clients")
    yield made_one
    made_one.delete_collection("lab")
    made_one.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, face_photo: bytes) -> Path:
    """A photo of one person, as a file."""
    path = tmp_path_factory.mktemp("photos") / "alice.jpg"
    path.write_bytes(face_photo)
    return path


def test_both_clients_have_the_same_calls() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        public = {name: member for name, member in vars(kind).items() if callable(member) and not name.startswith("_")}
        return {name: list(inspect.signature(member).parameters) for name, member in public.items()}

    assert calls(fc.Client) == calls(fc.AsyncClient)


def test_every_code_of_the_server_has_an_error_of_its_own() -> None:
    assert set(BY_CODE) == set(STATUS)
    assert len(set(BY_CODE.values())) == len(STATUS)
    assert all(kind.__name__ in fc.__all__ for kind in BY_CODE.values())


def test_a_server_that_serves_is_ready_and_one_that_is_not_there_is_not(client: Any) -> None:
    assert client.ready() is True
    for url in ("http://127.0.0.1:9", "grpc://127.0.0.1:9"):
        with fc.Client(url) as nobody:
            assert nobody.ready() is False


def test_faces_are_found_in_bytes_and_in_files(client: Any, photo: Path) -> None:
    found, read = client.detect(photo.read_bytes()), client.detect(str(photo))

    assert found == read
    assert (found.width, found.height) == (512, 512)
    (face,) = found.faces
    assert len(face.kps) == 5
    assert face.bbox[0] < face.kps[0][0] < face.bbox[2]
    assert client.detect(EMPTY).faces == ()


def test_an_embedding_is_a_unit_vector_of_the_models_contract(client: Any, photo: Path) -> None:
    embedded = client.embed(photo, faces="largest")
    (face,) = embedded.faces

    assert (face.embedding.dtype, face.embedding.shape) == (np.float32, (embedded.model.dimension,))
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
    assert face.contract_id == embedded.model.contract_id
    assert embedded.embeddings.shape == (1, embedded.model.dimension)
    assert client.embed(EMPTY).embeddings.shape == (0, embedded.model.dimension)


def test_an_aligned_crop_is_embedded_as_it_is(client: Any, registry_crop: bytes, photo: Path) -> None:
    (face,) = client.embed(registry_crop, aligned=True).faces
    (found,) = client.embed(photo).faces

    assert float(face.embedding @ found.embedding) > 0.99


def test_two_probes_are_compared_whatever_they_are(client: Any, photo: Path) -> None:
    (face,) = client.embed(photo).faces

    of_photos = client.verify(photo, photo.read_bytes(), target_fmr=0.0001)
    assert (of_photos.matched, of_photos.target_fmr) == (True, 0.0001)
    assert of_photos.a is not None
    assert of_photos.face_id is None
    mixed = client.verify(photo, face, threshold=0.9)
    assert (mixed.matched, mixed.b, mixed.target_fmr) == (True, None, None)
    assert mixed.threshold == pytest.approx(0.9)
    opposite = client.verify(face.embedding, fc.Embedding(-face.embedding, face.contract_id))
    assert opposite.similarity == pytest.approx(-1, abs=1e-5)


def test_a_vector_of_another_model_is_refused(client: Any, photo: Path) -> None:
    (face,) = client.embed(photo).faces

    with pytest.raises(fc.ContractMismatchError):
        client.verify(photo, fc.Embedding(face.embedding, "f00df00df00df00d"))
    with pytest.raises(ValueError, match="one dimension"):
        client.verify(photo, face.embedding[None])


def test_a_collection_keeps_its_settings(client: Any) -> None:
    put = client.put_collection("other", "door", retention_days=30, store_crops=True, target_fmr=0.01)

    assert put == client.collection("other")
    assert {each.name for each in client.collections()} >= {"lab", "other"}
    assert (put.retention_days, put.store_crops, put.target_fmr, put.require_consent) == (30, True, 0.01, False)
    receipt = client.delete_collection("other")
    assert (receipt.collection, receipt.subject) == ("other", None)
    with pytest.raises(fc.NotFoundError) as missing:
        client.collection("other")
    assert missing.value.request_id


def test_a_person_is_enrolled_found_and_erased_with_a_receipt(client: Any, photo: Path) -> None:
    name = "Zoë 100 % / no".replace("/", "#")
    enrolment = client.enrol("lab", name, photo, EMPTY, consent="form 17")

    assert [(each.index, each.code) for each in enrolment.rejected] == [(1, "face_not_found")]
    assert enrolment.faces[0].consent == "form 17"
    assert client.subject("lab", name).faces == enrolment.faces
    assert [(each.name, each.faces) for each in client.subjects("lab", page_size=1)] == [(name, 1)]
    found = client.identify("lab", photo, limit=3)
    assert (found.decision, found.subject, found.gallery_size) == ("known", name, 1)
    assert [each.subject for each in client.identify_all("lab", photo)] == [name]
    known = client.verify_subject("lab", name, photo, target_fmr=0.001)
    assert (known.matched, known.face_id) == (True, enrolment.faces[0].face_id)

    receipt = client.delete_subject("lab", name)
    assert receipt.face_ids == (enrolment.faces[0].face_id,)
    assert receipt.is_signed_by(receipt.public_key)
    assert not receipt.is_signed_by("A" * 43 + "=")
    assert client.identify("lab", photo).decision == "unknown"


def test_under_one_key_nobody_is_enrolled_twice(client: Any, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "ann" / name).write_bytes(photo.read_bytes())

    enrolments = [client.enrol("lab", "ann", photo, EMPTY, photo, idempotency_key="import 1") for _ in range(2)]
    folders = [list(client.enrol_folder("lab", tmp_path, idempotency_key="import 2")) for _ in range(2)]

    assert enrolments[0] == enrolments[1]
    assert {each.id: each.get() for each in folders[0]} == {each.id: each.get() for each in folders[1]}
    assert len(client.subject("lab", "ann").faces) == 4
    assert client.enrol("lab", "ann", photo) != client.enrol("lab", "ann", photo)
    client.delete_subject("lab", "ann")
    with pytest.raises(fc.InvalidRequestError, match="idempotency_key"):
        client.enrol("lab", "ann", photo, idempotency_key="k" * 201)


def test_one_face_of_a_person_is_erased(client: Any, photo: Path) -> None:
    (face,) = client.embed(photo).faces
    first, second = client.enrol("lab", "ann", face).faces[0], client.enrol("lab", "ann", photo).faces[0]

    assert (first.quality, second.quality is None) == (None, False)
    assert client.delete_face("lab", "ann", first.face_id).face_ids == (first.face_id,)
    assert client.subject("lab", "ann").faces == (second,)
    client.delete_subject("lab", "ann")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_that_would_be_another_path_is_refused_before_it_is_sent(client: Any, name: str) -> None:
    with pytest.raises(fc.FacesphereError):
        client.delete_subject("lab", name)
    assert client.collection("lab").name == "lab"


def test_errors_are_those_of_the_api(client: Any, photo: Path, tmp_path: Path) -> None:
    for kind, image in ((fc.InvalidImageError, photo.read_bytes()[:900]), (fc.UnsupportedMediaTypeError, b"GIF89a")):
        with pytest.raises(kind) as refused:
            client.detect(image)
        assert isinstance(refused.value, fc.ImageError)
        assert refused.value.code in str(refused.value)
    with pytest.raises(fc.FaceNotFoundError):
        client.verify(photo, EMPTY)
    with pytest.raises(fc.InvalidRequestError):
        client.verify(photo, photo, target_fmr=0.001, threshold=0.5)
    with pytest.raises(fc.ImageFileError, match=r"missing\.jpg"):
        client.detect(tmp_path / "missing.jpg")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_asked_for(keyed: LiveServer, kind: str) -> None:
    for key in (None, "wrong" * 8):
        nobody = made(kind, keyed, key=key)
        with pytest.raises(fc.UnauthenticatedError):
            nobody.collections()
        nobody.close()


def test_models_and_jobs_are_told_of(client: Any, keyed: LiveServer) -> None:
    models = {model.id: model for model in client.models()}
    documents = keyed.client.get("/models", headers={"authorization": f"Bearer {KEY}"}).json()["models"]
    assert [(model.id, model.kind, model.dimension, model.standing) for model in models.values()] == [
        (each["id"], each["kind"], each["dimension"], each["standing"]) for each in documents
    ]
    assert [dict(model.licence) for model in models.values()] == [each["licence"] for each in documents]
    loaded = next(model for model in models.values() if model.kind == "embedder" and model.loaded)
    assert loaded.fmr_range is not None
    assert loaded.fmr_range[0] < loaded.fmr_range[1]
    job = client.wait_for_job(client.activate_model(loaded.id).id, every_s=0.02)
    assert (job.state, job.error, job.progress, job.model_id) == ("done", None, 1, loaded.id)
    assert {"collection": "lab", "state": "there"}.items() <= dict(job.collections[0]).items()
    assert job in client.jobs(5)
    for missing in (lambda: client.activate_model("no-such-model"), lambda: client.job("none")):
        with pytest.raises(fc.NotFoundError):
            missing()


def test_over_rest_several_embeddings_are_not_one_enrolment_and_over_grpc_they_are(client: Any, photo: Path) -> None:
    (face,) = client.embed(photo).faces
    try:
        enrolment = client.enrol("lab", "two", face, face)
    except fc.UnsupportedError:
        with pytest.raises(fc.NotFoundError):
            client.subject("lab", "two")
        return
    assert len(enrolment.faces) == 2
    client.delete_subject("lab", "two")


def test_a_folder_is_embedded_with_an_outcome_for_each_photo(client: Any, photo: Path, tmp_path: Path) -> None:
    flipped = encode(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG")
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(photo.read_bytes() if number % 2 else flipped)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "broken.png").write_bytes(b"GIF89a" + bytes(50))
    (tmp_path / "notes.txt").write_text("no photo either")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    told: list[tuple[int, int]] = []

    outcomes = list(client.embed_folder(tmp_path, faces="largest", progress=lambda *done: told.append(done)))

    by_id = {each.id: each for each in outcomes}
    assert set(by_id) == {*(f"{number}.jpg" for number in range(20)), "below/broken.png"}
    assert isinstance(by_id["below/broken.png"].error, fc.UnsupportedMediaTypeError)
    with pytest.raises(fc.UnsupportedMediaTypeError):
        by_id["below/broken.png"].get()
    vectors = np.stack([by_id[f"{number}.jpg"].get().faces[0].embedding for number in range(20)])
    assert float((vectors @ vectors.T).min()) > 0.7
    assert told == [(done, 21) for done in range(1, 22)]
    with pytest.raises(NotADirectoryError):
        client.embed_folder(tmp_path / "nowhere")


def test_a_folder_of_people_is_enrolled_photo_by_photo(client: Any, photo: Path, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        for number in range(9):
            (tmp_path / name / f"{number}.jpg").write_bytes(photo.read_bytes())
    (tmp_path / "bob" / "empty.png").write_bytes(EMPTY)
    (tmp_path / "nobodys.jpg").write_bytes(photo.read_bytes())

    outcomes = {each.id: each for each in client.enrol_folder("lab", tmp_path, consent="form 18")}

    assert isinstance(outcomes.pop("bob/empty.png").error, fc.FaceNotFoundError)
    stored = [each.get().faces[0] for each in outcomes.values()]
    assert {each.consent for each in stored} == {"form 18"}
    for name in ("ann", "bob"):
        enrolled = {face.face_id for face in client.subject("lab", name).faces}
        assert enrolled == {each.get().faces[0].face_id for key, each in outcomes.items() if key.startswith(name)}
        assert len(client.delete_subject("lab", name).face_ids) == 9


def test_many_photos_are_identified_and_ids_may_repeat(client: Any, photo: Path) -> None:
    client.enrol("lab", "ann", photo)
    photos = [("same", photo), ("same", photo), ("empty", EMPTY), ("gone", "nowhere.jpg")]

    outcomes = list(client.identify_many("lab", photos))

    named = [each.get()[0].subject for each in outcomes if each.id == "same"]
    errors = {each.id: type(each.error) for each in outcomes if each.error}
    assert named == ["ann", "ann"]
    assert errors == {"empty": fc.FaceNotFoundError, "gone": fc.ImageFileError}
    client.delete_subject("lab", "ann")


def test_a_stream_that_nobody_reads_to_its_end_leaves_the_client_usable(keyed: LiveServer, photo: Path) -> None:
    for kind in ("rest", "grpc"):
        with made(kind, keyed, key=KEY, concurrency=2) as client:
            outcomes = client.embed_many((str(number), photo) for number in range(1000))
            assert next(outcomes).get().faces
            outcomes.close()
            assert client.detect(photo).faces


def test_a_stream_in_a_loop_that_is_left_early_leaves_nothing_running(keyed: LiveServer, tmp_path: Path) -> None:
    async def scenario(url: str) -> set[str]:
        async with fc.AsyncClient(url, key=KEY, concurrency=4) as client:
            async with contextlib.aclosing(client.embed_folder(tmp_path)) as outcomes:
                async for outcome in outcomes:
                    assert outcome.get().faces == ()
                    break
            await asyncio.sleep(0)
            names = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
        return {name for name in names if "over_" in name or "Stream" in name}

    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(EMPTY)
    for url in (keyed.http, f"grpc://{keyed.grpc}"):
        assert asyncio.run(scenario(url)) == set()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "grpc://host/path", "http://"])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    for kind in (fc.Client, fc.AsyncClient):
        with pytest.raises(ValueError, match="write http://host:8000"):
            kind(url)
