"""The curves of psi and of its slope; see training/losses/margin.py for the function itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from training.figures.style import MARGINS, canvas, save, styled
from training.losses.margin import psi

MARGIN_VALUES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Curve:
    """psi and d psi / d cos of one m at angles (N,) in radians; float64."""

    margin: int
    angle: NDArray[np.float64]
    value: NDArray[np.float64]
    slope: NDArray[np.float64]


def curve(margin: int, points: int = 721) -> Curve:
    """Values as the losses compute them, and the slope that their gradient has, from 0 to pi."""
    angle = torch.linspace(0, torch.pi, points, dtype=torch.float64)
    cosine = angle.cos().requires_grad_()
    value = psi(cosine, margin)
    (slope,) = torch.autograd.grad(value.sum(), cosine)
    return Curve(margin, angle.numpy(), value.detach().numpy(), slope.numpy())


@styled
def draw(folder: Path) -> Path:
    """psi.svg: psi(theta) on the left, d psi / d cos on the right, m = 1 .. 5."""
    figure, (left, right) = canvas(1, 2, 9, 3.6)
    for margin, colour in zip(MARGIN_VALUES, MARGINS, strict=True):
        each = curve(margin)
        degrees = np.degrees(each.angle)
        left.plot(degrees, each.value, color=colour, label=f"m = {margin}", linewidth=1.6)
        right.plot(degrees, each.slope, color=colour, label=f"m = {margin}", linewidth=1.6)
    for axes, name in ((left, "psi(theta)"), (right, "d psi / d cos theta")):
        axes.set(xlabel="angle theta to the own class (degrees)", ylabel=name)
    left.set_title("the target's cosine becomes psi")
    right.set_title("how strongly a sample is pulled")
    right.set_ylim(0, 17)
    for axes in (left, right):
        axes.set_xticks(range(0, 181, 30))
        axes.axvline(90, color="#999999", linewidth=0.8, linestyle=":")
    left.legend()
    arrow = {"arrowstyle": "->", "color": "#555555"}
    right.annotate("m = 2, 4:\nno pull at 90°", (90, 0.1), (72, 12), fontsize=8, arrowprops=arrow)
    return save(figure, folder / "psi.svg")
