"""Photos that are one photo: the same bytes, or nearly the same picture by embedding and by perceptual hash."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from training.data.aligned import Crops

Rows = NDArray[np.int64]
Bits = NDArray[np.uint64]
_BLOCK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Alike:
    """Pairs of rows (P, 2), first < second, their cosine (P,), and whether they are the same to the byte (P,)."""

    pairs: Rows
    cosine: NDArray[np.float32]
    exact: NDArray[np.bool_]


def perceptual_hashes(crops: Crops) -> Bits:
    """dHash, 64 bits a crop (N,): whether each cell of a 9 x 8 grid is brighter than its neighbour on the left."""
    return np.array([_hash(np.asarray(crop)) for crop in crops], np.uint64)


def alike(vectors: Vectors, bits: Bits, same_bytes: Sequence[Sequence[bytes]], near: float, hash_bits: int) -> Alike:
    """All pairs of a set that are duplicates.

    An embedding alone takes two photos of one moment for one; the hash alone takes any two dark crops for one.

    Args:
        vectors: unit rows (N, D).
        bits: perceptual hashes (N,).
        same_bytes: digests by which two photos are the same for certain, N of each kind.
        near: least cosine.
        hash_bits: most bits that differ.
    """
    found = {pair: True for digests in same_bytes for pair in _equal(digests)}
    for i, j in _near(vectors, bits, vectors, bits, near, hash_bits):
        if i < j:
            found.setdefault((i, j), False)
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    cosine = np.einsum("nd,nd->n", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    return Alike(pairs, cosine, np.array([found[(i, j)] for i, j in pairs.tolist()], np.bool_))


def across(a: tuple[Vectors, Bits], b: tuple[Vectors, Bits], near: float, hash_bits: int) -> Rows:
    """Rows of `a` that are near duplicates of any of `b`, sorted."""
    return np.array(sorted({i for i, _ in _near(*a, *b, near, hash_bits)}), np.int64)


def groups(pairs: Rows) -> list[list[int]]:
    """Rows that hang together through pairs, each group sorted, the groups by their first row."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            row = parent[row]
        return row

    for i, j in pairs.tolist():
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    found: dict[int, list[int]] = {}
    for row in sorted(parent):
        found.setdefault(root(row), []).append(row)
    return [found[first] for first in sorted(found)]


def _hash(crop: NDArray[np.uint8]) -> int:
    gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) if crop.shape[2] == 3 else crop[..., 0]
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _equal(digests: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Each row with the first of its digest: enough to hang a group together."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        if digest and first.setdefault(digest, row) != row:
            yield first[digest], row


def _near(
    left: Vectors, left_bits: Bits, right: Vectors, right_bits: Bits, near: float, hash_bits: int
) -> Iterator[tuple[int, int]]:
    for start in range(0, len(left), _BLOCK):
        rows, others = np.nonzero(left[start : start + _BLOCK] @ right.T >= near)
        apart = np.bitwise_count(left_bits[start + rows] ^ right_bits[others])
        kept = apart <= hash_bits
        yield from zip((start + rows[kept]).tolist(), others[kept].tolist(), strict=True)
