"""A network is run before anybody asks it: so that no caller is the first, and to learn whether batches pay."""

import time
from collections.abc import Callable

from models.buckets import warm_batches

# A batch makes those in it wait for each other, and keeps one core busy where others may be free.
_PAYS = 0.95
_NEAR = 1.15  # the first run of a size also asks for its memory: where that may be why, it is run again


def warm_up(
    run: Callable[[int], object], device: str, limit: int, clock: Callable[[], float] = time.perf_counter
) -> int:
    """Run a network in its usual sizes.

    Plain kernels on a processor cost as much a crop in a batch as alone, or more where eight crops leave its cache
    (benchmarks/embedders.py). What is compiled for a processor, and any accelerator, gains.

    Args:
        run: runs a batch of some size.
        device: where it runs.
        limit: the most that is run at once.
        clock: seconds.

    Returns:
        The most that is worth running at once: `limit`, or 1 on a processor that gains nothing.
    """
    for size in warm_batches(device, limit):
        run(size)
    if limit == 1 or device not in ("cpu", "openvino"):
        return limit

    def seconds(size: int) -> float:
        began = clock()
        run(size)
        return (clock() - began) / size

    alone = min(seconds(1), seconds(1))
    together = seconds(limit)
    if _PAYS * alone < together < _NEAR * alone:
        together = min(together, seconds(limit))
    return limit if together <= _PAYS * alone else 1
