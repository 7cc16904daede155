"""Angles within and between classes: of pairs of digits, and of the regions that a margin leaves to each class."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.figures.runs import Run
from training.figures.style import BETWEEN, WITHIN, canvas, save, styled
from training.losses.a_softmax import ASoftmax

# Every fifth test digit: 2,000 of them make two million pairs.
EVERY = 5
COMPARED = ("softmax", "a-softmax-4")
MARGIN_VALUES = (1, 2, 3, 4)
_PER_DEGREE = 20


@dataclass(frozen=True, slots=True)
class Pairs:
    """Angles in degrees between two features of one class (K,), and of two classes (L,)."""

    within: NDArray[np.float64]
    between: NDArray[np.float64]

    @property
    def confused(self) -> float:
        """Share of pairs of two classes that are closer than the median pair of one class is."""
        return float((self.between < np.median(self.within)).mean())

    @property
    def order(self) -> float:
        """Chance that a pair of two classes is further apart than a pair of one class: the area under the ROC curve."""
        ranked = np.sort(self.within)
        below = np.searchsorted(ranked, self.between, "left") + np.searchsorted(ranked, self.between, "right")
        return float(below.mean() / (2 * len(ranked)))


def pairs(features: NDArray[np.float32], labels: NDArray[np.int32]) -> Pairs:
    """All pairs of features (N, 2) that are not of one digit with itself."""
    direction = np.degrees(np.arctan2(features[:, 1].astype(np.float64), features[:, 0]))
    first, second = np.triu_indices(len(labels), 1)
    apart = np.abs(direction[first] - direction[second])
    angle = np.minimum(apart, 360 - apart)
    same = labels[first] == labels[second]
    return Pairs(angle[same], angle[~same])


@dataclass(frozen=True, slots=True)
class Regions:
    """Of the directions in the plane, those that each class wins against its margin: degrees.

    `widest`: the largest angle within a class's region. `nearest`: the smallest angle between two regions. `empty`:
    classes without a direction of their own.
    """

    widest: float
    nearest: float
    empty: int


def regions(weight: NDArray[np.float32], margin: int) -> Regions:
    """Regions of A-Softmax with weight (C, 2), by asking the loss about every twentieth of a degree."""
    loss = ASoftmax(2, len(weight), margin).double().eval()
    turn = torch.arange(360 * _PER_DEGREE, dtype=torch.float64) * (2 * torch.pi / (360 * _PER_DEGREE))
    compass = torch.stack([turn.cos(), turn.sin()], dim=1)
    rows = torch.from_numpy(weight).double()
    owner = np.full(len(turn), -1)
    for label in range(len(weight)):
        logits = loss.logits(compass, rows, torch.full((len(turn),), label))
        owner[(logits.argmax(dim=1) == label).numpy()] = label
    return _measure(owner, len(weight))


def _measure(owner: NDArray[np.int64], classes: int) -> Regions:
    """Regions out of the class that owns each direction, -1 where none does."""
    begins = np.flatnonzero((owner != np.roll(owner, 1)) & (owner >= 0))
    if not len(begins):  # one class has the whole circle, or none has any
        return Regions(360.0 * float(owner[0] >= 0), 0.0, classes - int(owner[0] >= 0))
    around = len(owner)
    ends = [start + int(np.argmax(np.roll(owner, -start) != owner[start])) for start in begins]
    widths = [end - start for start, end in zip(begins, ends, strict=True)]
    gaps = [following - end for (_, end), (following, _) in pairwise(zip(begins, ends, strict=True))]
    gaps.append(int(begins[0]) + around - ends[-1])
    empty = classes - len(set(owner[begins].tolist()))
    return Regions(float(max(widths)) / _PER_DEGREE, float(min(gaps)) / _PER_DEGREE, empty)


@styled
def draw_histograms(runs: Mapping[str, Run], folder: Path) -> Path:
    """angles.svg: angles between pairs of test digits, softmax against A-Softmax with m = 4."""
    figure, axes = canvas(1, 2, 9, 3.4, sharey=True)
    bins = [2.0 * number for number in range(91)]
    for name, title, place in zip(COMPARED, ("softmax", "A-Softmax, m = 4"), axes, strict=True):
        found = pairs(runs[name].features[::EVERY], runs[name].labels[::EVERY])
        for values, colour, label in ((found.within, WITHIN, "one class"), (found.between, BETWEEN, "two classes")):
            name_of = f"pairs of {label}"
            weights = np.full(len(values), 100 / len(values))
            place.hist(values, bins, weights=weights, color=colour, alpha=0.6, histtype="stepfilled", label=name_of)
        place.set(xlabel="angle between two features (degrees)", title=title, yscale="log")
        place.set_xticks(range(0, 181, 30))
    axes[0].set_ylabel("% of such pairs, for each 2 degrees")
    axes[0].legend(loc="upper right")
    return save(figure, folder / "angles.svg")


@styled
def draw_regions(found: Mapping[int, Regions], runs: Mapping[int, Run], folder: Path) -> Path:
    """m_min.svg: largest angle within against smallest angle between, of regions and of digits, as m grows."""
    figure, (left, right) = canvas(1, 2, 9, 3.6)
    _lines(left, found)
    _digits(right, runs)
    for place in (left, right):
        place.set_xticks(MARGIN_VALUES)
        place.set(xlabel="m of A-Softmax", ylim=(-1, 1.1 * place.get_ylim()[1]))
        place.legend(fontsize=8)
    return save(figure, folder / "m_min.svg")


def _lines(axes: Axes, found: Mapping[int, Regions]) -> None:
    """Regions of the trained classifiers, and as lines those of ten directions spread evenly."""
    margins = sorted(found)
    even = 360 / 10
    smooth = np.linspace(1, max(MARGIN_VALUES), 61)
    axes.plot(smooth, 2 * even / (smooth + 1), color=WITHIN, linewidth=1)
    axes.plot(smooth, even * (smooth - 1) / (smooth + 1), color=BETWEEN, linewidth=1)
    axes.plot(margins, [found[m].widest for m in margins], "o", color=WITHIN, label="widest region of a class")
    axes.plot(margins, [found[m].nearest for m in margins], "s", color=BETWEEN, label="narrowest gap between regions")
    axes.set(ylabel="degrees", title="what the loss asks for\n(lines: ten classes evenly spread)")


def spread(run: Run) -> tuple[float, float]:
    """Of pairs of test digits, in degrees: what 95 % within a class are below, and 95 % between classes above."""
    found = pairs(run.features[::EVERY], run.labels[::EVERY])
    return float(np.quantile(found.within, 0.95)), float(np.quantile(found.between, 0.05))


def _digits(axes: Axes, runs: Mapping[int, Run]) -> None:
    margins = sorted(runs)
    spreads = [spread(runs[margin]) for margin in margins]
    axes.plot(margins, [within for within, _ in spreads], "o-", color=WITHIN, label="95 % of pairs of one class: below")
    axes.plot(margins, [far for _, far in spreads], "s-", color=BETWEEN, label="95 % of pairs of two classes: above")
    axes.set(ylabel="degrees", title="what the test digits do")
