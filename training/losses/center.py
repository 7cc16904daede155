"""Center loss (Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016).

    L_C = 1/2 mean_i |x_i - c_{y_i}|^2                                         (eq. 2, as a mean over the batch)
    c_j <- c_j - alpha sum_{y_i = j} (c_j - x_i) / (1 + n_j)                   (eq. 4)

Centres are no parameters: no optimiser moves them and no weight decay shrinks them. They are moved by `update` after
each batch. The 1 + n_j keeps a class with several samples in a batch from overshooting. Used beside a classification
loss, with a weight of about 0.003.
"""

import torch
from torch import Tensor, nn

from training.losses.classification import check_labels, check_number, check_shapes, full_precision


class Center(nn.Module):
    """Distance of features to the centre of their class; `centers` (C, D) is a buffer, and so part of a checkpoint."""

    centers: Tensor

    def __init__(self, feature_dim: int, num_classes: int, alpha: float = 0.5) -> None:
        super().__init__()
        if feature_dim < 1 or num_classes < 1:
            raise ValueError(f"need at least 1 feature and 1 class, got {feature_dim} and {num_classes}")
        if not 0 < check_number("alpha", alpha) <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {alpha}")
        self.alpha = alpha
        self.register_buffer("centers", torch.zeros(num_classes, feature_dim))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """L_C of features (N, D) and labels (N,), a scalar; the centres are left where they are.

        Raises:
            ValueError: shapes that do not fit together, no sample, or (on the CPU) labels outside 0 .. C - 1.
        """
        labels = self._checked(features, labels)
        with torch.autocast(features.device.type, enabled=False):
            wide = full_precision(features)
            return (wide - self.centers[labels].to(wide.dtype)).square().sum(dim=1).mean() / 2

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the centres of the classes in the batch.

        Raises:
            ValueError: as `forward`.
        """
        labels = self._checked(features, labels)
        wide = features.detach().to(self.centers.dtype)
        pull = torch.zeros_like(self.centers).index_add_(0, labels, self.centers[labels] - wide)
        count = torch.bincount(labels, minlength=len(self.centers)).to(wide.dtype)
        self.centers -= self.alpha * pull / (1 + count)[:, None]

    def _checked(self, features: Tensor, labels: Tensor) -> Tensor:
        check_shapes(features, labels, self.centers.shape[1])
        if not labels.is_cuda:  # looking at values there would wait for all work under way
            check_labels(labels, len(self.centers))
        return labels.long()  # bytes would be taken for a mask
