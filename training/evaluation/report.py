"""A measurement as one HTML file that needs nothing else, and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import jinja2
from markupsafe import Markup

from training.data.errors import DataError
from training.evaluation import plots
from training.evaluation.intervals import rule_of_three
from training.evaluation.measure import Measurement
from training.evaluation.report_page import PAGE

Facts = Mapping[str, str | int | float | bool]


def to_html(measurement: Measurement, facts: Facts) -> str:
    """One page, readable on light and on dark; no scripts, nothing is loaded from elsewhere.

    Args:
        measurement: what was measured.
        facts: what to say of model and data, name to value.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["share"] = _share
    # Our own drawing, of numbers only: no text of the data is in it.
    figures = {name: Markup(svg) for name, svg in _figures(measurement).items()}  # noqa: S704
    return environment.from_string(PAGE).render(found=measurement, facts=facts, figures=figures) + "\n"


def to_json(measurement: Measurement, facts: Facts) -> str:
    """All numbers, with the facts under "facts"."""
    value = {"format": 1, "facts": dict(facts), **asdict(measurement)}
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """A file.

    Raises:
        DataError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _figures(measurement: Measurement) -> dict[str, str]:
    thresholds = [point.threshold for point in measurement.rates if point.fmr == 1e-3 and point.threshold is not None]
    floor = rule_of_three(measurement.impostor_pairs)
    figures = {
        "histogram": plots.histogram_svg(measurement.histogram, thresholds),
        "roc": plots.roc_svg(measurement.curves, floor),
        "det": plots.det_svg(measurement.curves, floor),
    }
    if measurement.identification is not None:
        figures["cmc"] = plots.cmc_svg(measurement.identification.cmc)
    return figures


def _share(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
