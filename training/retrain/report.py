"""A job as one HTML file that needs nothing else: data, findings with thumbnails, curves, thresholds, decision."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from training.data.aligned import AlignedSet
from training.evaluation import plots
from training.evaluation.intervals import rule_of_three
from training.evaluation.measure import Curves, Histogram
from training.retrain.job import Job
from training.retrain.model_stages import calibration_of
from training.retrain.report_page import PAGE
from training.retrain.shadow import read_shadow
from training.retrain.state import read_json, write_text

_SHOWN = 12  # findings of each kind with their photos
_PIXELS = 72
_GALLERIES = (10, 100, 1000, 10_000)
_FPIR = 0.01


def write_report(job: Job) -> Path:
    """Write JOB/report.html out of whatever is done so far.

    Raises:
        DataError: it cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    path = job.folder.root / "report.html"
    write_text(path, environment.from_string(PAGE).render(**_values(job)) + "\n")
    return path


def _values(job: Job) -> dict[str, Any]:
    stages = [{"name": name, "line": done.outcome.line, "seconds": done.seconds} for name, done in job.done.items()]
    return {
        "name": job.config.name,
        "stages": stages,
        "seconds": sum(done.seconds for done in job.done.values()),
        "findings": _findings(job) if "clean" in job.done else {},
        "decision": job.done["gate"].outcome.facts if "gate" in job.done else None,
        "promoted": "promote" in job.done and job.done["promote"].outcome.facts["promoted"],
        "against": job.done["compare"].outcome.facts["against"] if "compare" in job.done else None,
        "fmr": job.config.gate.fmr,
        "comparison": _json(job, "compare", "compare.json") or [],
        "rates": (_json(job, "evaluate", "evaluation.json") or {}).get("rates", []),
        "groups": (_json(job, "evaluate", "evaluation.json") or {}).get("groups"),
        "thresholds": _thresholds(job) if "calibrate" in job.done else None,
        "figures": _figures(job),
        "shadow": read_shadow(job.config.shadow, job.config.name) if job.config.shadow is not None else None,
    }


def _json(job: Job, stage: str, name: str) -> Any:
    if stage not in job.done:
        return None
    path = job.output(stage) / name
    return read_json(path) if path.is_file() else None


def _findings(job: Job) -> dict[str, Any]:
    """By kind: how many, and the first of them with thumbnails."""
    found: list[dict[str, Any]] = _json(job, "clean", "findings.json") or []
    data = AlignedSet.open(job.output("align") / "set")
    kinds = sorted({each["kind"] for each in found})
    return {
        kind: {
            "count": sum(each["kind"] == kind for each in found),
            "shown": [
                each | {"images": [_own(data, each), _beside(data, each)]}
                for each in [other for other in found if other["kind"] == kind][:_SHOWN]
            ],
        }
        for kind in kinds
    }


def _own(data: AlignedSet, finding: dict[str, Any]) -> str | None:
    """The photo, or the first of the person whom all of it is about."""
    return _thumbnail(data, _first(data, finding["person"]) if finding["row"] is None else finding["row"])


def _beside(data: AlignedSet, finding: dict[str, Any]) -> str | None:
    """The photo that it is the same as, or the first of the person that it looks like."""
    row = finding["other_row"]
    return _thumbnail(data, _first(data, finding["other_person"]) if row is None else row)


def _first(data: AlignedSet, person: str | None) -> int | None:
    known = person in data.people
    return int(np.flatnonzero(data.labels == data.people.index(person))[0]) if person is not None and known else None


def _thumbnail(data: AlignedSet, row: int | None) -> str | None:
    if row is None:
        return None
    crop = np.asarray(data.crops[row])
    image = Image.fromarray(crop if crop.shape[2] == 3 else crop[..., 0])
    buffer = io.BytesIO()
    image.resize((_PIXELS * crop.shape[1] // crop.shape[0], _PIXELS)).save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _thresholds(job: Job) -> dict[str, Any]:
    calibration = calibration_of(job)
    tail = calibration.tail is not None
    galleries = [
        {"size": size, "threshold": calibration.threshold_for_gallery(_FPIR, size)}
        for size in _GALLERIES
        if tail or 1 - (1 - _FPIR) ** (1 / size) >= calibration.fmr_range[0]
    ]
    return {"points": calibration.points, "galleries": galleries, "fpir": _FPIR}


def _figures(job: Job) -> dict[str, Markup]:
    """Curves of the candidate, and its similarities beside the champion's. Our own drawing, of numbers only."""
    ours, theirs = _json(job, "evaluate", "evaluation.json"), _json(job, "compare", "champion.json")
    figures = {}
    if ours is not None:
        floor = rule_of_three(ours["impostor_pairs"])
        curves = Curves(**ours["curves"])
        figures["roc"] = plots.roc_svg(curves, floor)
        figures["det"] = plots.det_svg(curves, floor)
        figures["candidate"] = plots.histogram_svg(Histogram(**ours["histogram"])).replace("histogram-", "candidate-")
    if theirs is not None:
        figures["champion"] = plots.histogram_svg(Histogram(**theirs["histogram"])).replace("histogram-", "champion-")
    return {name: Markup(svg) for name, svg in figures.items()}  # noqa: S704
