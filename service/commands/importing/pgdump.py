"""Rows of a plain dump of PostgreSQL, as pg_dump writes it: COPY ... FROM stdin, without a database to put it into."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.commands.importing.source import BadRecordError
from service.errors import InvalidRequestError

_COPY = re.compile(rb'COPY (?:"?\w+"?\.)?"?(\w+)"? \((.+)\) FROM stdin;\s*')
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NAMED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_OTHER_FORMS = {
    b"PGDMP": "it is an archive: make it plain with pg_restore --file dump.sql ARCHIVE",
    b"\x1f\x8b": "it is compressed: unpack it with gunzip",
    b"toc.dat": "it is a tar archive: make it plain with pg_restore --file dump.sql ARCHIVE",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies in the file, so that a large one is read when it is needed."""

    offset: int
    length: int


class Dump:
    """A dump. Its rows are found once; values are read from their places."""

    def __init__(self, path: Path, tables: frozenset[str]) -> None:
        """Find the rows of some tables.

        Raises:
            InvalidRequestError: it cannot be read, or is a dump of another form.
        """
        self._path = path
        self._columns: dict[str, list[str]] = {}
        self._places: dict[str, list[Place]] = {}
        try:
            with path.open("rb") as file:
                self._refuse_other_forms(file)
                self._find(file, tables)
        except OSError as error:
            raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from error

    @property
    def tables(self) -> set[str]:
        """Those that were found."""
        return set(self._columns)

    def rows(self, table: str, *columns: str) -> Iterator[tuple[Place, list[str | None] | BadRecordError]]:
        """Some columns of each row as text (NULL is None; so is a column that the table has not), or what is wrong."""
        with self._path.open("rb") as file:
            for place in self._places.get(table, []):
                file.seek(place.offset)
                try:
                    fields = self._fields(table, file.read(place.length))
                    yield place, [_text(fields.get(column)) for column in columns]
                except BadRecordError as error:
                    yield place, error

    def bytes_at(self, table: str, place: Place, column: str) -> bytes:
        """A bytea of the row at a place; empty for NULL.

        Raises:
            BadRecordError: it is none.
        """
        with self._path.open("rb") as file:
            file.seek(place.offset)
            value = self._fields(table, file.read(place.length)).get(column)
        return b"" if value is None else _bytea(value)

    def _fields(self, table: str, line: bytes) -> Mapping[str, bytes | None]:
        columns, raw = self._columns[table], line.rstrip(b"\r\n").split(b"\t")
        if len(raw) != len(columns):
            raise BadRecordError(f"a row of {table} has {len(raw)} values in place of {len(columns)}")
        return dict(zip(columns, (None if each == rb"\N" else each for each in raw), strict=True))

    def _refuse_other_forms(self, file: BinaryIO) -> None:
        begin = file.read(8)
        for magic, what in _OTHER_FORMS.items():
            if begin.startswith(magic):
                raise InvalidRequestError(f"{self._path} is no plain dump: {what}")
        file.seek(0)

    def _find(self, file: BinaryIO, tables: frozenset[str]) -> None:
        table, offset = None, 0
        for line in file:
            if table is not None:
                if line.rstrip(b"\r\n") == rb"\.":
                    table = None
                elif table in tables:
                    self._places[table].append(Place(offset, len(line)))
            elif line.startswith(b"COPY ") and (head := _COPY.fullmatch(line)) is not None:
                table = head[1].decode()
                if table in tables:
                    self._columns[table] = [name.strip().strip('"') for name in head[2].decode().split(",")]
                    self._places.setdefault(table, [])
            elif line.startswith(b"INSERT INTO") and not self._columns:
                raise InvalidRequestError(
                    f"{self._path} was made with --inserts or --column-inserts: make it without them"
                )
            offset += len(line)


def _unescaped(value: bytes) -> bytes:
    def one(escape: re.Match[bytes]) -> bytes:
        code = escape[1]
        if code.isdigit():
            return bytes([int(code, 8) & 0xFF])
        if len(code) > 1:
            return bytes([int(code[1:], 16)])
        return _NAMED.get(code, code)

    return _ESCAPE.sub(one, value)


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return _unescaped(value).decode()
    except UnicodeDecodeError:
        raise BadRecordError("a text is not UTF-8") from None


def _bytea(value: bytes) -> bytes:
    """Both forms that a server may write: hex, and the older one of escapes."""
    text = _unescaped(value)
    try:
        return bytes.fromhex(text[2:].decode("ascii")) if text.startswith(rb"\x") else _from_escapes(text)
    except ValueError:
        raise BadRecordError("bytes are not in a form that PostgreSQL writes") from None


def _from_escapes(text: bytes) -> bytes:
    return re.sub(rb"\\(\\|[0-7]{3})", lambda each: b"\\" if each[1] == b"\\" else bytes([int(each[1], 8)]), text)
