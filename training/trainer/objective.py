"""What is minimised: a main loss, center loss beside it, a teacher's terms, as the configuration says."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.config import ConfigError, Named, TrainConfig
from training.losses import LOSSES
from training.losses.center import Center
from training.losses.classification import AnnealedLoss, ClassificationLoss
from training.losses.margin import Annealing
from training.losses.sharded import ShardedLoss
from training.losses.triplet import Triplet
from training.teaching.distil import cosine_loss, relation_loss


@dataclass(frozen=True, slots=True)
class Terms:
    """The sum to minimise, its parts by name (detached), and for triplets the mean squared distance of pairs."""

    total: Tensor
    parts: dict[str, Tensor]
    pair_distance: float | None = None
    watched: dict[str, float] = field(default_factory=dict)

    @property
    def main(self) -> Tensor:
        """What the guard looks at: the main loss, or without one the sum."""
        return self.parts.get("main", self.total.detach())

    @staticmethod
    def mean(terms: Sequence["Terms"]) -> "Terms":
        """Of the micro-batches of one step, which have as many photos each; the sum is detached."""
        if len(terms) == 1:
            return terms[0]
        total = torch.stack([each.total.detach() for each in terms]).mean()
        parts = {name: torch.stack([each.parts[name] for each in terms]).mean() for name in terms[0].parts}
        return Terms(total, parts)  # triplets, which have more to watch, are never accumulated


@dataclass(slots=True)
class _Sum:
    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        # Not made a number here: on a GPU that would wait for the step to end.
        self.parts[name] = value.detach()
        self.total = self.total + weight * value


class Objective(nn.Module):
    """All losses of a run; called with features (N, D), labels (N,) and the teacher's vectors (N, D) or None."""

    def __init__(self, config: TrainConfig, classes: int, teacher_dimension: int | None = None) -> None:
        super().__init__()
        self.main = _main(config, classes)
        self.main_weight = config.distil.margin_weight if config.distil else 1.0
        self.center = Center(config.dimension, classes, config.center.alpha) if config.center else None
        self.center_weight = config.center.weight if config.center else 0.0
        self.distil = config.distil
        if self.distil and self.distil.cosine and teacher_dimension != config.dimension:
            raise ConfigError(
                f"the teacher has {teacher_dimension} dimensions and the student {config.dimension}: "
                "set dimension to the teacher's, or distil.cosine to 0"
            )

    def forward(self, features: Tensor, labels: Tensor, targets: Tensor | None) -> Terms:
        """The terms of a batch."""
        total = _Sum(features.new_zeros((), dtype=torch.float32))
        if self.main is not None:
            total.add("main", self.main(features, labels), self.main_weight)
        if self.center is not None:
            total.add("center", self.center(features, labels), self.center_weight)
        if self.distil is not None and targets is not None:
            if self.distil.cosine:
                total.add("cosine", cosine_loss(features, targets), self.distil.cosine)
            if self.distil.relation:
                total.add("relation", relation_loss(features, targets), self.distil.relation)
        if not isinstance(self.main, Triplet):
            return Terms(total.total, total.parts)
        last = self.main.last
        watched = {
            "triplet/count": float(last.count),
            "triplet/active": last.active,
            "triplet/positive_distance": last.positive_distance,
            "triplet/negative_distance": last.negative_distance,
            "triplet/pair_distance": last.pair_distance,
        }
        return Terms(total.total, total.parts, last.pair_distance, watched)

    @property
    def annealed(self) -> AnnealedLoss | None:
        """The loss with a lambda, if there is one."""
        main = self.main.loss if isinstance(self.main, ShardedLoss) else self.main
        return main if isinstance(main, AnnealedLoss) and main.annealing is not None else None

    @property
    def triplet_margin(self) -> float | None:
        """Where a collapse would put the loss."""
        return self.main.margin if isinstance(self.main, Triplet) else None

    def raise_minimum(self, minimum: float) -> None:
        """Let lambda fall no further than this."""
        loss = self.annealed
        if loss is not None and loss.annealing is not None:
            old = loss.annealing
            loss.annealing = Annealing(old.base, old.gamma, old.power, minimum)


def _main(config: TrainConfig, classes: int) -> nn.Module | None:
    named = config.loss
    if named is None:
        return None
    _check_name(named)
    try:
        if named.name == "triplet":
            return Triplet(**named.params)
        if config.sharded:
            sharded: nn.Module = ShardedLoss(
                named.name, config.dimension, classes, config.sample_rate, seed=config.seed, **named.params
            )
            return sharded
        loss: ClassificationLoss = LOSSES[named.name](config.dimension, classes, **named.params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss {named.name}: {error}") from error
    return loss


def _check_name(named: Named) -> None:
    if named.name == "center":
        raise ConfigError("center stands beside another loss: name it under `center`, and a main loss under `loss`")
    if named.name not in LOSSES:
        raise ConfigError(f"unknown loss {named.name!r}; known: {', '.join(sorted(LOSSES))}")
    parameters: Any = inspect.signature(LOSSES[named.name]).parameters
    names = [name for name in parameters if name not in ("feature_dim", "num_classes")]
    unknown = sorted(set(named.params) - set(names))
    if unknown:
        known = ", ".join(names) or "none"
        raise ConfigError(f"loss {named.name}: unknown parameter {unknown[0]!r}; known: {known}")
