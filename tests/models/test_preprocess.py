"""Crops to network input, and vectors to unit length."""

import numpy as np
import pytest

from models.bundle import InputSpec
from models.image import Pixels
from models.preprocess import l2_normalize, to_input


def _crops(count: int, height: int = 20, width: int = 18) -> list[Pixels]:
    return list(np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def _oracle(crops: list[Pixels], spec: InputSpec) -> np.ndarray:
    """The same pixel by pixel, in float64."""
    order = (0, 1, 2) if spec.channels == "rgb" else (2, 1, 0)
    result = np.empty((len(crops), 3, spec.height, spec.width))
    for n, crop in enumerate(crops):
        for fed, channel in enumerate(order):
            result[n, fed] = (crop[:, :, channel].astype(np.float64) - spec.mean[fed]) / spec.std[fed]
    return result


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (127.5, 127.5, 127.5), (1.0, 20.0, 300.0)])
@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0), (128.0, 128.0, 128.0), (1.0, 2.0, 55.5)])
@pytest.mark.parametrize("count", [1, 5])
def test_input_is_what_the_manifest_says(
    channels: str, mean: tuple[float, ...], std: tuple[float, ...], count: int
) -> None:
    spec = InputSpec.model_validate({"width": 18, "height": 20, "channels": channels, "mean": mean, "std": std})
    crops = _crops(count)
    batch = to_input(crops, spec)
    np.testing.assert_allclose(batch, _oracle(crops, spec), rtol=1e-6, atol=1e-6)
    assert batch.dtype == np.float32
    assert batch.shape == (count, 3, 20, 18)
    assert batch.flags.c_contiguous


def test_mean_and_std_belong_to_the_channel_in_the_order_it_is_fed() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    spec = InputSpec(width=16, height=16, channels="bgr", mean=(0, 0, 100), std=(1, 1, 50))
    assert to_input([red], spec)[0, :, 0, 0].tolist() == [0.0, 0.0, 2.0]


def test_the_crops_are_left_as_they_are() -> None:
    crops = _crops(2)
    before = [crop.copy() for crop in crops]
    to_input(crops, InputSpec(width=18, height=20, channels="rgb", mean=(9, 9, 9), std=(2, 2, 2)))
    np.testing.assert_array_equal(crops, before)


@pytest.mark.parametrize(
    "crops",
    [
        [],
        [np.zeros((18, 20, 3), np.uint8)],
        [np.zeros((20, 18), np.uint8)],
        [np.zeros((20, 18, 4), np.uint8)],
        [np.zeros((20, 18, 3), np.uint8), np.zeros((20, 19, 3), np.uint8)],
    ],
    ids=["none", "sides swapped", "no channels", "alpha", "one of two"],
)
def test_crops_of_another_size_are_refused(crops: list[Pixels]) -> None:
    with pytest.raises(ValueError, match="crops must be"):
        to_input(crops, InputSpec(width=18, height=20, channels="rgb"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_get_unit_length_and_keep_their_direction(dtype: type) -> None:
    vectors = np.random.default_rng(4).normal(size=(50, 128)).astype(dtype)
    result = l2_normalize(vectors)
    wide = vectors.astype(np.float64)
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(result.astype(np.float64), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(result, wide / np.sqrt((wide**2).sum(axis=1, keepdims=True)), atol=1e-7)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e18])
def test_length_does_not_change_the_direction(size: float) -> None:
    vectors = np.random.default_rng(5).normal(size=(3, 16))
    np.testing.assert_allclose(l2_normalize(vectors * size), l2_normalize(vectors), atol=1e-7)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_a_row_without_a_direction_is_refused(value: float) -> None:
    vectors = np.random.default_rng(6).normal(size=(3, 8))
    vectors[1] = value
    with pytest.raises(ValueError, match="zero or not finite"):
        l2_normalize(vectors)


def test_one_value_that_is_not_finite_spoils_its_row() -> None:
    vectors = np.ones((2, 8), np.float32)
    vectors[0, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        l2_normalize(vectors)


def test_no_rows_are_no_error() -> None:
    assert l2_normalize(np.empty((0, 128), np.float32)).shape == (0, 128)
