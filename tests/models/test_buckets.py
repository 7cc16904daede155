"""Which batch sizes a device is given."""

import pytest

from models.buckets import batch_limit, bucket, warm_batches


@pytest.mark.parametrize(("device", "limit"), [("cpu", 8), ("openvino", 8), ("cuda", 64), ("tensorrt", 64)])
def test_on_a_processor_a_batch_has_at_most_eight(device: str, limit: int) -> None:
    assert batch_limit(device, 64) == limit
    assert batch_limit(device, 3) == 3


def test_a_device_that_compiles_by_shape_is_given_powers_of_two_and_the_limit() -> None:
    assert [bucket("cuda", size, 12) for size in range(1, 13)] == [1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12]
    assert warm_batches("cuda", 12) == [1, 2, 4, 8, 12]


def test_a_processor_is_given_what_there_is() -> None:
    assert [bucket("cpu", size, 8) for size in range(1, 9)] == list(range(1, 9))
    assert warm_batches("cpu", 8) == [1]
    assert warm_batches("openvino", 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 33])
def test_every_size_that_can_occur_was_warmed(limit: int) -> None:
    for device in ("cuda", "tensorrt", "openvino"):
        assert {bucket(device, size, limit) for size in range(1, limit + 1)} <= set(warm_batches(device, limit))
