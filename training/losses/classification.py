"""What all classification losses share: weights, checks, float32 logits, and a place for the target's logit."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.losses.margin import Annealing, check_margin

# Below this a norm counts as zero: a zero feature has no angle, and must not divide by zero.
_TINY = 1e-12


class ClassificationLoss(nn.Module):
    """Softmax cross entropy over logits that a subclass makes; natural logarithm, mean over the batch.

    `weight` (C, D) has a row a class and no bias. Called with features (N, D) and labels (N,), it returns a scalar.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        if feature_dim < 1 or num_classes < 2:
            raise ValueError(f"need at least 1 feature and 2 classes, got {feature_dim} and {num_classes}")
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss.

        Raises:
            ValueError: shapes that do not fit together.
        """
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1] or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features must be (N, {self.weight.shape[1]}) and labels (N,), "
                f"got {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        # Half precision rounds away the differences that a margin is made of.
        with torch.autocast(features.device.type, enabled=False):
            return F.cross_entropy(self.logits(full_precision(features), full_precision(self.weight), labels), labels)

    def logits(self, features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, C), the target's with its margin."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"feature_dim={self.weight.shape[1]}, num_classes={self.weight.shape[0]}"


class AnnealedLoss(ClassificationLoss):
    """A margin loss whose lambda falls as training goes on.

    Iterations are counted in the buffer `iteration`, which is part of the state_dict: a resumed run goes on with the
    lambda it had. Only forwards in training mode count, and the first uses iteration 1.
    """

    iteration: Tensor

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        margin: int = 4,
        annealing: Annealing | Sequence[float] | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(feature_dim, num_classes)
        self.margin = check_margin(margin)
        self.annealing = Annealing.of(annealing)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))

    @property
    def lambda_(self) -> float:
        """The share of the plain cosine in the iteration under way, over that of psi; 0 without annealing."""
        return self.annealing.at(max(int(self.iteration), 1)) if self.annealing else 0.0

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss; counts the iteration in training mode."""
        if self.training:
            self.iteration += 1
        return super().forward(features, labels)

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"{super().extra_repr()}, margin={self.margin}, annealing={self.annealing}"


def full_precision(tensor: Tensor) -> Tensor:
    """float32, or float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def norms(rows: Tensor) -> Tensor:
    """L2 norms (N, 1), never zero."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return lengths.clamp_min(_TINY)


def with_target(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """Logits (N, C) with those of the labels replaced by target (N,)."""
    return logits.scatter(1, labels[:, None], target[:, None])


def of_target(values: Tensor, labels: Tensor) -> Tensor:
    """The entries (N,) of values (N, C) that belong to the labels."""
    return values.gather(1, labels[:, None])[:, 0]
