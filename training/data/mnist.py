"""MNIST's IDX files (LeCun et al.), plain or gzipped, as a set of ten "people"."""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.aligned import AlignedSet
from training.data.people import DataError

_PARTS = {"train": "train", "test": "t10k"}


def is_mnist(folder: Path) -> bool:
    """Whether a folder holds MNIST's files."""
    return any(folder.glob("train-images*idx3-ubyte*"))


def read_mnist(folder: Path, part: Literal["train", "test"]) -> AlignedSet:
    """60,000 training or 10,000 test digits: crops (N, 28, 28, 1), labels 0..9.

    Raises:
        DataError: a file is missing, cut off, or not an IDX file.
    """
    images = _idx(_find(folder, f"{_PARTS[part]}-images*idx3-ubyte*"), 3)
    labels = _idx(_find(folder, f"{_PARTS[part]}-labels*idx1-ubyte*"), 1)
    if len(images) != len(labels):
        raise DataError(f"{folder} has {len(images)} {part} images and {len(labels)} labels")
    if labels.max(initial=0) > 9:
        raise DataError(f"{folder}: label {labels.max()} is no digit")
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    return AlignedSet(
        crops=images[..., None],
        labels=labels.astype(np.int32),
        people=tuple("0123456789"),
        photos=tuple(f"{part}/{number:05d}" for number in range(len(labels))),
        template=None,
        digest=digest,
        source=str(folder),
    )


def _find(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DataError(f"{folder} has no file {pattern}")
    return found[0]


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Magic 0, 0, 8 (unsigned bytes), number of dimensions; sizes as big-endian 32-bit numbers; then the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path} is no IDX file of {dimensions} dimension(s)")
    shape = np.frombuffer(data, ">u4", dimensions, 4).astype(int).tolist()
    if len(data) - header != int(np.prod(shape)):
        raise DataError(f"{path} says {shape} and holds {len(data) - header} values; it is damaged or cut off")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
