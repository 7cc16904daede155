"""Vectors as 512 bits: on which side of 512 planes through the origin they lie.

The bits in which two vectors differ tell the angle between them: a bit differs with probability angle / pi. That is
little to go by for one pair, and enough to find a handful of candidates among a million in two milliseconds.
"""

from functools import lru_cache

import faiss
import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from service.gallery.blocks import Ids
from service.threads import hold_openmp

BITS = 512
BYTES = BITS // 8
Sketches = NDArray[np.uint8]  # (N, BYTES)


def sketched(vectors: Vectors) -> Sketches:
    """The bits of vectors (N, D); of sums of unit vectors as well, as length does not matter."""
    return np.packbits(vectors @ _planes(vectors.shape[1]) > 0, axis=1)


def nearest_sketches(of: Sketches, among: Sketches, count: int) -> tuple[Ids, Ids]:
    """Of each (Q,), in how many bits the nearest among others (N,) differ, and their places; (Q, count) each."""
    hold_openmp()
    differ, places = faiss.knn_hamming(of, among, min(count, len(among)), variant="mc")
    return differ.astype(np.int64), places


@lru_cache
def _planes(dimension: int) -> Vectors:
    """Normals (D, BITS), as many as can be at right angles to one another: so they tell more. The same at any time."""
    rng = np.random.default_rng(dimension)
    at_once = min(dimension, BITS)
    parts = [np.linalg.qr(rng.normal(size=(dimension, at_once)))[0] for _ in range(-(-BITS // at_once))]
    return np.concatenate(parts, axis=1)[:, :BITS].astype(np.float32)
