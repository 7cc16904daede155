"""How all pictures look: one colour a digit, a card of its own behind it, so that light and dark pages both suit it."""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.data.errors import DataError

# Ten colours that stay apart for most colour-blind eyes too: Tol's and Okabe and Ito's, dark enough for white paper.
DIGITS = ("#332288", "#E69F00", "#009E73", "#CC3311", "#0077BB", "#882255", "#7F8C1F", "#EE3377", "#33BBEE", "#5D4037")
# One colour a margin, m = 1 .. 5, from light to dark.
MARGINS = ("#7a7a7a", "#4da6d9", "#2b7bba", "#d9730d", "#a3123a")
WITHIN, BETWEEN = "#0077BB", "#CC3311"

_LARGEST = 150_000
_SETTINGS = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "svg.hashsalt": "facesphere",  # ids in the file would differ from run to run
    "svg.fonttype": "path",  # the same glyphs on every machine
}


P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """A function that draws in this style, and leaves matplotlib's own settings as they were."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_SETTINGS):
            return function(*args, **kwargs)

    return inside


def canvas(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns axes, listed row by row; size in inches. No window, and no state kept in pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def save(figure: Figure, path: Path) -> Path:
    """Write an SVG or PNG, by the name's suffix; the same figure gives the same bytes.

    Raises:
        DataError: it cannot be written, or is too large for a page.
    """
    form = path.suffix[1:]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=110, metadata={"Date": None} if form == "svg" else {"Software": None})
    data = _small(buffer.getvalue()) if form == "png" else buffer.getvalue()
    if len(data) > _LARGEST:
        raise DataError(f"{path.name} has {len(data):,} bytes; a page's picture has at most {_LARGEST:,}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    return path


def _small(data: bytes) -> bytes:
    """A PNG with a palette of 256 colours: a third of the size, and no difference that shows."""
    from PIL import Image

    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()
