"""Vectors in eight bits a value, and how far a score by them can be from the true one.

A vector x is kept as a scale s and integers c, with s·c near x; what is lost, |x - s·c|, is known, and so it is for a
probe q. From (x·q) - (s·c)·(s'·c') = (x - s·c)·q + (s·c)·(q - s'·c') it follows by Cauchy-Schwarz that a score out of
the integers is off by no more than

    |x - s·c| |q|  +  |s·c| |q - s'·c'|

which is about 0.02 for unit vectors of a network. Whoever may be among the nearest within that is compared exactly.
"""

from dataclasses import dataclass
from typing import Any

import numkong
import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors

Codes = NDArray[np.int8]
_MOST = 127
_AT_ONCE = 2**20  # bytes that are quantised at a time, so that they stay near the core
_LONG = 256  # values
_NEAR = 2**19  # bytes of codes that stay near the core
_LINE = 64  # bytes that memory is read by
ROUNDING = 1e-5  # of sums in float32, to the lengths of both vectors


@dataclass(frozen=True, slots=True)
class Quantised:
    """N vectors: codes (N, D), scales (N,), what is lost of each (N,) and the length of what is kept (N,)."""

    codes: Codes
    scales: NDArray[np.float32]
    lost: NDArray[np.float32]
    length: NDArray[np.float32]


def quantised(vectors: Vectors) -> Quantised:
    """Vectors (N, D) in eight bits."""
    count, dimension = vectors.shape
    made = Quantised(
        np.empty((count, dimension), np.int8), *(np.empty(count, np.float32) for _ in ("scales", "lost", "length"))
    )
    step = max(1, _AT_ONCE // (4 * dimension))
    for first in range(0, count, step):
        part = slice(first, first + step)
        _quantise(vectors[part], made, part)
    return made


def _quantise(vectors: Vectors, made: Quantised, part: slice) -> None:
    scales = np.maximum(np.abs(vectors).max(axis=1) / _MOST, np.float32(1e-30))
    kept = np.rint(vectors / scales[:, None])
    made.codes[part] = kept
    made.scales[part] = scales
    kept *= scales[:, None]
    made.length[part] = np.sqrt(np.einsum("nd,nd->n", kept, kept))
    kept -= vectors
    made.lost[part] = np.sqrt(np.einsum("nd,nd->n", kept, kept))


class Probes:
    """Vectors (Q, D) that are looked for, and their codes."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        made = quantised(self.vectors)
        self._scales, self._lost = made.scales, made.lost
        self._lengths = np.sqrt(np.einsum("nd,nd->n", self.vectors, self.vectors))
        self._codes = made.codes
        # One long probe is compared as fast as memory is read; the kernel for several is faster for short ones too.
        one = len(vectors) == 1 and vectors.shape[1] > _LONG
        self._packed = None if one else numkong.dots_pack(made.codes, "int8")

    def __len__(self) -> int:
        return len(self.vectors)

    def scores(self, codes: Codes, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (Q, N) of vectors by their codes (N, D) and scales (N,), without the interpreter's lock."""
        scores = np.empty((len(self), len(codes)), np.float32)
        step = max(1, _NEAR // codes.shape[1])
        for first in range(0, len(codes), len(codes) if self._packed is None else step):
            part = slice(first, first + step) if self._packed is not None else slice(None)
            np.multiply(self._dots(codes[part]), scales[part], scores[:, part], dtype=np.float32, casting="unsafe")
        scores *= self._scales[:, None]
        return scores

    def _dots(self, codes: Codes) -> NDArray[Any]:
        """Products (Q, N) of integers; exact in float32 for up to a thousand values, and off by ROUNDING for more."""
        if self._packed is None:
            return np.asarray(numkong.cdist(codes, self._codes, "dot", out_dtype="float32"), np.float32).reshape(1, -1)
        if codes.shape[1] > _LONG:
            # The kernel reads many rows at once, which is slow from memory: a pass over its lines brings them near.
            np.maximum.reduce(codes.reshape(-1)[::_LINE])
        return np.asarray(numkong.dots_packed(codes, self._packed)).T

    def margins(self, lost: float, length: float) -> NDArray[np.float32]:
        """How far the scores of each probe (Q,) may be off, of vectors that lost and kept no more."""
        margins: NDArray[np.float32] = (lost + ROUNDING * (length + lost)) * self._lengths + length * self._lost
        return margins
