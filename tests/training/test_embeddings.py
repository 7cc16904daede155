"""A labelled set of photos to embeddings, with the default networks."""

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from photos import astronaut, encode

from models.image import ImageLimits
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.detector import Detector
from service.inference.embedder import Embedder
from service.inference.finder import FaceFinder
from training.data.people import DataError
from training.embeddings import Choice, EmbeddedSet, SetEmbedder

Pixels = NDArray[np.uint8]


def _brighter(image: Pixels, factor: float) -> Pixels:
    return np.clip(image.astype(np.float32) * factor, 0, 255).astype(np.uint8)


def _two_faces() -> Pixels:
    """A large face at the left edge and a small one, mirrored, in the middle."""
    photo = astronaut()
    head = photo[20:260, 120:330]
    canvas = np.full((360, 720, 3), 128, np.uint8)
    canvas[60:300, 0:210] = head
    small = cv2.resize(head[:, ::-1], (105, 120), interpolation=cv2.INTER_AREA)
    canvas[120:240, 308:413] = small
    return canvas


def _write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of one face under two names, one file that is no image, and one photo without a face."""
    photo = astronaut()
    files = {
        "ann/plain.jpg": encode(photo, "JPEG", quality=95),
        "ann/mirrored.png": encode(photo[:, ::-1]),
        "ann/darker.webp": encode(_brighter(photo, 0.6), "WEBP", lossless=True),
        "bob/brighter.jpg": encode(_brighter(photo, 1.3), "JPEG", quality=90),
        "bob/mirrored-dark.bmp": encode(_brighter(photo[:, ::-1], 0.5), "BMP"),
        "bob/two.png": encode(_two_faces()),
        "bob/broken.jpg": b"this is no image",
        "bob/wall.png": encode(np.full((200, 300, 3), 180, np.uint8)),
    }
    return _write(tmp_path_factory.mktemp("people"), files)


class _Inference:
    """The service's own parts, put together here once more."""

    def __init__(self, registry: Registry) -> None:
        detector, bundle = registry.resolve("detector"), registry.resolve("embedder")
        self.embedder = Embedder(Session(bundle.model_path, SessionOptions("cpu")), bundle.manifest)
        network = Detector(Session(detector.model_path, SessionOptions("cpu")), detector.manifest.input)
        self.finder = FaceFinder(network, self.embedder.template, ImageLimits())


@pytest.fixture(scope="module")
def inference(registry: Registry) -> _Inference:
    return _Inference(registry)


def _embed(registry: Registry, path: Path, threads: int = 2, choice: Choice = "largest") -> EmbeddedSet:
    return SetEmbedder(registry, None, None, choice).embed_people(path, threads, lambda _: None)


@pytest.fixture(scope="module")
def embedded(registry: Registry, people: Path) -> EmbeddedSet:
    return _embed(registry, people)


def test_photos_with_a_face_have_vectors_of_unit_length_and_a_person(embedded: EmbeddedSet) -> None:
    assert embedded.names == ("ann", "bob")
    assert embedded.photos == (
        "ann/darker.webp",
        "ann/mirrored.png",
        "ann/plain.jpg",
        "bob/brighter.jpg",
        "bob/mirrored-dark.bmp",
        "bob/two.png",
    )
    assert embedded.people.tolist() == [0, 0, 0, 1, 1, 1]
    assert embedded.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded.vectors, axis=1), 1, atol=1e-5)
    assert ((embedded.quality > 0) & (embedded.quality <= 1)).all()


def test_a_file_that_is_no_image_and_a_photo_without_a_face_are_failures_to_enrol(embedded: EmbeddedSet) -> None:
    assert embedded.failed == ("bob/broken.jpg", "bob/wall.png")
    assert embedded.failure_to_enrol == 2 / 8


def test_vectors_are_those_that_the_service_gives(embedded: EmbeddedSet, inference: _Inference, people: Path) -> None:
    for name, vector, quality in zip(embedded.photos, embedded.vectors, embedded.quality, strict=True):
        face = inference.finder.find((people / name).read_bytes()).faces[0]
        np.testing.assert_array_equal(vector, inference.embedder.embed([face.crop])[0])
        assert quality == np.float32(face.face.quality)


