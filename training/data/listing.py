"""Photos by a list: a CSV file with the columns path and person, and any others as groups."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.errors import DataError
from training.data.people import Photo


def read_list(path: Path) -> Iterator[Photo]:
    """Photos in the order of the list. Paths are relative to the folder that the list lies in.

    Raises:
        DataError: no header, a row of another length, an empty cell or a missing photo, with the line.
    """
    for row in _rows(path):
        try:
            data = (path.parent / row.name).read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{path}, line {row.line}: cannot read {row.name}: {reason}") from error
        yield Photo(row.person, row.name, data, row.groups)


def listed_files(path: Path) -> Iterator[Path]:
    """The photos that a list names, there or not, without opening them.

    Raises:
        DataError: the list is damaged, with the line.
    """
    return (path.parent / row.name for row in _rows(path))


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    name: str
    person: str
    groups: dict[str, str]


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = _check_header(path, next(reader, []))
            for row in reader:
                if row:
                    yield _row(path, reader.line_num, columns, row)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a list in UTF-8") from error


def _check_header(path: Path, columns: list[str]) -> list[str]:
    missing = {"path", "person"} - set(columns)
    if missing:
        raise DataError(f"{path}, line 1: the header must name the columns path and person, got {','.join(columns)!r}")
    twice = next((name for name in columns if not name or columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}, line 1: a column's name is empty or there twice: {twice!r}")
    return columns


def _row(path: Path, line: int, columns: list[str], row: list[str]) -> _Row:
    if len(row) != len(columns):
        raise DataError(f"{path}, line {line}: {len(row)} cells for {len(columns)} columns")
    cells = dict(zip(columns, row, strict=True))
    name, person = cells.pop("path"), cells.pop("person")
    if not name or not person:
        raise DataError(f"{path}, line {line}: path and person must not be empty")
    return _Row(line, name, person, cells)
