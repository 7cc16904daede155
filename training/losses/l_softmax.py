"""Large-margin softmax (Liu et al., "Large-Margin Softmax Loss for Convolutional Neural Networks", ICML 2016).

    target logit   |W_y| |x| (psi(t_y) + lambda cos t_y) / (1 + lambda)
    others         W_j . x

Both norms are kept. Two classes with equal |W| end up separated by an angle of (m - 1) / (m + 1) times that between
their weights.
"""

from torch import Tensor

from training.losses.classification import AnnealedLoss, norms, of_target, with_target
from training.losses.margin import psi


class LSoftmax(AnnealedLoss):
    """L-Softmax with integer margin m >= 1; m = 1 is softmax."""

    def logits(self, features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Eq. 4 and 6, with the annealing of section 5.1."""
        plain = features @ weight.T
        scale = norms(features)[:, 0] * norms(weight)[labels, 0]
        projected = of_target(plain, labels)
        cosine = (projected / scale).clamp(-1, 1)
        share = self.lambda_
        return with_target(plain, labels, (scale * psi(cosine, self.margin) + share * projected) / (1 + share))
