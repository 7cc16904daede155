"""Photos over REST: detect, embed, verify, against a real server."""

import base64
import io
import json
import re

import numpy as np
import psutil
import pytest
from live_server import LiveServer, wait_until
from photos import astronaut, encode
from PIL import Image

EMPTY = encode(np.full((64, 64, 3), 200, np.uint8))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _mirror(data: bytes) -> bytes:
    return encode(np.asarray(Image.open(io.BytesIO(data)))[:, ::-1])


def test_detect_finds_the_face_with_landmarks_in_order(server: LiveServer, face_photo: bytes) -> None:
    answer = server.client.post("/detect", files={"image": face_photo})

    assert answer.status_code == 200
    body = answer.json()
    assert body["image"] == {"width": 512, "height": 512}
    (face,) = body["faces"]
    x1, y1, x2, y2 = face["bbox"]
    assert 150 < x1 < x2 < 300
    assert 50 < y1 < y2 < 220
    right_eye, left_eye, nose, right_mouth, left_mouth = face["kps"]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[0] < left_mouth[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert 0.7 <= face["det_score"] <= 1
    assert 0 <= face["quality"] <= 1
    assert set(body["model"]) == {"id", "contract_id", "dimension"}


def test_a_photo_without_a_face_is_an_empty_list(server: LiveServer) -> None:
    answer = server.client.post("/detect", files={"image": EMPTY})

    assert answer.status_code == 200
    assert answer.json()["faces"] == []


def test_part_raw_body_and_base64_give_the_same_embedding(server: LiveServer, face_photo: bytes) -> None:
    part = server.client.post("/embed", files={"image": face_photo}).json()
    raw = server.client.post("/embed", content=face_photo, headers={"content-type": "image/jpeg"}).json()
    text = server.client.post("/embed", json={"image": _base64(face_photo)}).json()
    data_url = server.client.post("/embed", json={"image": "data:image/jpeg;base64," + _base64(face_photo)}).json()

    wrapped = server.client.post("/embed", json={"image": base64.encodebytes(face_photo).decode()}).json()

    assert part == raw == text == data_url == wrapped
    embedding = np.array(part["faces"][0]["embedding"])
    assert embedding.shape == (part["model"]["dimension"],)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_a_body_sent_as_curl_sends_it_is_taken_as_an_image(server: LiveServer, face_photo: bytes) -> None:
    answer = server.client.post(
        "/detect", content=face_photo, headers={"content-type": "application/x-www-form-urlencoded"}
    )

    assert len(answer.json()["faces"]) == 1


def test_base64_encoding_carries_the_same_float32_values(server: LiveServer, face_photo: bytes) -> None:
    numbers = server.client.post("/embed", files={"image": face_photo}).json()["faces"][0]["embedding"]
    text = server.client.post("/embed?encoding=base64", files={"image": face_photo}).json()["faces"][0]["embedding"]

    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(text), "<f4"), np.array(numbers, np.float32))


def test_largest_keeps_only_the_face_with_the_largest_box(server: LiveServer) -> None:
    photo = astronaut()
    small = np.asarray(Image.fromarray(photo).resize((256, 256)))
    both = np.zeros((512, 768, 3), np.uint8)
    both[:256, :256], both[:, 256:] = small, photo
    data = encode(both)

    everyone = server.client.post("/embed", files={"image": data}).json()["faces"]
    largest = server.client.post("/embed?faces=largest", files={"image": data}).json()["faces"]

    assert len(everyone) == 2
    assert everyone[0]["bbox"][0] > 256 > everyone[1]["bbox"][0]
    assert largest == everyone[:1]


def test_an_aligned_crop_is_embedded_as_it_is(server: LiveServer, registry_crop: bytes, face_photo: bytes) -> None:
    whole = server.client.post("/embed", files={"image": face_photo}).json()["faces"][0]
    crop = server.client.post("/embed?aligned=true", files={"image": registry_crop}).json()

    (face,) = crop["faces"]
    assert face["bbox"] == [0, 0, 112, 112]
    assert face["det_score"] == 1
    assert np.dot(face["embedding"], whole["embedding"]) == pytest.approx(1, abs=1e-5)


def test_a_crop_of_another_shape_is_refused(server: LiveServer) -> None:
    answer = server.client.post("/embed?aligned=true", files={"image": encode(np.zeros((100, 112, 3), np.uint8))})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


