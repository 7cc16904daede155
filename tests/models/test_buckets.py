"""Which batch sizes a device is given."""

import pytest

from models.buckets import batch_limit, bucket, frame, warm_batches


@pytest.mark.parametrize(("device", "limit"), [("cpu", 8), ("openvino", 8), ("cuda", 64), ("tensorrt", 64)])
def test_on_a_processor_a_batch_has_at_most_eight(device: str, limit: int) -> None:
    assert batch_limit(device, 64) == limit
    assert batch_limit(device, 3) == 3


def test_a_device_that_compiles_by_shape_is_given_powers_of_four_and_the_limit() -> None:
    assert [bucket("cuda", size, 20) for size in (1, 2, 4, 5, 16, 17, 20)] == [1, 4, 4, 16, 16, 20, 20]
    assert warm_batches("cuda", 20) == [1, 4, 16, 20]
    assert [bucket("cuda", size, 3) for size in (1, 2, 3)] == [1, 3, 3]


def test_a_processor_is_given_what_there_is() -> None:
    assert [bucket("cpu", size, 8) for size in range(1, 9)] == list(range(1, 9))
    assert warm_batches("cpu", 8) == [1]
    assert warm_batches("openvino", 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 33])
def test_every_size_that_can_occur_was_warmed(limit: int) -> None:
    for device in ("cuda", "tensorrt", "openvino"):
        assert {bucket(device, size, limit) for size in range(1, limit + 1)} <= set(warm_batches(device, limit))


SIDES = (320, 640, 1920)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
@pytest.mark.parametrize(
    ("height", "width", "side"), [(1, 1, 320), (320, 7, 320), (320, 321, 640), (480, 640, 640), (1440, 1920, 1920)]
)
def test_a_device_that_compiles_by_shape_looks_at_squares(device: str, height: int, width: int, side: int) -> None:
    assert frame(device, height, width, (32, 32), SIDES) == (side, side)


def test_what_fits_no_square_is_filled_up_to_the_next_multiple() -> None:
    assert frame("cuda", 100, 1921, (32, 64), SIDES) == (128, 1984)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_processor_looks_at_as_little_as_the_network_takes(device: str) -> None:
    assert frame(device, 33, 65, (32, 64), SIDES) == (64, 128)
    assert frame(device, 32, 64, (32, 64), SIDES) == (32, 64)
