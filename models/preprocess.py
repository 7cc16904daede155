"""Crops to model input, and vectors to unit length."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.bundle import InputSpec
from models.image import Pixels

Vectors = NDArray[np.float32]


def to_input(crops: Sequence[Pixels], spec: InputSpec) -> Vectors:
    """Crops to one batch in the order, scale and layout that the network was trained on.

    Args:
        crops: N uint8 RGB arrays (spec.height, spec.width, 3).
        spec: channel order, mean and standard deviation; both are in the order in which channels are fed.

    Returns:
        float32 (N, 3, height, width), C-contiguous: (x - mean) / std.

    Raises:
        ValueError: no crops, or one of another size.
    """
    shape = (spec.height, spec.width, 3)
    if not crops or any(crop.shape != shape for crop in crops):
        raise ValueError(f"crops must be {shape}, got {[crop.shape for crop in crops]}")
    batch = np.stack(crops)
    if spec.channels == "bgr":
        batch = batch[..., ::-1]
    planar = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32)
    if any(spec.mean):
        planar -= np.asarray(spec.mean, np.float32)[:, None, None]
    if any(value != 1 for value in spec.std):
        planar /= np.asarray(spec.std, np.float32)[:, None, None]
    return planar


def l2_normalize(vectors: NDArray[np.floating]) -> Vectors:
    """Scale each row to unit L2 norm.

    Args:
        vectors: (N, D), any float type.

    Returns:
        float32 (N, D).

    Raises:
        ValueError: a row that is zero or not finite: it has no direction, and so no angle to anything.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    with np.errstate(over="ignore"):  # a norm that overflows is told below
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms < 1e-12).any():
        raise ValueError("a vector is zero or not finite")
    unit: Vectors = (wide / norms).astype(np.float32)
    return unit
