"""Lists of pairs to verify: LFW's pairs.txt and pairsDevTest.txt, and CSV (docs/evaluation.md)."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError
from training.data.people import PHOTO_SUFFIXES
from training.evaluation.folds import FOLDS, PairList, spread

_MAX_BYTES = 2**30
_YES = {"1", "true", "yes", "same"}
_NO = {"0", "false", "no", "different"}


@dataclass(frozen=True, slots=True)
class NamedPair:
    """Two photos by name, such as "Name/Name_0001"; fold None where the list has none; line in the list."""

    first: str
    second: str
    same: bool
    fold: int | None
    group: str
    line: int


def read_pairs(path: Path) -> tuple[NamedPair, ...]:
    """A list of pairs; a .csv by its header, any other file as one of LFW's.

    Raises:
        DataError: it cannot be read, or a line is not what it should be; the line is named.
    """
    if path.suffix.lower() == ".bin":
        raise DataError(f"{path} holds photos and pairs in one: give it to --data")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES // 2**20} MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    return _read_csv(path, lines) if path.suffix.lower() == ".csv" else _read_lfw(path, lines)


def _read_lfw(path: Path, lines: Sequence[str]) -> tuple[NamedPair, ...]:
    """Header "folds pairs" or "pairs"; in each fold first `pairs` genuine lines, then as many impostor ones."""
    header = lines[0].split() if lines else []
    if not 1 <= len(header) <= 2 or not all(part.isdecimal() for part in header):
        raise DataError(f'{path}, line 1: a list of LFW begins with "FOLDS PAIRS" or "PAIRS", or should this be .csv?')
    folds, each = (1, int(header[0])) if len(header) == 1 else (int(header[0]), int(header[1]))
    numbered = [(number, line.split()) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if len(numbered) != 2 * folds * each or not numbered:
        raise DataError(f"{path}: its header promises {2 * folds * each} pairs, there are {len(numbered)}")
    return tuple(
        _lfw_pair(path, line, parts, place % (2 * each) < each, None if folds == 1 else place // (2 * each))
        for place, (line, parts) in enumerate(numbered)
    )


def _lfw_pair(path: Path, line: int, parts: list[str], same: bool, fold: int | None) -> NamedPair:
    form = '"NAME I J"' if same else '"NAME I NAME J"'
    names = [parts[0], parts[0]] if same else [parts[0], parts[2 if len(parts) > 2 else 0]]
    numbers = parts[1::1] if same else parts[1::2]
    right = len(parts) == (3 if same else 4) and all(number.isdecimal() and len(number) < 10 for number in numbers)
    if not right or (not same and names[0] == names[1]):
        raise DataError(f"{path}, line {line}: expected {form}, got {' '.join(parts)[:80]!r}")
    first, second = (f"{name}/{name}_{int(number):04d}" for name, number in zip(names, numbers, strict=True))
    return NamedPair(first, second, same, fold, "", line)


def _read_csv(path: Path, lines: Sequence[str]) -> tuple[NamedPair, ...]:
    """Columns photo_a, photo_b, same, and, where they are there, fold and group."""
    reader = csv.DictReader(lines)
    fields = set(reader.fieldnames or ())
    if missing := {"photo_a", "photo_b", "same"} - fields:
        raise DataError(f"{path}, line 1: there is no column {', '.join(sorted(missing))}")
    try:
        pairs = tuple(_csv_pair(path, reader.line_num, row, "fold" in fields) for row in reader)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not pairs:
        raise DataError(f"{path} holds no pairs")
    return pairs


def _csv_pair(path: Path, line: int, row: Mapping[str | None, str | None], folded: bool) -> NamedPair:
    first, second, same = (row.get(name) or "" for name in ("photo_a", "photo_b", "same"))
    answer = same.strip().lower()
    if not first or not second or None in row:
        raise DataError(f"{path}, line {line}: expected two photos and as many values as there are columns")
    if answer not in _YES | _NO:
        raise DataError(f"{path}, line {line}: same must be 1 or 0, got {same[:20]!r}")
    fold = row.get("fold") or ""
    if folded and not (fold.isdecimal() and len(fold) < 10):
        raise DataError(f"{path}, line {line}: fold must be a whole number, got {fold[:20]!r}")
    return NamedPair(first, second, answer in _YES, int(fold) if folded else None, row.get("group") or "", line)


def resolve(
    pairs: Sequence[NamedPair], photos: Sequence[str], failed: Sequence[str], path: Path, seed: int = 0
) -> tuple[PairList, NDArray[np.bool_]]:
    """Names to rows.

    Args:
        pairs: of a list.
        photos: names of the N photos that have a vector; compared without their suffix.
        failed: names of photos in which no face was found.
        path: of the list, for the error.
        seed: deals the pairs out to ten folds where the list has none.

    Returns:
        The pairs, and for each whether both photos have a vector, (P,); rows of a pair without are 0.

    Raises:
        DataError: a photo that is not in the data; its line is named.
    """
    known = {_stem(name): row for row, name in enumerate(photos)} | {name: row for row, name in enumerate(photos)}
    without = {_stem(name) for name in failed}
    rows = np.zeros((len(pairs), 2), np.int64)
    compared = np.ones(len(pairs), np.bool_)
    for place, pair in enumerate(pairs):
        for side, name in enumerate((pair.first, pair.second)):
            row = known.get(name, known.get(_stem(name)))
            if row is not None:
                rows[place, side] = row
            elif _stem(name) in without:
                compared[place] = False
            else:
                raise DataError(f"{path}, line {pair.line}: the data have no photo {name!r}")
    same = np.array([pair.same for pair in pairs], np.bool_)
    groups = tuple(pair.group for pair in pairs) if any(pair.group for pair in pairs) else ()
    return PairList(rows[:, 0], rows[:, 1], same, _folds(pairs, same, seed), False, groups), compared


def _folds(pairs: Sequence[NamedPair], same: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    if any(pair.fold is None for pair in pairs):
        return spread(same, FOLDS, np.random.default_rng(seed))
    return np.array([pair.fold for pair in pairs], np.int64)


def _stem(name: str) -> str:
    """Without the suffix of a photo; "A.J._Cook_0001" has none, though it has dots."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in PHOTO_SUFFIXES else name