def test_variants_of_one_photo_are_alike(embedded: EmbeddedSet) -> None:
    similarities = embedded.vectors @ embedded.vectors.T

    assert similarities.min() > 0.5


def test_one_thread_and_two_give_the_same_set(registry: Registry, people: Path, embedded: EmbeddedSet) -> None:
    one = _embed(registry, people, threads=1)

    np.testing.assert_array_equal(one.vectors, embedded.vectors)
    np.testing.assert_array_equal(one.people, embedded.people)
    np.testing.assert_array_equal(one.quality, embedded.quality)
    assert (one.names, one.photos, one.failed) == (embedded.names, embedded.photos, embedded.failed)


def test_more_photos_than_are_read_ahead_keep_their_order(registry: Registry, tmp_path: Path) -> None:
    """Large photos come first, so that later ones are done before them."""
    large, small = encode(astronaut(), "JPEG"), encode(astronaut()[40:240, 130:320], "JPEG")
    files = {f"p{number:02}/a.jpg": large if number < 4 else small for number in range(20)}

    data = _embed(registry, _write(tmp_path, files), threads=2)

    assert data.photos == tuple(sorted(files))
    assert data.people.tolist() == list(range(20))


def test_a_tar_gives_the_vectors_of_its_folder(
    registry: Registry, people: Path, embedded: EmbeddedSet, tmp_path: Path
) -> None:
    path = tmp_path / "people.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(people, arcname="people")

    packed = _embed(registry, path)

    order = np.argsort(packed.photos)
    assert tuple(packed.photos[index] for index in order) == embedded.photos
    np.testing.assert_array_equal(packed.vectors[order], embedded.vectors)
    assert sorted(packed.failed) == list(embedded.failed)


@pytest.mark.parametrize("choice", ["largest", "central"])
def test_of_two_faces_the_chosen_one_stands_for_the_photo(
    registry: Registry, inference: _Inference, people: Path, choice: Choice
) -> None:
    found = inference.finder.find((people / "bob" / "two.png").read_bytes())
    assert len(found.faces) == 2
    left, middle = sorted(found.faces, key=lambda item: item.face.bbox[0])
    assert left.face.area > middle.face.area

    data = _embed(registry, people, choice=choice)

    chosen, other = (left, middle) if choice == "largest" else (middle, left)
    vector = data.vectors[data.photos.index("bob/two.png")]
    np.testing.assert_array_equal(vector, inference.embedder.embed([chosen.crop])[0])
    assert not np.array_equal(vector, inference.embedder.embed([other.crop])[0])


def test_progress_counts_every_photo_once_failures_included(registry: Registry, people: Path) -> None:
    steps: list[int] = []

    SetEmbedder(registry, None, None, "largest").embed_people(people, 2, steps.append)

    assert sum(steps) == 8


def test_the_models_are_named(registry: Registry) -> None:
    embedder = SetEmbedder(registry, None, None, "largest")

    assert embedder.detector_id == registry.champion("detector")
    assert embedder.manifest.id == registry.champion("embedder")


@pytest.mark.parametrize("names", [["ann/a.jpg", "ann/b.jpg"], ["ann/a.jpg", "bob/broken.jpg"]])
def test_faces_of_one_person_only_are_refused(registry: Registry, tmp_path: Path, names: list[str]) -> None:
    photo = encode(astronaut(), "JPEG")
    files = {name: b"this is no image" if "broken" in name else photo for name in names}

    with pytest.raises(DataError, match="faces of 1 people; at least two are needed"):
        _embed(registry, _write(tmp_path, files))


def test_a_damaged_archive_ends_the_run_after_photos_that_could_be_read(registry: Registry, tmp_path: Path) -> None:
    folder = _write(tmp_path / "people", {f"p{number}/a.jpg": encode(astronaut(), "JPEG") for number in range(3)})
    path = tmp_path / "people.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname="people")
    path.write_bytes(path.read_bytes()[:-30_000])

    with pytest.raises(DataError, match="cannot read"):
        _embed(registry, path)
