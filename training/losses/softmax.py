"""Plain softmax cross entropy without bias: logits W_j . x. The baseline of every margin loss."""

from torch import Tensor

from training.losses.classification import ClassificationLoss


class Softmax(ClassificationLoss):
    """-log( exp(W_y . x) / sum_j exp(W_j . x) ), mean over the batch; the target has no margin."""

    def plain(self, features: Tensor, weight: Tensor) -> Tensor:
        """W_j . x."""
        return features @ weight.T
