"""Additive angular margin loss (Deng et al., "ArcFace", CVPR 2019): target logit s cos(t_y + margin), others s cos t_j.

Beyond t = pi - margin the cosine would rise again; there the logit goes on as s (cos t - (1 - cos margin)), which is
continuous and falls.
"""

import math

from torch import Tensor

from training.losses.classification import ClassificationLoss, norms, of_target, with_target

# sin t = sqrt(1 - c^2) has an infinite slope at |c| = 1; the slope is bounded by 1 / sqrt of this.
_LEAST_SINE_SQUARED = 1e-6


class ArcFace(ClassificationLoss):
    """ArcFace with scale s and an additive margin on the angle, in radians."""

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__(feature_dim, num_classes)
        if scale <= 0 or not 0 <= margin < math.pi / 2:
            raise ValueError(f"scale must be positive and margin between 0 and pi / 2, got {scale} and {margin}")
        self.scale, self.margin = scale, margin

    def logits(self, features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Eq. 3; cos(t + m) = cos t cos m - sin t sin m."""
        cosine = (features / norms(features)) @ (weight / norms(weight)).T
        c = of_target(cosine, labels).clamp(-1, 1)
        sine = (1 - c * c).clamp_min(_LEAST_SINE_SQUARED).sqrt()
        shifted = c * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = c - (1 - math.cos(self.margin))
        return self.scale * with_target(cosine, labels, shifted.where(c > -math.cos(self.margin), beyond))
