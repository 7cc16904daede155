"""The losses, one a file. Equations and sources stand at the top of each; docs/losses.md explains them."""

from training.losses.a_softmax import ASoftmax
from training.losses.arcface import ArcFace
from training.losses.center import Center
from training.losses.cosface import CosFace
from training.losses.l_softmax import LSoftmax
from training.losses.margin import Annealing
from training.losses.softmax import Softmax
from training.losses.triplet import Triplet

LOSSES: dict[str, type] = {
    "softmax": Softmax,
    "l_softmax": LSoftmax,
    "a_softmax": ASoftmax,
    "center": Center,
    "triplet": Triplet,
    "cosface": CosFace,
    "arcface": ArcFace,
}

__all__ = ["LOSSES", "Annealing"]
