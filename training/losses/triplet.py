"""Triplet loss (Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015).

    mean over mined triplets of [ |a - p|^2 - |a - n|^2 + margin ]_+           (eq. 2)

on features that are normalised here, with squared distances, so between 0 and 4. Mining is done on the very features
that the loss is taken of:

    all         every valid triplet
    semi_hard   every anchor-positive pair with its nearest negative among |a-p|^2 < |a-n|^2 < |a-p|^2 + margin;
                a pair without one is left out
    hard        every anchor-positive pair with the nearest negative of all
    batch_hard  every anchor with its farthest positive and nearest negative (Hermans et al., 2017)
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from training.losses.classification import check_number, check_shapes, directions, full_precision

Mining = Literal["all", "semi_hard", "hard", "batch_hard"]


@dataclass(frozen=True, slots=True)
class Triplets:
    """What the last batch gave: mined triplets, the share with a loss, mean squared distances.

    A collapse shows as distances near 0 with the loss at the margin.
    """

    count: int
    active: float
    positive_distance: float
    negative_distance: float
    pair_distance: float = 0.0


class Triplet(nn.Module):
    """Triplet loss of features (N, D) with labels (N,); `last` tells about the last batch."""

    def __init__(self, margin: float = 0.2, mining: Mining = "semi_hard") -> None:
        super().__init__()
        if check_number("margin", margin) <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        if mining not in get_args(Mining):
            raise ValueError(f"mining must be one of {', '.join(get_args(Mining))}, got {mining!r}")
        self.margin, self.mining = margin, mining
        self.last = Triplets(0, 0.0, 0.0, 0.0)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar; zero with a gradient of zero if there is no triplet.

        Raises:
            ValueError: not features (N, D) with labels (N,).
        """
        check_shapes(features, labels, features.shape[-1] if features.ndim else 0)
        with torch.autocast(features.device.type, enabled=False):
            distances = squared_distances(directions(full_precision(features)))
            positive, negative = self._mine(distances, labels)
            violation = positive - negative + self.margin
            self._note(violation, positive, negative, distances)
            if len(violation) == 0:
                return distances.sum() * 0
            return violation.clamp_min(0).mean()

    def _mine(self, distances: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances (T,) of anchor to positive and of anchor to negative."""
        same = labels[:, None] == labels
        positives = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if self.mining == "batch_hard":
            return _batch_hard(distances, positives, ~same)
        anchor, positive = positives.nonzero(as_tuple=True)
        to_positive, candidates = distances[anchor, positive], distances[anchor]
        allowed = ~same[anchor]
        if self.mining == "all":
            pair, negative = allowed.nonzero(as_tuple=True)
            return to_positive[pair], candidates[pair, negative]
        if self.mining == "semi_hard":
            with torch.no_grad():
                bound = to_positive[:, None]
                allowed &= (candidates > bound) & (candidates < bound + self.margin)
        return _with_nearest(to_positive, candidates, allowed)

    @torch.no_grad()
    def _note(self, violation: Tensor, positive: Tensor, negative: Tensor, distances: Tensor) -> None:
        # Of all pairs, mined or not: where all embeddings are one, semi-hard mining finds no triplet to tell by.
        apart = float(distances.mean()) * len(distances) / max(1, len(distances) - 1)
        if len(violation) == 0:
            self.last = Triplets(0, 0.0, 0.0, 0.0, apart)
            return
        active = float((violation > 0).double().mean())
        self.last = Triplets(len(violation), active, float(positive.mean()), float(negative.mean()), apart)


def squared_distances(unit: Tensor) -> Tensor:
    """|a - b|^2 = 2 - 2 a . b of unit rows (N, D), as (N, N) in [0, 4]."""
    return (2 - 2 * unit @ unit.T).clamp_min(0)


def _with_nearest(to_positive: Tensor, candidates: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    nearest, _ = candidates.masked_fill(~allowed, torch.inf).min(dim=1)
    found = allowed.any(dim=1)
    return to_positive[found], nearest[found]


def _batch_hard(distances: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    usable = positives.any(dim=1) & negatives.any(dim=1)
    farthest = distances.masked_fill(~positives, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(~negatives, torch.inf).amin(dim=1)
    return farthest[usable], nearest[usable]
