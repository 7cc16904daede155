"""One table and one JSON document for what a benchmark measured."""

import json
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


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
