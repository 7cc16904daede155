"""Angular softmax (Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017).

    target logit   |x| (psi(t_y) + lambda cos t_y) / (1 + lambda)
    others         |x| cos t_j

Rows of W are normalised, |x| is kept. Within a class, the largest angle gets smaller than the smallest one between
classes for m of at least 2 + sqrt(3) with two classes, and of about 3 with many. The exact gradient is used; the
authors' Caffe layer detaches parts of it.
"""

from torch import Tensor

from training.losses.classification import AnnealedLoss, directions, norms
from training.losses.margin import psi


class ASoftmax(AnnealedLoss):
    """A-Softmax with integer margin m >= 1; m = 1 is softmax with normalised weights."""

    def plain(self, features: Tensor, weight: Tensor) -> Tensor:
        """|x| cos t_j."""
        return features @ directions(weight).T

    def target(self, features: Tensor, weight: Tensor, plain: Tensor) -> Tensor:
        """Eq. 6 and 7, with the annealing of the appendix."""
        length = norms(features)[:, 0]
        return self.annealed(length * psi(plain / length, self.margin), plain)
