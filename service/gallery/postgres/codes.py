"""What PostgreSQL searches by: vectors turned by a secret rotation, in half precision.

A rotation keeps every inner product, so an index over the codes finds what one over the vectors would. Each collection
has a rotation of its own, drawn from its key: a code fits neither another collection nor the network's own space. It
is no encryption. Whoever has the codes sees how alike two faces of a collection are; whoever knows the vectors of as
many of its faces as a vector has values, less some noise, can undo it (docs/security.md).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors

# Rounding moves each value of a unit vector by 2^-11 of itself at most (tiny ones by 2^-25), in the face and in the
# probe: two codes give an inner product this far from the vectors' own at most.
ERROR = 1.2e-3
MOST_DIMENSIONS = 4000  # of an HNSW index over halfvec


class Rotation:
    """An orthogonal matrix (D, D) of one collection, the same wherever its key is."""

    def __init__(self, seed: bytes, dimension: int) -> None:
        # SHAKE and Box-Muller instead of NumPy's generator, whose stream may differ between its versions.
        words = np.frombuffer(hashlib.shake_256(seed).digest(8 * dimension * dimension), "<u4").astype(np.float64)
        first, second = (words.reshape(2, dimension, dimension) + 0.5) / 2**32
        normal = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
        q, r = np.linalg.qr(normal)
        self._matrix = (q * np.sign(np.diag(r))).astype(np.float32)  # the one decomposition with a positive diagonal

    def codes(self, vectors: Vectors) -> list[str]:
        """Vectors (N, D) as literals of halfvec."""
        turned: NDArray[np.float16] = (vectors @ self._matrix.T).astype(np.float16)
        return [_literal(row) for row in turned.astype(np.float64)]


def _literal(row: NDArray[np.float64]) -> str:
    return "[" + ",".join([f"{value:.5g}" for value in row.tolist()]) + "]"  # five digits tell all halves apart
