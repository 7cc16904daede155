"""Sizes of batches and of photos: the most that is worth while on a device, and those that it runs."""

# Beyond this a processor gains nothing, and those at the front of the batch wait for those at its end.
MOST_ON_A_PROCESSOR = 8
# These plan or compile for each new shape, for up to minutes: they are fed a few, filled up with zeros.
_COMPILED_BY_SHAPE = frozenset(("cuda", "tensorrt"))
_PROCESSORS = frozenset(("cpu", "openvino"))
# From one size to the next: each has a session with the weights, which takes half a second to plan, and under load
# batches are of the limit anyway.
_STEP = 4


def batch_limit(device: str, asked: int) -> int:
    """The most items of one run."""
    return min(asked, MOST_ON_A_PROCESSOR) if device in _PROCESSORS else asked


def bucket(device: str, size: int, limit: int) -> int:
    """The size of the batch in which `size` items are run: the next power of four, or the limit if that is less."""
    if device not in _COMPILED_BY_SHAPE or size >= limit:
        return size
    power = 1
    while power < size:
        power *= _STEP
    return min(power, limit)


def warm_batches(device: str, limit: int) -> list[int]:
    """The sizes that are run once at start, so that no caller is the first."""
    if device == "cpu":  # the same code for all sizes
        return [1]
    return sorted({bucket(device, size, limit) for size in range(1, limit + 1)})


def frame(device: str, height: int, width: int, multiples: tuple[int, int], sides: tuple[int, ...]) -> tuple[int, int]:
    """The height and width to which a photo is filled up.

    Args:
        device: where it is looked at.
        height: of the photo, in pixels.
        width: of the photo.
        multiples: what the network takes: multiples of this height and width.
        sides: of the squares that a device is fed which compiles by shape, ascending; larger photos are filled up to
            multiples there too.
    """
    if device in _COMPILED_BY_SHAPE:
        for side in sides:
            if max(height, width) <= side:
                return side, side
    return -(-height // multiples[0]) * multiples[0], -(-width // multiples[1]) * multiples[1]
