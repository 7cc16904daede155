"""results.json, the numbers behind the pictures, and the tables of docs/losses.md that are made of it."""

import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from training.data.errors import DataError
from training.figures.runs import VARIANTS


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "matplotlib": mpl.__version__,
    }


def read(folder: Path) -> dict[str, Any]:
    """results.json of a folder; empty where there is none yet.

    Raises:
        DataError: it is not what this program writes.
    """
    path = folder / "results.json"
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no results")
    return values


def write(folder: Path, values: Mapping[str, Any]) -> None:
    """Write results.json, beside and renamed.

    Raises:
        DataError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "results.json.partial"
        partial.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.replace(folder / "results.json")
    except OSError as error:
        raise DataError(f"cannot write {folder / 'results.json'}: {error.strerror}") from error


def tables(values: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by name of the picture they belong to, of those pictures that there are results of."""
    return {name: make(values[name]) for name, make in _TABLES.items() if name in values}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in (head, *rows)]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines)


def _features(found: Mapping[str, Any]) -> str:
    rows = [
        (
            variant.title,
            f"{100 * found[variant.name]['accuracy']:.2f} %",
            ", ".join(map(str, found[variant.name]["lost"])) or ("" if variant.loss == "triplet" else "none"),
        )
        for variant in VARIANTS
        if variant.name in found
    ]
    return _table(("loss", "test digits right", "digits lost"), rows)


def _angles(found: Mapping[str, Any]) -> str:
    rows = [
        (
            title,
            f"{found[name]['within_median']:.1f}",
            f"{found[name]['between_median']:.1f}",
            f"{100 * found[name]['confused']:.2f} %",
            f"{found[name]['order']:.4f}",
        )
        for name, title in (("softmax", "softmax"), ("a-softmax-4", "A-Softmax, m = 4"))
    ]
    head = ("loss", "median within", "median between", "between, below the median within", "area under the ROC curve")
    return _table(head, rows)


def _margin(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            str(each["margin"]),
            f"{each['weights']:.2f}",
            f"{each['boundaries']:.2f}",
            f"{each['predicted']:.2f}",
            f"{100 * each['correct']:.1f} %",
        )
        for each in found
    ]
    head = (
        "m",
        "W1 to W2",
        "between boundaries, measured",
        "(m-1)/(m+1) of W1 to W2",
        "samples beyond theirs",
    )
    return _table(head, rows)


def _m_min(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            margin,
            f"{each['widest']:.1f}",
            f"{each['nearest']:.1f}",
            str(each["empty"]),
            f"{each['within_95']:.1f}",
            f"{each['between_5']:.1f}",
        )
        for margin, each in sorted(found.items())
    ]
    head = (
        "m",
        "widest region",
        "narrowest gap",
        "classes without a region",
        "95 % within are below",
        "95 % between are above",
    )
    return _table(head, rows)


_TABLES: Mapping[str, Callable[[Any], str]] = {
    "features": _features,
    "angles": _angles,
    "margin": _margin,
    "m_min": _m_min,
}


def sentences(values: Mapping[str, Any]) -> list[str]:
    """What docs/losses.md says about numbers outside of its tables; a test looks for each, line breaks aside."""
    setting, runs = values["settings"]["features"], values["features"]
    compared, widths = values["angles"], values["m_min"]
    worst = max(abs(each["boundaries"] - each["predicted"]) for each in values["margin"])
    slopes = values["psi"]["slope_at_0"]
    first, last = compared["softmax"], compared["a-softmax-4"]
    return [
        f"{setting['steps']} steps of {setting['batch']} digits, reduced to {setting['side']} x {setting['side']} "
        f"pixels, seed {setting['seed']}",
        f"Measured and derived angles differ by at most {_power(worst)} degrees.",
        f"{slopes['2']:g} for m = 2 and {slopes['4']:g} for m = 4",
        f"this picture's accuracy is {100 * runs['triplet']['accuracy']:.1f} %",
        f"ends at {100 * runs['l-softmax-4-hurried']['accuracy']:.1f} % instead of "
        f"{100 * runs['l-softmax-4']['accuracy']:.1f} %",
        f"The share of pairs of two classes that are closer than half the pairs of one class falls from "
        f"{100 * first['confused']:.2f} % to {100 * last['confused']:.2f} %.",
        f"all pairs out of {first['digits']:,} test digits",
        f"At m = 4 the widest region is {widths['4']['widest']:.1f} degrees and the narrowest gap "
        f"{widths['4']['nearest']:.1f}.",
        f"{widths['1']['within_95']:.1f} against {widths['1']['between_5']:.1f} degrees at m = 1, "
        f"{widths['4']['within_95']:.1f} against {widths['4']['between_5']:.1f} at m = 4",
        f"Softmax has lost the digit {_list(runs['softmax']['lost'])}, L-Softmax with m = 4 the digits "
        f"{_list(runs['l-softmax-4']['lost'])}.",
    ]


def _list(digits: Sequence[int]) -> str:
    return " and ".join(map(str, digits)) or "none"


def _power(value: float) -> str:
    """The next power of ten: what rounding leaves differs from machine to machine, its order hardly."""
    return f"1e{math.ceil(math.log10(max(value, 1e-300)))}"
