"""Sizes of batches: the most that is worth while on a device, and those that it runs."""

# Beyond this a processor gains nothing, and those at the front of the batch wait for those at its end.
MOST_ON_A_PROCESSOR = 8
# These search or compile for each new shape, for tenths of a second: they are fed a few sizes, filled up with zeros.
_COMPILED_BY_SHAPE = frozenset(("cuda", "tensorrt"))
_PROCESSORS = frozenset(("cpu", "openvino"))


def batch_limit(device: str, asked: int) -> int:
    """The most items of one run."""
    return min(asked, MOST_ON_A_PROCESSOR) if device in _PROCESSORS else asked


def bucket(device: str, size: int, limit: int) -> int:
    """The size of the batch in which `size` items are run: the next power of two, or the limit if that is less."""
    if device not in _COMPILED_BY_SHAPE or size >= limit:
        return size
    power: int = 1 << (size - 1).bit_length()
    return min(power, limit)


def warm_batches(device: str, limit: int) -> list[int]:
    """The sizes that are run once at start, so that no caller is the first."""
    if device == "cpu":  # the same code for all sizes
        return [1]
    return sorted({bucket(device, size, limit) for size in range(1, limit + 1)})
