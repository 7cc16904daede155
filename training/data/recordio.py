"""MXNet's RecordIO, as insightface packs its training sets: train.rec, and train.idx where it is there.

A file is records: uint32 magic, uint32 (3 bits flag, 29 bits length), the bytes, padding to 4. Where the bytes hold the
magic themselves, the writer leaves it out and splits the record there: first part flag 1, middle 2, last 3. Each holds
a header, uint32 flag, float32 label, uint64 id, uint64 id2, then `flag` more float32 labels, then the photo. Record 0
may be no photo: its first label is then one more than the number of photos. Records that give the range of an identity
hold no photo either (insightface, recognition/_datasets_). All numbers are little-endian.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from training.data.errors import DataError
from training.data.people import Photo

MAGIC = 0xCED7230A
_MAGIC = struct.pack("<I", MAGIC)
_HEADER = struct.Struct("<IfQQ")
# The label's place within the record: a damaged count must not ask for gigabytes.
_MAX_LABELS = 2**16


def read_records(path: Path) -> Iterator[Photo]:
    """Photos in the order of the index beside the file, or of the file without one. A person's name is the label.

    Raises:
        DataError: damaged or cut off, with the byte at which the record begins.
    """
    offsets = _read_index(path.with_suffix(".idx"))
    expected: float | None = None
    count = 0
    try:
        with path.open("rb") as file:
            for number, place, record in _records(path, file, offsets):
                labels, data = _unpack(path, place, record)
                if len(labels) > 1 and not data:
                    expected = labels[0] if number == 0 else expected
                    continue
                count += 1
                person = _person(path, place, labels[0])
                yield Photo(person, f"{person}/{number}", data)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    # The number is a float32: beyond 2^24 it is rounded.
    if expected is not None and np.float32(count + 1) < expected:
        raise DataError(f"{path} is cut off: it should hold {expected - 1:.0f} photos, it holds {count}")


def _read_index(path: Path) -> list[tuple[int, int]] | None:
    """(number, offset) of each record, by number."""
    try:
        lines = path.read_text("ascii").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    entries = []
    for line, text in enumerate(lines, 1):
        cells = text.split("\t")
        if len(cells) != 2 or not all(cell.isdigit() and len(cell) < 19 for cell in cells):
            raise DataError(f"{path}, line {line}: not a number, a tab and an offset")
        entries.append((int(cells[0]), int(cells[1])))
    return sorted(entries)


def _records(path: Path, file: BinaryIO, offsets: list[tuple[int, int]] | None) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of each record."""
    size = os.fstat(file.fileno()).st_size
    if offsets is None:
        number = 0
        while (place := file.tell()) < size:
            yield number, place, _read_record(path, file, size)
            number += 1
        return
    for number, place in offsets:
        if place >= size:
            raise DataError(f"{path} is cut off: by its index record {number} begins at byte {place} of {size}")
        file.seek(place)
        yield number, place, _read_record(path, file, size)


def _read_record(path: Path, file: BinaryIO, size: int) -> bytes:
    begin = file.tell()
    parts: list[bytes] = []
    while True:
        flag, data = _read_part(path, file, size, begin)
        if (flag in (0, 1)) != (not parts):
            raise DataError(f"{path} is damaged: a part is missing in the record at byte {begin}")
        parts.append(data)
        if flag in (0, 3):
            return _MAGIC.join(parts)


def _read_part(path: Path, file: BinaryIO, size: int, begin: int) -> tuple[int, bytes]:
    head = file.read(8)
    if len(head) < 8:
        raise DataError(f"{path} is cut off in the record at byte {begin}")
    magic, word = struct.unpack("<II", head)
    flag, length = word >> 29, word & (2**29 - 1)
    if magic != MAGIC or flag > 3:
        raise DataError(f"{path} is damaged or no RecordIO file: there is no record at byte {file.tell() - 8}")
    padded = (length + 3) // 4 * 4
    # Before reading: a damaged length may ask for half a gigabyte.
    if file.tell() + padded > size:
        raise DataError(f"{path} is cut off in the record at byte {begin}")
    return flag, file.read(padded)[:length]


def _unpack(path: Path, place: int, record: bytes) -> tuple[tuple[float, ...], bytes]:
    """(labels, photo); a record without a label array has one label."""
    if len(record) < _HEADER.size:
        raise DataError(f"{path} is damaged: the record at byte {place} has no header")
    flag, label, _, _ = _HEADER.unpack_from(record)
    if flag == 0:
        return (label,), record[_HEADER.size :]
    end = _HEADER.size + 4 * flag
    if flag > _MAX_LABELS or end > len(record):
        raise DataError(f"{path} is damaged: the record at byte {place} is shorter than its {flag} labels")
    return struct.unpack_from(f"<{flag}f", record, _HEADER.size), record[end:]


def _person(path: Path, place: int, label: float) -> str:
    if not math.isfinite(label) or label < 0 or label != int(label):
        raise DataError(f"{path}: the record at byte {place} has the label {label}, not a whole number from 0")
    return str(int(label))
