"""Large margin cosine loss (Wang et al., "CosFace", CVPR 2018): logits s (cos t_j - margin [j = y])."""

from torch import Tensor

from training.losses.classification import ClassificationLoss, check_number, directions


class CosFace(ClassificationLoss):
    """CosFace with scale s and an additive margin on the cosine."""

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 64.0, margin: float = 0.35) -> None:
        super().__init__(feature_dim, num_classes)
        check_number("scale", scale)
        check_number("margin", margin)
        if scale <= 0 or not 0 <= margin <= 1:
            raise ValueError(f"scale must be positive and margin between 0 and 1, got {scale} and {margin}")
        self.scale, self.margin = scale, margin

    def plain(self, features: Tensor, weight: Tensor) -> Tensor:
        """s cos t_j."""
        return (self.scale * directions(features)) @ directions(weight).T

    def target(self, features: Tensor, weight: Tensor, plain: Tensor) -> Tensor:
        """Eq. 4."""
        return plain - self.scale * self.margin
