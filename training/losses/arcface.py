"""Additive angular margin loss (Deng et al., "ArcFace", CVPR 2019): target logit s cos(t_y + margin), others s cos t_j.

Beyond t = pi - margin the cosine would rise again; there the logit goes on as s (cos t - (1 - cos margin)), which is
continuous and falls.
"""

import math

import torch
from torch import Tensor

from training.losses.classification import ClassificationLoss, check_number, directions


class ArcFace(ClassificationLoss):
    """ArcFace with scale s and an additive margin on the angle, in radians."""

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__(feature_dim, num_classes)
        check_number("scale", scale)
        check_number("margin", margin)
        if scale <= 0 or not 0 <= margin < math.pi / 2:
            raise ValueError(f"scale must be positive and margin between 0 and pi / 2, got {scale} and {margin}")
        self.scale, self.margin = scale, margin

    def plain(self, features: Tensor, weight: Tensor) -> Tensor:
        """s cos t_j."""
        return (self.scale * directions(features)) @ directions(weight).T

    def target(self, features: Tensor, weight: Tensor, plain: Tensor) -> Tensor:
        """Eq. 3; cos(t + m) = cos t cos m - sin t sin m."""
        cosine = plain / self.scale
        shifted = cosine * math.cos(self.margin) - _sine(features, weight) * math.sin(self.margin)
        beyond = cosine - (1 - math.cos(self.margin))
        return self.scale * shifted.where(cosine > -math.cos(self.margin), beyond)


def _sine(features: Tensor, weight: Tensor) -> Tensor:
    """sin t (K,) of the angles between rows of two (K, D): with unit rows, |x - w| = 2 sin(t/2), |x + w| = 2 cos(t/2).

    sqrt(1 - cos^2 t) has an infinite slope at t = 0, and in float32 no correct digit below t = 3e-4. The slope of this
    is at most 1, and small angles are exact.
    """
    x, w = directions(features), directions(weight)
    lengths: Tensor = torch.linalg.vector_norm(x - w, dim=1) * torch.linalg.vector_norm(x + w, dim=1)
    return lengths / 2
