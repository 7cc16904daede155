"""Made up people with several noisy faces each, and searches by many threads at once."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.preprocess import Vectors, l2_normalize

_FACES = 10  # of a person
_NOISE = 0.9045  # two faces of a person then have a cosine of 0.55
_CHUNK = 50_000
_AT_ONCE = 64
_NEAREST = 10


class People:
    """Vectors in blocks, the same ones each time, so that there is never a second copy of all."""

    def __init__(self, faces: int, dimension: int) -> None:
        self.faces, self.dimension = faces, dimension
        rng = np.random.default_rng(0)
        self._centres = l2_normalize(rng.normal(size=(-(-faces // _FACES), dimension)).astype(np.float32))
        self.seconds = 0.0  # that making them took

    def chunks(self) -> Any:
        """First row and vectors of each block."""
        for first in range(0, self.faces, _CHUNK):
            began = time.perf_counter()
            of = np.arange(first, min(first + _CHUNK, self.faces)) // _FACES
            vectors = self._noisy(of, np.random.default_rng([1, first]))
            self.seconds += time.perf_counter() - began
            yield first, vectors

    def add_to(self, add: Callable[[Sequence[int], Vectors], object]) -> None:
        """Add all."""
        for first, vectors in self.chunks():
            add(range(first, first + len(vectors)), vectors)

    def probes(self, count: int) -> Vectors:
        """New faces of people who are there."""
        rng = np.random.default_rng(2)
        return self._noisy(rng.choice(len(self._centres), count), rng)

    def _noisy(self, of: Any, rng: np.random.Generator) -> Vectors:
        noise = rng.standard_normal((len(of), self.dimension), np.float32) * np.float32(
            _NOISE / np.sqrt(self.dimension)
        )
        return l2_normalize(self._centres[of] + noise)


def at_once(search: Callable[[Vectors, int], object], probes: Vectors) -> float:
    """Milliseconds a search where each of many threads asks, one after the other, without a pause."""
    each = 4
    threads = [
        threading.Thread(
            target=lambda n=n: [search(probes[(n + turn) % len(probes)], _NEAREST) for turn in range(each)]
        )
        for n in range(_AT_ONCE)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1e3 * (time.perf_counter() - began) / (_AT_ONCE * each)
