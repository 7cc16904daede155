"""The margin between two classes, measured: L-Softmax trained on two classes, and its two decision boundaries found.

Class 1 is won where its own logit, margin included, is larger than the other's: |W_1| psi(t_1) > |W_2| cos t_2. With
equal norms and a direction between W_1 and W_2 the boundary is m t_1 = t_2, and with t_1 + t_2 = angle(W_1, W_2) that
is t_1 = angle / (m + 1). The other class has its own boundary as far from W_2. Between the two lies

    angle - 2 angle / (m + 1) = (m - 1) / (m + 1) angle(W_1, W_2)

(Liu et al., ICML 2016, section 4.2). Here nothing of this is used: the boundary is where the trained loss has it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.figures.style import MARGINS, canvas, save, styled
from training.losses.classification import ClassificationLoss, directions
from training.losses.l_softmax import LSoftmax
from training.losses.margin import Annealing

MARGIN_VALUES = (1, 2, 3, 4, 5)
# How much of a direction the two weights share before training; training hardly moves their sum, so that this gives
# wide and narrow angles between them.
COMMON = (0.0, 2.0, 5.0)
_POINTS = 60


@dataclass(frozen=True, slots=True)
class Measured:
    """One toy problem after training; angles in degrees.

    `weights`: between W_1 and W_2. `boundaries`: between the two decision boundaries. `correct`: share of samples on
    the right side of their own class's boundary. `loss`: at the end, without annealing.
    """

    margin: int
    weights: float
    boundaries: float
    correct: float
    loss: float

    @property
    def predicted(self) -> float:
        """(m - 1) / (m + 1) of the angle between the weights."""
        return (self.margin - 1) / (self.margin + 1) * self.weights


def boundary(loss: ClassificationLoss, own: int, other: int) -> float:
    """Angle in radians from W_own, towards W_other, at which the logit of `own` with margin equals that of `other`.

    Found by halving the arc between them 60 times, with logits from the loss itself. The loss must be in float64 and in
    evaluation mode.

    Raises:
        ValueError: the weights have the same direction, or there is no boundary between them.
    """
    weight = loss.weight.detach()
    first, second = directions(weight[[own, other]])
    across = second - (first @ second) * first
    if float(across.norm()) < 1e-9:
        raise ValueError("the weights of the two classes lie on one line: no arc leads from one to the other")
    across = across / across.norm()
    low, high = 0.0, math.atan2(float(across @ second), float(first @ second))
    if _lead(loss, first, own, other) <= 0 or _lead(loss, second, own, other) >= 0:
        raise ValueError("there is no boundary between the two weights")
    for _ in range(60):
        middle = (low + high) / 2
        x = math.cos(middle) * first + math.sin(middle) * across
        low, high = (middle, high) if _lead(loss, x, own, other) > 0 else (low, middle)
    return (low + high) / 2


@torch.no_grad()
def _lead(loss: ClassificationLoss, x: Tensor, own: int, other: int) -> float:
    logits = loss.logits(x[None], loss.weight, torch.tensor([own]))[0]
    return float(logits[own] - logits[other])


def between_boundaries(loss: ClassificationLoss) -> tuple[float, float]:
    """Angle between W_1 and W_2, and between the boundaries of the two classes, in radians."""
    first, second = directions(loss.weight.detach())
    angle = 2 * math.atan2(float((first - second).norm()), float((first + second).norm()))
    return angle, angle - boundary(loss, 0, 1) - boundary(loss, 1, 0)


def toy(margin: int, common: float, seed: int = 0, steps: int = 800) -> Measured:
    """Train a small network on two classes of points in the plane, to two features, and measure.

    After every step both weights are given their mean length: the statement is about equal ones.

    Args:
        margin: m.
        common: length of what both weights have in common before training.
        seed: of points and weights.
        steps: of Adam, each on all points.
    """
    generator = torch.Generator().manual_seed(seed)
    points, labels = _two_classes(generator)
    network, loss = _network(generator), LSoftmax(2, 2, margin, _annealing(steps)).double()
    own = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    loss.weight.data = own + common * torch.tensor([1.0, 0.0], dtype=torch.float64)
    rate = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=0.01)
    for _ in range(steps):
        rate.zero_grad()
        value = loss(network(points), labels)
        torch.autograd.backward(value)
        rate.step()
        _equal_norms(loss.weight)
    loss.eval()
    loss.annealing = None
    return _measure(margin, network, loss, points, labels)


def _annealing(steps: int) -> Annealing:
    return Annealing(base=100.0, gamma=10 / steps, power=5.0, minimum=0.0)


def _two_classes(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two bent clouds of points (2 _POINTS, 2), each half around the other, with labels."""
    turn = torch.pi * torch.rand(_POINTS, generator=generator, dtype=torch.float64)
    upper = torch.stack([turn.cos(), turn.sin()], dim=1)
    lower = torch.stack([1 - turn.cos(), 0.5 - turn.sin()], dim=1)
    noise = 0.08 * torch.randn(2 * _POINTS, 2, generator=generator, dtype=torch.float64)
    return torch.cat([upper, lower]) + noise, torch.arange(2).repeat_interleave(_POINTS)


def _network(generator: torch.Generator) -> nn.Module:
    layers = [nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 2)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2]).double()


@torch.no_grad()
def _equal_norms(weight: Tensor) -> None:
    weight.copy_(directions(weight) * weight.norm(dim=1).mean())


@torch.no_grad()
def _measure(margin: int, network: nn.Module, loss: LSoftmax, points: Tensor, labels: Tensor) -> Measured:
    angle, apart = between_boundaries(loss)
    logits = loss.logits(network(points), loss.weight, labels)
    return Measured(
        margin=margin,
        weights=math.degrees(angle),
        boundaries=math.degrees(apart),
        correct=float((logits.argmax(dim=1) == labels).double().mean()),
        loss=float(nn.functional.cross_entropy(logits, labels)),
    )


def measure() -> list[Measured]:
    """The toy problem for every m and every `COMMON`."""
    return [toy(margin, common) for margin in MARGIN_VALUES for common in COMMON]


@styled
def draw(measured: Sequence[Measured], folder: Path) -> Path:
    """margin.svg: the measured angle between boundaries against the angle between weights, with the theory's lines."""
    figure, (axes,) = canvas(1, 1, 6.2, 4.4)
    for margin, colour in zip(MARGIN_VALUES, MARGINS, strict=True):
        share = (margin - 1) / (margin + 1)
        axes.plot([0, 180], [0, 180 * share], color=colour, linewidth=1.2)
        own = [each for each in measured if each.margin == margin]
        angles, boundaries = [each.weights for each in own], [each.boundaries for each in own]
        label = f"m = {margin}, (m-1)/(m+1) = {share:.3f}"
        axes.scatter(angles, boundaries, color=colour, s=34, label=label, zorder=3)
    axes.set(
        xlabel="angle between the trained weights W1 and W2 (degrees)",
        ylabel="angle between the two decision\nboundaries (degrees)",
        title="points: measured after training; lines: theory",
        xlim=(0, 185),
        ylim=(-4, 130),
    )
    axes.set_xticks(range(0, 181, 30))
    axes.legend(loc="upper left")
    return save(figure, folder / "margin.svg")