def test_a_batch_answers_in_order_and_a_bad_image_fails_alone(server: LiveServer, face_photo: bytes) -> None:
    parts = [("images", face_photo), ("images", b"not an image"), ("images", EMPTY), ("images", face_photo)]

    results = server.client.post("/embed/batch", files=parts).json()["results"]

    assert len(results) == 4
    assert len(results[0]["faces"]) == 1
    assert results[1]["error"]["code"] == "invalid_image"
    assert results[2]["faces"] == []
    assert results[3]["faces"][0]["embedding"] == pytest.approx(results[0]["faces"][0]["embedding"], abs=1e-5)


def test_verify_accepts_a_photo_and_its_mirror_image(server: LiveServer, face_photo: bytes) -> None:
    answer = server.client.post("/verify", files={"image_a": face_photo, "image_b": _mirror(face_photo)})

    body = answer.json()
    assert answer.status_code == 200
    assert body["matched"] is True
    assert body["similarity"] >= body["threshold"]
    assert body["angle_degrees"] == pytest.approx(np.degrees(np.arccos(body["similarity"])), abs=1e-6)
    assert body["target_fmr"] == 0.001
    assert body["probability"] > 0.99
    assert body["a"]["bbox"] != body["b"]["bbox"]


def test_a_stricter_rate_gives_a_higher_threshold(server: LiveServer, face_photo: bytes) -> None:
    files = {"image_a": face_photo, "image_b": face_photo}

    lax = server.client.post("/verify?target_fmr=0.01", files=files).json()
    strict = server.client.post("/verify", files=files, data={"target_fmr": "0.0001"}).json()

    assert lax["target_fmr"] == 0.01
    assert strict["target_fmr"] == 0.0001
    assert lax["threshold"] < strict["threshold"]


def test_the_threshold_is_inclusive(server: LiveServer, face_photo: bytes) -> None:
    vector = server.client.post("/embed", files={"image": face_photo}).json()["faces"][0]["embedding"]
    probes = {"a": {"embedding": vector}, "b": {"embedding": [-value for value in vector]}}
    similarity = server.client.post("/verify", json={**probes, "threshold": 0}).json()["similarity"]

    at = server.client.post("/verify", json={**probes, "threshold": similarity}).json()

    assert similarity == pytest.approx(-1, abs=1e-6)
    assert at["matched"] is True
    assert at["target_fmr"] is None
    assert at["a"] is None


def test_an_embedding_stands_for_its_photo(server: LiveServer, face_photo: bytes) -> None:
    face = server.client.post("/embed", files={"image": face_photo}).json()
    vector = {"embedding": face["faces"][0]["embedding"], "contract_id": face["model"]["contract_id"]}

    body = server.client.post("/verify", json={"a": vector, "b": {"image": _base64(face_photo)}}).json()

    assert body["similarity"] == pytest.approx(1, abs=1e-5)
    assert body["a"] is None
    assert body["b"]["bbox"] == face["faces"][0]["bbox"]


def test_an_embedding_of_another_contract_is_never_compared(server: LiveServer, face_photo: bytes) -> None:
    vector = server.client.post("/embed", files={"image": face_photo}).json()["faces"][0]["embedding"]
    probe = {"embedding": vector, "contract_id": "0123456789abcdef"}

    answer = server.client.post("/verify", json={"a": probe, "b": probe})

    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "contract_mismatch"


