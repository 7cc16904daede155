"""What all classification losses share: weights, checks, float32 logits, and a place for the target's logit."""

import math
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
    A subclass writes `plain`, the logits without a margin, and `target`, what becomes of the label's own.

    Iterations are counted in the buffer `iteration`, which is part of the state_dict: a resumed run goes on where it
    was. Only forwards in training mode count, and the first uses iteration 1.
    """

    iteration: Tensor

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        if feature_dim < 1 or num_classes < 2:
            raise ValueError(f"need at least 1 feature and 2 classes, got {feature_dim} and {num_classes}")
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.xavier_uniform_(self.weight)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss; counts the iteration in training mode.

        Raises:
            ValueError: shapes that do not fit together, no sample, or (on the CPU) labels outside 0 .. C - 1.
        """
        check_shapes(features, labels, self.weight.shape[1])
        if not labels.is_cuda:  # looking at values there would wait for all work under way
            check_labels(labels, len(self.weight))
        labels = labels.long()
        if self.training:
            self.iteration += 1
        # Half precision rounds away the differences that a margin is made of.
        with torch.autocast(features.device.type, enabled=False):
            wide = full_precision(features)
            return F.cross_entropy(self.logits(wide, full_precision(self.weight).to(wide.dtype), labels), labels)

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Logits (N, C) without a margin, to classify with: the largest is the class that is recognised."""
        wide = full_precision(features)
        return self.plain(wide, full_precision(self.weight).to(wide.dtype))

    def logits(self, features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, C), the target's with its margin."""
        return self.logits_at(features, weight, torch.arange(len(labels), device=labels.device), labels)

    def logits_at(self, features: Tensor, weight: Tensor, samples: Tensor, columns: Tensor) -> Tensor:
        """Logits (N, C) with a margin at (samples[i], columns[i]), (K,) each: a shard holds the targets of some."""
        plain = self.plain(features, weight)
        target = self.target(features[samples], weight[columns], plain[samples, columns])
        return plain.index_put((samples, columns), target)

    def plain(self, features: Tensor, weight: Tensor) -> Tensor:
        """Logits (N, C) without a margin, of features (N, D) and weight (C, D)."""
        raise NotImplementedError

    def target(self, features: Tensor, weight: Tensor, plain: Tensor) -> Tensor:
        """The targets' logits (K,), of features (K, D), the weight (K, D) of each's class and its plain logit (K,)."""
        return plain

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"feature_dim={self.weight.shape[1]}, num_classes={self.weight.shape[0]}"


class AnnealedLoss(ClassificationLoss):
    """A margin loss whose lambda falls as training goes on; the iteration it has come to travels with the state."""

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

    @property
    def lambda_(self) -> float:
        """The share of the plain cosine in the iteration under way, over that of psi; 0 without annealing."""
        return self.annealing.at(max(int(self.iteration), 1)) if self.annealing else 0.0

    def annealed(self, margined: Tensor, plain: Tensor) -> Tensor:
        """(margined + lambda plain) / (1 + lambda)."""
        share = self.lambda_
        return (margined + share * plain) / (1 + share)

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"{super().extra_repr()}, margin={self.margin}, annealing={self.annealing}"


def check_shapes(features: Tensor, labels: Tensor, feature_dim: int) -> None:
    """Features (N, feature_dim) and labels (N,).

    Raises:
        ValueError: they are not.
    """
    if features.ndim != 2 or features.shape[1] != feature_dim or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must be (N, {feature_dim}) and labels (N,), "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Labels in 0 .. num_classes - 1, at least one.

    Raises:
        ValueError: no label, or one outside.
    """
    if len(labels) == 0:
        raise ValueError("a batch needs at least one sample")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must be between 0 and {num_classes - 1}, got {low if low < 0 else high}")


def check_number(name: str, value: float) -> float:
    """The value, if it is a finite number.

    Raises:
        ValueError: it is not: text, a boolean, not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return value


def full_precision(tensor: Tensor) -> Tensor:
    """float32, or float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def norms(rows: Tensor) -> Tensor:
    """L2 norms (N, 1), never zero."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return lengths.clamp_min(_TINY)


def directions(rows: Tensor) -> Tensor:
    """Rows (N, D) of length 1; a row of zeros stays zero and gets no gradient.

    The gradient grows with 1 / |row|: at zero it has no value, and a division by a tiny constant in its place would
    send a gradient of 1e12 through the network.
    """
    lengths = norms(rows)
    return rows * lengths.reciprocal().masked_fill(lengths <= _TINY, 0)
