"""Faces to enrol that no network made, and what the files of a gallery contain."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.preprocess import l2_normalize
from service.domain import CollectionSettings, ModelInfo, NewFace

DIMENSION = 16
MODEL = ModelInfo("test-model", "0123456789abcdef", DIMENSION)
SETTINGS = CollectionSettings("door of the laboratory")


def units(seed: int, count: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Random unit vectors (count, dimension)."""
    return l2_normalize(np.random.default_rng(seed).normal(size=(count, dimension)))


def near(vector: NDArray[np.float32], seed: int, distance: float = 0.1) -> NDArray[np.float32]:
    """A unit vector close to another."""
    noise = np.random.default_rng((seed, 1)).normal(size=vector.shape) / np.sqrt(len(vector))
    return l2_normalize((vector + distance * noise)[None])[0]


def new_face(
    vector: NDArray[np.float32], quality: float | None = 0.5, consent: str | None = None, crop: bytes | None = None
) -> NewFace:
    """A face with this embedding."""
    return NewFace(vector, quality, consent, crop)


def new_faces(vectors: Sequence[NDArray[np.float32]]) -> list[NewFace]:
    """Faces with these embeddings."""
    return [new_face(vector) for vector in vectors]


def files_with(folder: Path, needle: bytes) -> list[str]:
    """Names of the files in a folder that contain these bytes, side files of SQLite included."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes())
