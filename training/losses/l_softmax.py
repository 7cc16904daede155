"""Large-margin softmax (Liu et al., "Large-Margin Softmax Loss for Convolutional Neural Networks", ICML 2016).

    target logit   |W_y| |x| (psi(t_y) + lambda cos t_y) / (1 + lambda)
    others         W_j . x

Both norms are kept. Two classes with equal |W| end up separated by an angle of (m - 1) / (m + 1) times that between
their weights.
"""

from torch import Tensor

from training.losses.classification import AnnealedLoss, norms
from training.losses.margin import psi


class LSoftmax(AnnealedLoss):
    """L-Softmax with integer margin m >= 1; m = 1 is softmax."""

    def plain(self, features: Tensor, weight: Tensor) -> Tensor:
        """W_j . x."""
        return features @ weight.T

    def target(self, features: Tensor, weight: Tensor, plain: Tensor) -> Tensor:
        """Eq. 4 and 6, with the annealing of section 5.1."""
        scale = (norms(features) * norms(weight))[:, 0]
        return self.annealed(scale * psi(plain / scale, self.margin), plain)
