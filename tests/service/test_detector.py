"""Detection and embedding on real photos: sizes, orientations, and what is not a face."""

import io

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from photos import astronaut, encode, shared
from PIL import Image

from models.alignment import align
from models.image import ImageLimits, decode, decode_reduced
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.domain import CroppedPhoto
from service.inference.detector import Detector
from service.inference.embedder import Embedder
from service.inference.finder import FaceFinder

Photo = NDArray[np.uint8]


class Networks:
    """Both default networks behind the two calls that these tests need."""

    def __init__(self, registry: Registry) -> None:
        detector, embedder = registry.resolve("detector"), registry.resolve("embedder")
        options = SessionOptions("cpu")
        self.detector = Detector(Session(detector.model_path, options), detector.manifest.input)
        self.embedder = Embedder(Session(embedder.model_path, options), embedder.manifest)
        self.calibration = embedder.manifest.calibration
        self.finder = FaceFinder(self.detector, self.embedder.template, ImageLimits())

    def find(self, data: bytes) -> CroppedPhoto:
        return self.finder.find(data)

    def vector(self, data: bytes) -> NDArray[np.float32]:
        return self.embedder.embed([self.find(data).faces[0].crop])[0]


@pytest.fixture(scope="module")
def networks(registry: Registry) -> Networks:
    return Networks(registry)


def _scaled(photo: Photo, factor: float) -> Photo:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(photo, None, fx=factor, fy=factor, interpolation=how)


def _on_canvas(photo: Photo, width: int, height: int) -> Photo:
    canvas = np.full((height, width, 3), 120, np.uint8)
    rows, columns = min(height, photo.shape[0]), min(width, photo.shape[1])
    canvas[:rows, :columns] = photo[:rows, :columns]
    return canvas


def test_a_small_face_in_a_large_photo_is_found_and_recognised(networks: Networks) -> None:
    reference = networks.vector(encode(astronaut()))
    for face_height in (50, 100, 300):
        photo = _on_canvas(_scaled(astronaut(), face_height / 140), 4000, 3000)

        found = networks.find(encode(photo, compress_level=1))

        assert len(found.faces) == 1, face_height
        assert networks.embedder.embed([found.faces[0].crop])[0] @ reference > 0.8, face_height


def test_a_face_that_fills_the_picture_is_found_at_any_size(networks: Networks) -> None:
    x1, y1, x2, y2 = (int(value) for value in networks.find(encode(astronaut())).faces[0].face.bbox)
    close = astronaut()[y1:y2, x1:x2]
    for height in (60, 112, 250, 640, 2000):
        photo = _scaled(close, height / close.shape[0])

        assert len(networks.find(encode(photo, compress_level=1)).faces) == 1, height


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (31, 33), (2, 2)])
def test_a_photo_of_any_shape_is_searched(networks: Networks, size: tuple[int, int]) -> None:
    assert networks.find(encode(np.full((*size, 3), 90, np.uint8))).faces == []


@pytest.mark.parametrize("name", ["coffee", "rocket", "chelsea", "hubble_deep_field", "retina"])
def test_what_is_not_a_person_has_no_face(networks: Networks, name: str) -> None:
    image = getattr(skimage.data, name)()

    assert networks.find(encode(np.ascontiguousarray(image[..., :3]))).faces == []


def test_noise_has_no_face(networks: Networks) -> None:
    rng = np.random.default_rng(7)
    for size in (64, 300, 1400):
        assert networks.find(encode(rng.integers(0, 256, (size, size, 3), np.uint8))).faces == []


