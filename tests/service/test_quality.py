"""The quality of a face moves with what makes faces hard to recognise."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.alignment import Points, Template
from models.image import Pixels
from service.inference.quality import quality

TEMPLATE = Template("arcface", 112, 112)
GOOD = 0.9


def _landmarks(scale: float = 2.0) -> Points:
    """A symmetric face, the eyes 35 * `scale` pixels apart, the nose halfway between eyes and mouth."""
    return scale * np.array([[0, 0], [35, 0], [17.5, 20], [4, 40], [31, 40]], dtype=np.float64) + 50


def _crop() -> Pixels:
    """Texture with contrast and edges, nothing clipped."""
    noise = np.random.default_rng(0).integers(20, 236, (28, 28), np.uint8)
    return np.repeat(np.kron(noise, np.ones((4, 4), np.uint8))[..., None], 3, axis=2)


def _turned(landmarks: Points, degrees: float) -> Points:
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (landmarks - 70) @ rotation.T + 70


def _is_falling(values: list[float]) -> bool:
    return all(first > second for first, second in itertools.pairwise(values))


def test_a_large_sharp_frontal_well_lit_face_is_good() -> None:
    assert GOOD < quality(_landmarks(), _crop()) <= 1


def test_the_more_it_is_blurred_the_lower() -> None:
    blurred = [_crop(), *(cv2.GaussianBlur(_crop(), (0, 0), sigma) for sigma in (1, 2, 4, 8))]
    values = [quality(_landmarks(), crop) for crop in blurred]

    assert _is_falling(values)
    assert values[-1] < 0.5 * values[0]


def test_the_darker_the_lower() -> None:
    values = [quality(_landmarks(), (_crop() * light).astype(np.uint8)) for light in (1, 0.4, 0.2, 0.1, 0.03)]

    assert _is_falling(values)
    assert values[-1] < 0.3


def test_the_more_is_overexposed_the_lower() -> None:
    values = [
        quality(_landmarks(), np.clip(_crop().astype(int) + light, 0, 255).astype(np.uint8))
        for light in (0, 60, 120, 200)
    ]

    assert _is_falling(values)


def test_parts_that_are_burnt_out_or_black_lower_it_by_their_share() -> None:
    """Black and white instead of nearly so: the same edges and contrast, so that only clipping can tell them apart."""
    stripes = np.indices((112, 112)).sum(axis=0) // 4 % 2 == 0
    near_the_ends = np.repeat(np.where(stripes, 9, 246).astype(np.uint8)[..., None], 3, axis=2)
    clipped = near_the_ends.copy()
    clipped[:56] = np.where(clipped[:56] > 127, 249, 6)

    part = quality(_landmarks(), clipped) / quality(_landmarks(), near_the_ends)

    assert part == pytest.approx(0.5**0.25, abs=0.01)


def test_the_less_contrast_the_lower() -> None:
    values = [quality(_landmarks(), (127 + (_crop() - 127.0) * part).astype(np.uint8)) for part in (0.5, 0.2, 0.05)]

    assert _is_falling(values)


def test_the_smaller_the_face_in_the_photo_the_lower_down_from_35_pixels_between_the_eyes() -> None:
    values = [quality(_landmarks(scale), _crop()) for scale in (1, 0.7, 0.4, 0.1)]

    assert _is_falling(values)
    assert quality(_landmarks(3), _crop()) == pytest.approx(values[0])
    assert values[1] / values[0] == pytest.approx(0.7**0.25)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_further_the_head_is_turned_to_a_side_the_lower(side: int) -> None:
    values = []
    for shift in (0, 4, 9, 14, 17.5):
        landmarks = _landmarks(1)
        landmarks[2, 0] += side * shift
        values.append(quality(landmarks, _crop()))

    assert _is_falling(values)
    assert values[-1] == pytest.approx(0, abs=1e-3)  # the nose over an eye is a profile


@pytest.mark.parametrize("side", [-1, 1])
def test_the_further_the_head_is_raised_or_lowered_the_lower(side: int) -> None:
    values = []
    for shift in (0, 5, 10, 15):
        landmarks = _landmarks(1)
        landmarks[2, 1] += side * shift
        values.append(quality(landmarks, _crop()))

    assert _is_falling(values)


@pytest.mark.parametrize("degrees", [-180, -90, -33, 5, 45, 120])
def test_a_head_that_is_tilted_is_as_good(degrees: float) -> None:
    landmarks = _landmarks()
    landmarks[2] += 3  # not quite frontal, so that the pose takes part

    assert quality(_turned(landmarks, degrees), _crop()) == pytest.approx(quality(landmarks, _crop()), rel=1e-9)


def test_where_in_the_photo_the_face_lies_does_not_matter() -> None:
    assert quality(_landmarks() + 1000, _crop()) == pytest.approx(quality(_landmarks(), _crop()))


def test_the_landmarks_of_the_template_are_frontal_enough() -> None:
    assert quality(TEMPLATE.points, _crop()) > GOOD


@pytest.mark.parametrize("value", [0, 127, 255])
def test_an_empty_crop_has_no_quality(value: int) -> None:
    assert quality(_landmarks(), np.full((112, 112, 3), value, np.uint8)) == 0


@pytest.mark.parametrize(
    "landmarks",
    [np.zeros((5, 2)), np.full((5, 2), 30.0), np.array([[0, 0], [10, 0], [5, 5], [5, 0], [5, 0]], dtype=np.float64)],
)
def test_landmarks_that_are_no_face_have_no_quality(landmarks: Points) -> None:
    assert quality(landmarks, _crop()) == pytest.approx(0, abs=1e-3)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    points=st.lists(st.floats(-1e4, 1e4), min_size=10, max_size=10),
    seed=st.integers(0, 2**32 - 1),
    low=st.integers(0, 255),
)
def test_whatever_the_landmarks_and_the_crop_quality_is_between_0_and_1(
    points: list[float], seed: int, low: int
) -> None:
    crop = np.random.default_rng(seed).integers(low, 256, (112, 112, 3), np.uint8)

    value = quality(np.array(points).reshape(5, 2), crop)

    assert 0 <= value <= 1
