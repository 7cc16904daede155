"""Signs that a training run has failed, and what to do about each.

A margin loss that is asked too much too early does not crash; it sits still. Known signs: the loss at ln C (nothing
learned), at -ln(FLT_MIN) = 87.336 (the softmax is saturated and its gradient zero), at the margin of the triplet loss
with all distances near zero (collapse), or not a number. The cure for the psi family is a larger smallest lambda, which
keeps part of the plain softmax in the target; for the others a smaller learning rate.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SATURATED = -math.log(1.1754943508222875e-38)


@dataclass(frozen=True, slots=True)
class Failure:
    """What was seen, in words."""

    sign: str
    from_start: bool  # nothing was learned at all: go back to the beginning


class Watch:
    """Looks at the loss of every step over a window of `patience` steps."""

    def __init__(self, patience: int, classes: int, triplet_margin: float | None = None) -> None:
        self._losses: deque[float] = deque(maxlen=patience)
        self._distances: deque[float] = deque(maxlen=patience)
        self._chance = math.log(classes) if triplet_margin is None and classes > 1 else None
        self._margin = triplet_margin

    def see(self, loss: float, pair_distance: float | None = None) -> Failure | None:
        """Take in a step's main loss, and for triplets the mean squared distance of its pairs."""
        if not math.isfinite(loss):
            return Failure("the loss is not a number", from_start=False)
        self._losses.append(loss)
        if pair_distance is not None:
            self._distances.append(pair_distance)
        if len(self._losses) < (self._losses.maxlen or 1):
            return None
        mean = sum(self._losses) / len(self._losses)
        if abs(mean - SATURATED) < 0.01 * SATURATED:
            return Failure(f"the loss is saturated at {SATURATED:.3f}", from_start=False)
        if self._stuck_at_chance(mean):
            return Failure(f"the loss is stuck at ln C = {self._chance:.3f}: nothing is learned", from_start=True)
        if self._collapsed(mean):
            return Failure(f"all embeddings are one: the loss is at {mean:g}, the margin is {self._margin:g}", False)
        return None

    def _stuck_at_chance(self, mean: float) -> bool:
        if self._chance is None:
            return False
        # A loss that passes ln C on its way down does so in a few steps; one that is stuck keeps within a hair of it.
        spread = max(self._losses) - min(self._losses)
        return abs(mean - self._chance) < 0.005 * self._chance and spread < 0.02 * self._chance

    def _collapsed(self, mean: float) -> bool:
        if self._margin is None or len(self._distances) < (self._distances.maxlen or 1):
            return False
        apart = sum(self._distances) / len(self._distances)
        # At the very same place semi-hard mining finds nothing: the loss is zero then, and not the margin.
        return apart < 1e-3 and (abs(mean - self._margin) < 0.01 * self._margin or mean == 0)

    def state_dict(self) -> dict[str, list[float]]:
        """For a checkpoint: a resumed run must come to the same verdicts."""
        return {"losses": list(self._losses), "distances": list(self._distances)}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Out of a checkpoint."""
        self._losses.clear()
        self._distances.clear()
        self._losses.extend(state["losses"])
        self._distances.extend(state["distances"])


@dataclass(slots=True)
class Remedies:
    """What rollbacks have changed so far; part of a checkpoint."""

    rollbacks: int = 0
    minimum_lambda: float | None = None
    lr_scale: float = 1.0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rollbacks": self.rollbacks, "minimum_lambda": self.minimum_lambda, "lr_scale": self.lr_scale}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> "Remedies":
        """Out of a checkpoint."""
        return Remedies(**state)

    def next(self, current_minimum: float | None, raise_to: float) -> "Remedies":
        """After one more rollback: a larger smallest lambda where there is one, half the learning rate otherwise."""
        if current_minimum is None:
            return Remedies(self.rollbacks + 1, None, self.lr_scale / 2)
        return Remedies(self.rollbacks + 1, max(raise_to, 2 * current_minimum), self.lr_scale)