def test_an_error_in_one_of_two_photos_says_in_which(server: LiveServer, face_photo: bytes) -> None:
    answer = server.client.post("/verify", files={"image_a": face_photo, "image_b": EMPTY})

    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "face_not_found"
    assert answer.json()["error"]["details"]["image"] == "b"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/verify?target_fmr=0.001&threshold=0.3", 400, "invalid_request"),
        ("/verify?target_fmr=0", 400, "invalid_request"),
        ("/verify?target_fmr=1e-12", 400, "invalid_request"),
        ("/verify?target_fmr=nan", 400, "invalid_request"),
        ("/verify?threshold=1.01", 400, "invalid_request"),
        ("/verify?treshold=0.3", 400, "invalid_request"),
    ],
)
def test_a_criterion_that_cannot_be_met_is_refused(
    server: LiveServer, face_photo: bytes, path: str, status: int, code: str
) -> None:
    answer = server.client.post(path, files={"image_a": face_photo, "image_b": face_photo})

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "image/jpeg", 422, "invalid_image"),
        (b"hello", "image/jpeg", 422, "invalid_image"),
        (b"GIF89a" + bytes(100), "image/gif", 415, "unsupported_media_type"),
        (b"hello", "text/plain", 415, "unsupported_media_type"),
        (b"{", "application/json", 400, "invalid_request"),
        (b"{}", "application/json", 400, "invalid_request"),
        (b'{"image": 5}', "application/json", 400, "invalid_request"),
        (b'{"image": "%%%"}', "application/json", 400, "invalid_request"),
        (b'{"image": "", "url": "http://x"}', "application/json", 400, "invalid_request"),
        (b"[" * 100_000, "application/json", 400, "invalid_request"),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x", 400, "invalid_request"),
        (b"hello", "multipart/form-data", 400, "invalid_request"),
    ],
)
def test_a_bad_body_gets_a_clear_error(server: LiveServer, content: bytes, kind: str, status: int, code: str) -> None:
    answer = server.client.post("/embed", content=content, headers={"content-type": kind})

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("embedding", [[], [1.0], [0.0] * 128, [1e400] * 128, [1.0] * 129])
def test_an_embedding_that_is_none_is_refused(server: LiveServer, embedding: list[float]) -> None:
    body = json.dumps({"a": {"embedding": embedding}, "b": {"embedding": embedding}, "threshold": 0})

    answer = server.client.post("/verify", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_missing_and_an_unknown_part_are_named(server: LiveServer, face_photo: bytes) -> None:
    missing = server.client.post("/verify", files={"image_a": face_photo}).json()["error"]
    unknown = server.client.post("/embed", files={"image": face_photo, "photo": face_photo}).json()["error"]
    twice = server.client.post("/embed", files=[("image", face_photo), ("image", face_photo)]).json()["error"]

    assert "image_b" in missing["message"]
    assert "photo" in unknown["message"]
    assert "exactly one" in twice["message"]


def test_every_answer_bears_a_request_id(server: LiveServer) -> None:
    given = server.client.get("/health/live", headers={"x-request-id": "abc-1"})
    made = server.client.get("/nowhere")
    unsafe = server.client.get("/nowhere", headers={"x-request-id": "a b"})

    assert given.headers["x-request-id"] == "abc-1"
    assert made.status_code == 404
    assert made.json()["request_id"] == made.headers["x-request-id"]
    assert unsafe.headers["x-request-id"] != "a b"


def test_models_names_what_is_served_and_under_which_licence(server: LiveServer) -> None:
    models = {model["id"]: model for model in server.client.get("/models").json()["models"]}

    assert {model["kind"] for model in models.values() if model["loaded"]} == {"detector", "embedder"}
    embedder = models["sface-2021dec"]
    assert embedder["champion"] is True
    assert embedder["licence"]["spdx"] == "Apache-2.0"
    assert embedder["fmr_range"][0] <= 1e-5


def test_metrics_count_requests_by_route_and_never_by_name(server: LiveServer) -> None:
    server.client.get("/collections/secret-name")

    # A call is counted when it is over, which its caller may hear of a moment earlier.
    wait_until(lambda: 'route="/collections/{collection}"' in server.client.get("/metrics").text)
    assert "secret-name" not in server.client.get("/metrics").text


def test_a_repeated_option_is_refused(server: LiveServer, face_photo: bytes) -> None:
    files = [("image_a", face_photo), ("image_b", face_photo)]
    query = server.client.post("/verify?target_fmr=0.001&target_fmr=0.01", files=files)
    form = server.client.post("/verify", files=files, data={"target_fmr": ["0.001", "0.01"]})

    assert (query.status_code, form.status_code) == (400, 400)
    assert "given twice" in form.json()["error"]["message"]


def test_a_wrong_method_says_which_are_allowed(server: LiveServer) -> None:
    answer = server.client.get("/embed")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "invalid_request"
    assert server.client.head("/health/live").status_code == 200


def test_the_browsable_document_needs_no_other_site(server: LiveServer) -> None:
    page = server.client.get("/docs").text

    assert re.findall(r"https?://[^\"' ]+", page) == []
    for path in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert server.client.get(path).status_code == 200, path


def test_a_strip_of_a_photo_costs_no_more_than_its_pixels(server: LiveServer) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss

    for size in ((1, 32_767), (32_767, 1)):
        answer = server.client.post("/detect", files={"image": encode(np.zeros((*size, 3), np.uint8))})
        assert answer.json()["faces"] == []

    assert psutil.Process(server.process.pid).memory_info().rss - before < 100 * 2**20


def test_a_rate_too_small_for_any_statement_is_refused(server: LiveServer, face_photo: bytes) -> None:
    server.client.put("/collections/tiny", json={"purpose": "rates"})

    answer = server.client.post("/collections/tiny/identify?target_fpir=5e-324", files={"image": face_photo})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
