"""Figures as SVG that takes the page's text colour, so that it can be read on light and on dark."""

import io
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.evaluation.measure import Curves, Histogram

_INK = "#010203"  # stands for the page's colour while drawing
_BLUE, _ORANGE = "#3b82f6", "#e0762f"  # both readable on white and on black
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.2,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def roc_svg(curves: Curves, floor: float) -> str:
    """TAR over FMR, the latter logarithmic: what is of interest lies at small rates.

    Args:
        curves: its points.
        floor: the lowest FMR that the pairs can state; what lies below is shaded.
    """
    return _figure("roc", lambda axes: _rate(axes, curves, "TAR", 1 - np.array(curves.fnmr), floor))


def det_svg(curves: Curves, floor: float) -> str:
    """Detection error tradeoff: FNMR over FMR, both logarithmic (ISO/IEC 19795-1); `floor` as of roc_svg."""

    def draw(axes: Axes) -> None:
        _rate(axes, curves, "FNMR", np.array(curves.fnmr), floor)
        if any(fnmr > 0 for fmr, fnmr in zip(curves.fmr, curves.fnmr, strict=True) if fmr > 0):
            axes.set_yscale("log")

    return _figure("det", draw)


def histogram_svg(histogram: Histogram, thresholds: Sequence[float] = ()) -> str:
    """Similarities of genuine and impostor pairs, with thresholds as dashed lines."""

    def draw(axes: Axes) -> None:
        for name, shares, colour in (("genuine", histogram.genuine, _BLUE), ("impostor", histogram.impostor, _ORANGE)):
            axes.stairs(shares, histogram.edges, fill=True, alpha=0.5, color=colour, label=f"{name} pairs")
        for threshold in thresholds:
            axes.axvline(threshold, color=_INK, linestyle="--", linewidth=1)
        axes.set_xlabel("similarity (cosine)")
        axes.set_ylabel("share of pairs")
        axes.figure.legend(loc="outside upper center", ncols=2)

    return _figure("histogram", draw)


def cmc_svg(rates: Sequence[float]) -> str:
    """Cumulative match characteristic."""

    def draw(axes: Axes) -> None:
        axes.plot(range(1, len(rates) + 1), rates, color=_BLUE, marker="o", markersize=3)
        axes.set_xlabel("rank")
        axes.set_ylabel("mate found")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(min(0.95, rates[0] - 0.02), 1.002)

    return _figure("cmc", draw)


def _rate(axes: Axes, curves: Curves, label: str, values: NDArray[np.float64], floor: float) -> None:
    fmr = np.array(curves.fmr)
    shown = fmr > 0  # a logarithmic axis has no place for zero
    axes.plot(fmr[shown], values[shown], color=_BLUE)
    axes.set_xscale("log")
    if min(fmr[shown]) < floor:
        axes.axvspan(min(fmr[shown]), floor, color=_INK, alpha=0.12, linewidth=0, label="not measurable")
        axes.legend()
    axes.set_xlabel("FMR")
    axes.set_ylabel(label)


def _figure(name: str, draw: Callable[[Axes], None]) -> str:
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):  # the salt makes the file the same every time
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        draw(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Only the element, in the page's colour, with names that no other figure of the page has."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
