"""A metric learned on top of a network: directions in which photos of one person differ count less.

With u a network's vector scaled to unit length, the bundle gives y = (u - m) A, and cosines are taken of that. m is
the mean of u; A whitens the scatter within people and then weighs each direction by sqrt(b / (b + 1)), b the scatter
between people in units of that within: linear discriminant analysis (Fisher, 1936) with the weights of probabilistic
LDA (Ioffe, ECCV 2006; Prince and Elder, ICCV 2007), which lets a direction count by how much of it tells people
apart. It helps most where a network was trained on few photos. The dimension stays.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle import InputSpec
from models.image import Pixels
from models.preprocess import l2_normalize, to_input
from training.export.errors import ExportError
from training.export.measure import Labels

Matrix = NDArray[np.float64]
RIDGE = 1.0  # added to the scatter within people, as a share of its mean direction
_AT_ONCE = 64
_TINY = 1e-12


def fit_metric(vectors: Matrix, labels: Labels, ridge: float = RIDGE) -> tuple[Matrix, Matrix]:
    """Learn m (D,) and A (D, D).

    Args:
        vectors: of length 1, or means of such, (N, D).
        labels: the person on each photo (N,); everybody counts alike, however many photos there are.
        ridge: larger trusts the photos less, and changes less.

    Raises:
        ExportError: nobody has two photos, or the vectors are all one.
    """
    people, own = np.unique(labels, return_inverse=True)
    counts = np.bincount(own)
    several = counts[own] > 1
    if not several.any() or len(people) < 2:
        raise ExportError("a metric is learned from people with two or more photos, and from two people at least")
    means = np.zeros((len(people), vectors.shape[1]))
    np.add.at(means, own, vectors)
    means /= counts[:, None]
    apart = (vectors - means[own])[several]
    # Of each person the unbiased scatter, and of those the mean; around the mean of all likewise.
    within = _scatter(apart, 1 / (counts[own][several] - 1), int((counts > 1).sum()))
    mean = vectors.mean(axis=0)
    between = _scatter(vectors - mean, 1 / counts[own], len(people)) - within
    dimension = len(mean)
    level = np.trace(within) / dimension
    if not level > _TINY:
        raise ExportError("a metric cannot be learned: photos of one person do not differ at all")
    values, axes = np.linalg.eigh(within + ridge * level * np.eye(dimension))
    whitening = axes / np.sqrt(values)
    ratios, directions = np.linalg.eigh(whitening.T @ between @ whitening)
    ratios = np.maximum(ratios, 1e-6)
    return mean, whitening @ directions * np.sqrt(ratios / (ratios + 1))


def with_metric(module: nn.Module, mean: Matrix, matrix: Matrix) -> nn.Module:
    """A copy of a network that gives (u - m) A; its weights keep their names, so that it can be trained further."""
    measured = copy.deepcopy(module)
    measured.register_buffer("metric_mean", torch.from_numpy(mean).float())
    measured.register_buffer("metric_matrix", torch.from_numpy(matrix).float())
    kind = type(module)

    class WithMetric(kind):  # type: ignore[misc, valid-type]
        """The network, and the metric behind it."""

        def forward(self, images: Tensor) -> Tensor:
            """(N, C, height, width) to (N, D)."""
            units = nn.functional.normalize(super().forward(images), eps=_TINY)
            return (units - self.metric_mean) @ self.metric_matrix  # type: ignore[no-any-return]

    measured.__class__ = WithMetric
    return measured


def unit_vectors(module: nn.Module, spec: InputSpec, crops: Sequence[Pixels], mirror: bool) -> Matrix:
    """What a metric is learned from, (N, D): unit vectors; with `mirror` the mean of those of crop and mirror image."""
    parts = []
    with torch.no_grad():
        for start in range(0, len(crops), _AT_ONCE):
            batch = torch.from_numpy(to_input(list(crops[start : start + _AT_ONCE]), spec))
            views = [batch, batch.flip(3)] if mirror else [batch]
            units = [l2_normalize(module(view).numpy()).astype(np.float64) for view in views]
            parts.append(np.mean(units, axis=0))
    return np.concatenate(parts)


def _scatter(rows: Matrix, weights: Matrix, people: int) -> Matrix:
    scatter: Matrix = (rows * weights[:, None]).T @ rows / people
    return scatter
