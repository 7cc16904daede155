"""One table and one JSON document for what a benchmark measured."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def report(title: str, machine: dict[str, str], rows: dict[str, dict[str, Any]], out: Path | None) -> None:
    """Print, and write to a file if one is named."""
    for name, value in machine.items():
        print(f"{name}: {value}")
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"\n{title:<28}" + "".join(f"{column:>16}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<28}" + "".join(f"{_cell(row.get(column, '')):>16}" for column in columns))
    if out:
        out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def of_rounds(runs: Sequence[dict[str, Any]], spread: str, *keys: str) -> dict[str, Any]:
    """One row out of a load's rounds (load.py): medians, and of the key `spread` the lowest and highest as well."""
    row: dict[str, Any] = {}
    for key in (spread, *keys):
        row[key] = statistics.median(run[key] for run in runs)
        if key == spread:
            row["lowest"], row["highest"] = (float(of(run[key] for run in runs)) for of in (min, max))
    if all(run.get("ok_ms") for run in runs):
        row["p50_ms"], row["p99_ms"] = (float(statistics.median(run["ok_ms"][k] for run in runs)) for k in (0, 1))
    row["failed"] = sum(sum(run["codes"].values()) - run["count"] for run in runs if run["codes"])
    return row


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