def test_boxes_are_inside_the_photo_and_faces_come_largest_first(networks: Networks) -> None:
    photo = astronaut()
    row = np.concatenate([_on_canvas(_scaled(photo, 0.5), 256, 512), photo[:, 150:]], axis=1)

    found = networks.find(encode(row))

    areas = [item.face.area for item in found.faces]
    assert len(areas) == 2
    assert areas == sorted(areas, reverse=True)
    for item in found.faces:
        x1, y1, x2, y2 = item.face.bbox
        assert 0 <= x1 < x2 <= found.width
        assert 0 <= y1 < y2 <= found.height


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_any_exif_orientation_gives_the_upright_face(networks: Networks, form: str, orientation: int) -> None:
    upright = _on_canvas(astronaut()[:, 60:420], 400, 512)
    reference = networks.find(encode(upright)).faces[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(_stored(upright, orientation)).save(buffer, form, exif=exif, quality=95)

    found = networks.find(buffer.getvalue())

    assert (found.width, found.height) == (400, 512)
    (face,) = found.faces
    # Compression moves a landmark by a fraction of a pixel; an orientation left out would move it by hundreds.
    np.testing.assert_allclose(face.face.bbox, reference.face.bbox, atol=6)
    np.testing.assert_allclose(face.face.kps, reference.face.kps, atol=3)
    vectors = networks.embedder.embed([face.crop, reference.crop])
    assert vectors[0] @ vectors[1] >= 0.99


def _stored(upright: Photo, orientation: int) -> Photo:
    """How a camera stores an upright picture under an orientation (TIFF 6.0: where row 0 and column 0 are)."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


def test_a_crop_embedded_alone_and_in_a_batch_gives_one_vector(networks: Networks) -> None:
    crop = networks.find(encode(astronaut())).faces[0].crop
    other = np.ascontiguousarray(crop[:, ::-1])

    together = networks.embedder.embed([other, crop, other])

    np.testing.assert_allclose(together[1], networks.embedder.embed([crop])[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_all_pairs_of_ordinary_photos_are_decided_rightly(networks: Networks) -> None:
    files = sorted(shared("photos/people").glob("*/*"))
    vectors = np.stack([networks.vector(file.read_bytes()) for file in files])
    assert networks.calibration is not None
    threshold = networks.calibration.threshold_at(1e-3).value

    wrong = [
        (a.name, b.name)
        for i, a in enumerate(files)
        for j, b in enumerate(files[:i])
        if (vectors[i] @ vectors[j] >= threshold) != (a.parent == b.parent)
    ]

    assert len(files) == 13
    assert wrong == []


def test_both_people_are_found_in_photos_of_two(networks: Networks) -> None:
    people = shared("photos/people")
    expected = {
        "kit_with_rose.jpg": {"kit_harington", "rose_leslie"},
        "obama_and_biden.jpg": {"obama", "biden"},
        "two_people.jpg": {"obama", "biden"},
    }
    assert networks.calibration is not None
    threshold = networks.calibration.threshold_at(1e-3).value
    known = {file.parent.name: networks.vector(file.read_bytes()) for file in sorted(people.glob("*/1.*"))}

    for name, both in expected.items():
        found = networks.find((shared("photos/groups") / name).read_bytes())
        vectors = networks.embedder.embed([item.crop for item in found.faces])
        named = {who for who, reference in known.items() if (vectors @ reference).max() >= threshold}

        assert named == both, name


def test_hard_photos_are_handled_as_a_person_would_expect(networks: Networks) -> None:
    """A PNG with alpha is its photo; a face cut in half by the edge is found, and is still who it is."""
    assert networks.calibration is not None
    threshold = networks.calibration.threshold_at(1e-3).value
    obama = networks.vector((shared("photos/people/obama") / "1.jpg").read_bytes())

    for name in ("32bit.png", "obama_partial_face.jpg", "obama_partial_face2.jpg"):
        data = (shared("photos/hard") / name).read_bytes()
        assert decode(data).shape[2] == 3
        (face,) = networks.find(data).faces
        assert networks.embedder.embed([face.crop])[0] @ obama >= threshold, name


def _enlarged(factor: float) -> Photo:
    return _scaled(astronaut(), factor)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_coordinates_are_of_the_whole_photo_where_a_part_of_its_pixels_was_decoded(
    networks: Networks, orientation: int
) -> None:
    upright = _on_canvas(_enlarged(4)[:, :1999], 1999, 2047)  # no multiple of anything
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(_stored(upright, orientation)).save(buffer, "JPEG", exif=exif, quality=95)
    assert not decode_reduced(buffer.getvalue(), 640).is_whole
    whole = networks.find(encode(upright, compress_level=1)).faces[0]  # of a PNG all pixels are decoded

    found = networks.find(buffer.getvalue())

    assert (found.width, found.height) == (1999, 2047)
    (face,) = found.faces
    np.testing.assert_allclose(face.face.bbox, whole.face.bbox, atol=24)
    np.testing.assert_allclose(face.face.kps, whole.face.kps, atol=6)  # the eyes are 190 pixels apart
    vectors = networks.embedder.embed([face.crop, whole.crop])
    assert vectors[0] @ vectors[1] >= 0.98
    assert face.face.quality == pytest.approx(whole.face.quality, abs=0.05)


def test_small_faces_of_a_large_jpeg_are_cut_out_of_all_its_pixels(networks: Networks) -> None:
    photo = _on_canvas(astronaut(), 2400, 1800)
    data = encode(photo, "JPEG", quality=98)
    assert not decode_reduced(data, 640).is_whole

    (face,) = networks.find(data).faces

    image = decode(data)
    (landmarks,) = networks.detector.detect(image).landmarks.astype(np.float64)
    np.testing.assert_array_equal(face.crop, align(image, landmarks, networks.embedder.template))


def test_decisions_are_the_same_on_all_pixels_of_a_photo_and_on_some(networks: Networks) -> None:
    """Every photo enlarged so far that it is decoded at a fraction of its size, against itself as it is."""
    assert networks.calibration is not None
    threshold = networks.calibration.threshold_at(1e-3).value
    files = sorted(shared("photos/people").glob("*/*"))
    plain, reduced = [], []
    for file in files:
        image = decode(file.read_bytes())
        large = encode(_scaled(image, 1.01 * 2560 / max(image.shape)), "JPEG", quality=95)
        assert decode_reduced(large, 640).pixels.shape[0] < image.shape[0] * 2
        plain.append(networks.vector(file.read_bytes()))
        reduced.append(networks.vector(large))
    same = np.array([[a.parent == b.parent for b in files] for a in files])

    for first in (plain, reduced):
        assert (((np.stack(first) @ np.stack(reduced).T) >= threshold) == same).all()
