"""A snapshot of an index as a file: a line of JSON, then blocks, each encrypted under the key of its collection.

The line says what the blocks are of, and how many faces each holds; it is part of the context of every block, with the
block's number, and bears a number drawn anew for each file. So blocks cannot be dropped, exchanged, or taken from
another collection, another contract or an earlier file.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from service.domain import ModelInfo
from service.errors import StorageError
from service.gallery.blocks import Ids
from service.gallery.folder import overwrite, zero
from service.security.master import sync_folder
from service.security.vault import MAC_BYTES, SEALING_BYTES, Cipher, canonical

Tags = NDArray[np.uint8]  # (n, MAC_BYTES): the tags of rows
UNFINISHED = ".tmp"
_FORMAT = 1
_LONGEST_LINE = 2**20
_AHEAD = 2**26  # bytes that the disk is asked for before they are needed: it is kept busy while blocks are opened


class UnusableError(Exception):
    """A snapshot that is not used, and why."""


@dataclass(frozen=True, slots=True)
class Faces:
    """Faces side by side: row numbers (n,), tags of the rows (n, MAC_BYTES), vectors (n, D)."""

    rows: Ids
    tags: Tags
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Header:
    """The first line. `counts`: faces of each block; `drawn`: at random, for this file alone."""

    format: int
    collection: str
    contract_id: str
    dimension: int
    counts: list[int]
    drawn: str

    def line(self) -> bytes:
        """The one form of it."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    def bytes_of(self, count: int) -> int:
        """How long a block of so many faces is when it is encrypted."""
        return SEALING_BYTES + count * (8 + MAC_BYTES + 4 * self.dimension)


def new_header(collection: str, model: ModelInfo, counts: list[int]) -> Header:
    """Of a file that is about to be written."""
    return Header(_FORMAT, collection, model.contract_id, model.dimension, counts, secrets.token_hex(16))


def write(path: Path, header: Header, cipher: Cipher, blocks: Iterable[Faces]) -> None:
    """Write a snapshot durably, as a whole or not at all.

    Raises:
        OSError: it cannot be written; nothing is left of it. So it is with whatever `blocks` raises.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(header.line())
            for number, block in enumerate(blocks):
                file.write(cipher.seal(_packed(block), _context(header, number)))
            file.flush()
            os.fsync(file.fileno())
        _take_place(unfinished, path)
    except BaseException:
        overwrite(unfinished)
        raise


def _take_place(new: Path, path: Path) -> None:
    """The bytes of the older one are overwritten: they must not outlast, under no name, who is in them."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(path.open("rb+")) if path.exists() else None
        new.replace(path)
        sync_folder(path.parent)
        if old is not None:
            zero(old)


def read(path: Path, collection: str, model: ModelInfo, cipher: Cipher) -> Faces:
    """All faces of a snapshot of this collection.

    Raises:
        UnusableError: it is of something else, of another format, or not what was written.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = _header(file)
        if header.format != _FORMAT:
            raise UnusableError(f"it is of format {header.format}, this program knows {_FORMAT}")
        if (header.collection, header.contract_id, header.dimension) != (
            collection,
            model.contract_id,
            model.dimension,
        ):
            raise UnusableError("it is of another collection or contract")
        expected = len(header.line()) + sum(header.bytes_of(count) for count in header.counts)
        if os.fstat(file.fileno()).st_size != expected:  # before memory is taken for what it claims to hold
            raise UnusableError("it is not as long as it says")
        return _opened(file, header, cipher)


def _header(file: BinaryIO) -> Header:
    line = file.readline(_LONGEST_LINE)
    try:
        header = Header(**json.loads(line))
        if header.line() != line or not all(isinstance(each, int) and each > 0 for each in header.counts):
            raise UnusableError("its first line is not what was written")
    except (ValueError, TypeError, RecursionError) as error:
        raise UnusableError("its first line cannot be read") from error
    return header


def _opened(file: BinaryIO, header: Header, cipher: Cipher) -> Faces:
    total, first = sum(header.counts), 0
    vectors = np.empty((total, header.dimension), np.float32)
    faces = Faces(np.empty(total, np.int64), np.empty((total, MAC_BYTES), np.uint8), vectors)
    for number, count in enumerate(header.counts):
        _read_ahead(file)
        try:
            plain = memoryview(cipher.open(file.read(header.bytes_of(count)), _context(header, number)))
        except StorageError as error:
            raise UnusableError("it is not what was written") from error
        place, after_rows, after_tags = slice(first, first + count), 8 * count, (8 + MAC_BYTES) * count
        faces.rows[place] = np.frombuffer(plain[:after_rows], "<i8")
        faces.tags[place] = np.frombuffer(plain[after_rows:after_tags], np.uint8).reshape(count, -1)
        faces.vectors[place] = np.frombuffer(plain[after_tags:], "<f4").reshape(count, -1)
        first += count
    return faces


def _read_ahead(file: BinaryIO) -> None:
    if hasattr(os, "posix_fadvise"):  # not on every system
        with contextlib.suppress(OSError):  # nor for every file; it is a hint
            os.posix_fadvise(file.fileno(), file.tell(), _AHEAD, os.POSIX_FADV_WILLNEED)


def _packed(block: Faces) -> bytes:
    return block.rows.astype("<i8").tobytes() + block.tags.tobytes() + block.vectors.astype("<f4").tobytes()


def _context(header: Header, number: int) -> bytes:
    return b"snapshot of an index " + canonical((header.line(), number))
