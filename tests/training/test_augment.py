"""Augmentation: what is asked for happens, nothing else, and always the same for the same photo and epoch."""

import numpy as np
import pytest
from photos import astronaut

from training.config import Augment
from training.data.augment import augment, resize
from training.data.loader import view

NONE = Augment(flip=0)
EVERYTHING = Augment(
    flip=0.5,
    rotate=8,
    scale=0.1,
    shift=0.05,
    brightness=0.2,
    contrast=0.3,
    colour=0.1,
    gray=0.5,
    blur=0.5,
    jpeg=0.5,
    low_resolution=0.5,
    occlude=0.5,
)


def _face(size: int = 112, channels: int = 3) -> np.ndarray:
    crop = resize(np.ascontiguousarray(astronaut()[0:224, 112:336]), (size, size))
    return crop if channels == 3 else np.ascontiguousarray(crop[..., :1])


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_asked_for_changes_nothing() -> None:
    np.testing.assert_array_equal(augment(_face(), (112, 112), NONE, _rng()), _face())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(112, 96), (112, 112), (48, 48), (160, 160)])
def test_every_augmentation_keeps_form_and_type(size: tuple[int, int], channels: int) -> None:
    for seed in range(20):
        result = augment(_face(channels=channels), size, EVERYTHING, _rng(seed))
        assert result.shape == (*size, channels)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous


def test_a_flip_is_the_mirror_image() -> None:
    np.testing.assert_array_equal(augment(_face(), (112, 112), Augment(flip=1), _rng()), _face()[:, ::-1])


def test_geometry_keeps_the_middle_of_the_face_in_the_middle() -> None:
    dot = np.zeros((111, 111, 3), np.uint8)
    dot[54:57, 54:57] = 255
    for size in (111, 55, 222):
        result = augment(dot, (size, size), Augment(flip=0, rotate=20, scale=0.1), _rng(3)).astype(float)
        rows, columns = np.nonzero(result[..., 0] > result.max() / 2)
        assert abs(rows.mean() - (size - 1) / 2) <= 1
        assert abs(columns.mean() - (size - 1) / 2) <= 1


@pytest.mark.parametrize(
    "one",
    [
        "rotate",
        "scale",
        "shift",
        "brightness",
        "contrast",
        "colour",
        "gray",
        "blur",
        "jpeg",
        "low_resolution",
        "occlude",
    ],
)
def test_each_setting_does_something(one: str) -> None:
    result = augment(_face(), (112, 112), Augment.model_validate({"flip": 0, one: 0.9}), _rng(1))

    assert np.abs(result.astype(int) - _face()).mean() > 0.1


def test_a_gray_photo_has_equal_channels() -> None:
    result = augment(_face(), (112, 112), Augment(flip=0, gray=1), _rng())

    assert (result[..., 0] == result[..., 1]).all()
    assert (result[..., 0] == result[..., 2]).all()


def test_the_source_is_left_as_it_is() -> None:
    face = _face()
    augment(face, (112, 112), EVERYTHING, _rng(2))

    np.testing.assert_array_equal(face, _face())


def test_a_view_depends_on_photo_epoch_and_seed_only() -> None:
    face = _face()

    def look(seed: int, index: int, epoch: int) -> bytes:
        return view(face, (64, 64), EVERYTHING, seed, index, epoch).tobytes()

    assert look(1, 2, 3) == look(1, 2, 3)
    assert len({look(1, 2, 3), look(2, 2, 3), look(1, 3, 3), look(1, 2, 4)}) == 4
