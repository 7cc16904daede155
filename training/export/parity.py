"""The exported file against the network it was exported from: the same vectors, the same decisions."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from models.bundle import InputSpec, Manifest
from models.image import Pixels
from models.preprocess import Vectors, l2_normalize, to_input
from service.inference.embedder import Embedder
from training.export.errors import ExportError
from training.export.measure import Labels, accepted_at, scores_of

MIN_COSINE = 0.9999
BATCHES = (1, 2, 7)  # a batch axis that was traced as a constant shows in one of them
_AT_ONCE = 64


def torch_vectors(module: nn.Module, manifest: Manifest, crops: Sequence[Pixels]) -> Vectors:
    """What `Embedder.embed` must give, computed by torch: unit vectors (N, D); `mirror` is heeded."""
    return network_vectors(module, manifest.input, manifest.mirror, crops)


def network_vectors(module: nn.Module, spec: InputSpec, mirror: bool, crops: Sequence[Pixels]) -> Vectors:
    """The same of a network that is no bundle yet."""
    parts = []
    with torch.no_grad():
        for start in _starts(crops, "torch"):
            batch = torch.from_numpy(to_input(crops[start : start + _AT_ONCE], spec))
            raw = module(batch)
            parts.append(raw + module(batch.flip(3)) if mirror else raw)
    return l2_normalize(torch.cat(parts).numpy())


def embed_all(embedder: Embedder, crops: Sequence[Pixels]) -> Vectors:
    """Unit vectors (N, D) of many crops."""
    return np.concatenate(
        [embedder.embed(crops[start : start + _AT_ONCE]) for start in _starts(crops, embedder.manifest.id)]
    )


def _starts(crops: Sequence[Pixels], name: str) -> Iterator[int]:
    """Where each batch begins; with a bar on a terminal if there are several."""
    starts = range(0, len(crops), _AT_ONCE)
    shown = len(starts) > 1 and sys.stderr.isatty()
    return iter(tqdm(starts, desc=f"{name}: embedding", leave=False, disable=not shown))


def check_vectors(module: nn.Module, embedder: Embedder, crops: Sequence[Pixels]) -> float:
    """Compare vectors in batches of 1, 2 and 7; with fewer crops than that, some are taken twice.

    Args:
        module: the network, in evaluation mode, on the CPU.
        embedder: of the exported file.
        crops: at least one.

    Returns:
        The lowest cosine.

    Raises:
        ExportError: a cosine under 0.9999, with the batch it was found in; or a network that gives no vectors.
    """
    return min(_cosine(module, embedder, [crops[i % len(crops)] for i in range(size)]) for size in BATCHES)


def _cosine(module: nn.Module, embedder: Embedder, crops: Sequence[Pixels]) -> float:
    try:
        ours, theirs = torch_vectors(module, embedder.manifest, crops), embedder.embed(crops)
    except Exception as error:  # the runtime raises a family of its own
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"a batch of {len(crops)} cannot be embedded: {reason}") from error
    lowest = float((ours * theirs).sum(axis=1).min())
    if not lowest >= MIN_COSINE:
        raise ExportError(f"in a batch of {len(crops)} the exported file has a cosine of only {lowest:.6f} to torch")
    return lowest


def check_rates(ours: Vectors, theirs: Vectors, labels: Labels) -> dict[float, tuple[int, int]]:
    """Genuine pairs that torch and the exported file accept, each at its own threshold for a false-match rate.

    The rule: the two numbers are the same, or one pair apart. Each side rounds differently in the seventh digit, which
    can carry the pair nearest to the threshold across it, but not two.

    Args:
        ours, theirs: unit vectors (N, D) of torch and of the exported file.
        labels: the person on each crop, (N,).

    Returns:
        For each rate that the pairs can state, how many each accepts.

    Raises:
        ExportError: they are further apart.
        DataError: too few pairs.
    """
    first, second = scores_of(ours, labels), scores_of(theirs, labels)
    counts = {rate: (accepted_at(first, rate), accepted_at(second, rate)) for rate in first.rates}
    for rate, (a, b) in counts.items():
        if abs(a - b) > 1:
            raise ExportError(
                f"at FMR {rate:g} torch accepts {a} of {len(first.genuine)} genuine pairs, the exported file {b}"
            )
    return counts


def noise_crops(spec: InputSpec, count: int = 7, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Crops to compare on where no real ones are given: soft random blots, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, -(-spec.height // 8), -(-spec.width // 8), 3), np.uint8)
    fine = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, : spec.height, : spec.width]
    return list(np.clip(fine + rng.normal(0, 8, fine.shape), 0, 255).astype(np.uint8))
