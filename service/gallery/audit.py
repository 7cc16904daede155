"""The audit log: its pages, its proof, and its archive.

New entries lie in the file of the records (trail.py). Older ones are sealed into files that nobody writes to any more:

    DATA/audit/000000000001-000000010000.jsonl     an entry a line: [seq, at, actor, event, detail, mac]

The newest sealed entry stays in the records as well, so that the chain goes on from it.
"""

import hmac
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import StorageError
from service.gallery.database import Database
from service.gallery.trail import Entry, Trail, entry_mac
from service.security.ledger import Anchor
from service.security.master import write_new
from service.security.vault import as_storage_error

SEAL_FROM = 50_000  # entries in the records at which the older ones are sealed by themselves
SEGMENT = re.compile(r"(\d{12})-(\d{12})\.jsonl")
_COLUMNS = "seq, at, actor, event, detail, mac"
_CHUNK = 10_000


class BrokenChainError(StorageError):
    """The log is not what was written. `seq` is the first entry that does not fit."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"the audit log is broken at entry {seq}: {reason}", entry=seq)
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Proof:
    """What was checked: entries `first` to `last`. first > 1: those before are archived elsewhere."""

    first: int
    last: int


class Audit:
    """Reads, proves and archives the log."""

    def __init__(
        self,
        database: Database,
        key: bytes,
        anchor: Anchor,
        trail: Trail,
        seal_store: Callable[[int, bytes], None],
        folder: Path,
    ) -> None:
        self._database = database
        self._trail = trail
        self._seal_store = seal_store
        self._key = key
        self._anchor = anchor
        self._folder = folder

    def page(self, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries, newest first, those before entry `before`; with the names of who is still there."""
        found: list[Entry] = []
        end = before if before is not None else 2**62
        rows = self._database.read(
            f"SELECT {_COLUMNS} FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?",  # noqa: S608
            (end, limit),
        )
        found += [_entry(row) for row in rows]
        if len(found) < limit:
            end = found[-1].seq if found else end
            found += self._sealed_before(end, limit - len(found))
        return [readable(entry, self._name) for entry in found]

    def verify(self) -> Proof:
        """Check every entry that is here.

        Raises:
            BrokenChainError: one was changed, removed, put in or cut off.
            StorageError: a file of it cannot be read.
        """
        with self._database.holding():  # nothing is sealed meanwhile
            return self._verify()

    def _verify(self) -> Proof:
        first, last, before = 0, 0, b""
        previous: Entry | None = None
        anchor = self._anchor.get()
        known = (anchor.seq, anchor.mac) if anchor else None
        self._check_cut()
        for entry in self._all():
            if previous is not None and entry.seq == last:  # sealed, and still in the records
                if entry != previous:
                    raise BrokenChainError(entry.seq, "it differs between the archive and the records")
                continue
            if last and entry.seq != last + 1:
                raise BrokenChainError(last + 1, f"it is missing; the next one is {entry.seq}")
            # Before the first one that is here there may be an archive elsewhere: what it began from is not known.
            if (last or entry.seq == 1) and not self._fits(entry, before):
                raise BrokenChainError(entry.seq, "it was changed, or the one before it")
            if known and entry.seq == known[0] and entry.mac != known[1]:
                raise BrokenChainError(entry.seq, "it is not the one that was acknowledged")
            first, last, before, previous = first or entry.seq, entry.seq, entry.mac, entry
        if known and known[0] > last:
            raise BrokenChainError(last + 1, f"it is missing, with all after it; there were {known[0]}")
        return Proof(first, last)

    def seal(self, keep: int = 1000) -> Path | None:
        """Move all but the newest `keep` entries into a file of the archive; None if there are none to move.

        Raises:
            StorageFullError, StorageError: it cannot be written; nothing was moved.
        """
        (row,) = self._database.read("SELECT max(seq) FROM audit")
        last = (row[0] or 0) - max(keep, 1)
        segments = self._segments()
        start = segments[-1][1] + 1 if segments else 1
        rows = self._database.read(
            f"SELECT {_COLUMNS} FROM audit WHERE seq >= ? AND seq <= ? ORDER BY seq",  # noqa: S608
            (start, last),
        )
        if not rows:
            return None
        path = self._folder / f"{rows[0][0]:012d}-{rows[-1][0]:012d}.jsonl"
        try:
            write_new(path, b"".join(_line(_entry(each)) for each in rows))
        except OSError as error:
            raise as_storage_error(error, f"cannot write {path}") from error
        with self._trail.change():
            self._database.write("DELETE FROM audit WHERE seq < ?", (rows[-1][0],))
            self._seal_store(rows[-1][0], rows[-1][5])
        return path

    def seal_if_long(self) -> None:
        """Seal older entries once there are many."""
        (row,) = self._database.read("SELECT count(*) FROM audit")
        if row[0] >= SEAL_FROM:
            self.seal()

    def _fits(self, entry: Entry, before: bytes) -> bool:
        mac = entry_mac(self._key, before, entry.seq, entry.at, entry.actor, entry.event, entry.detail)
        return hmac.compare_digest(mac, entry.mac)

    def _check_cut(self) -> None:
        """That the records begin with the entry that was sealed last: only `seal` takes entries from the front."""
        (row,) = self._database.read("SELECT sealed_to, sealed_mac FROM store")
        first = self._database.one("SELECT seq, mac FROM audit ORDER BY seq LIMIT 1")
        if first is None or first[0] != max(1, row[0]) or (row[0] and first[1] != row[1]):
            raise BrokenChainError(max(1, row[0]), "it is missing, or not the one that was sealed last")

    def _all(self) -> Iterator[Entry]:
        """Archive first, then the records; the entry in both comes twice."""
        last = 0
        for first, end, path in self._segments():
            entries = list(_read(path))
            if not entries or entries[0].seq != first or entries[-1].seq != end:
                raise BrokenChainError(first, f"{path.name} does not hold what its name says")
            yield from entries
            last = end
        while True:
            rows = self._database.read(
                f"SELECT {_COLUMNS} FROM audit WHERE seq >= ? ORDER BY seq LIMIT ?",  # noqa: S608
                (last, _CHUNK),
            )
            yield from (_entry(row) for row in rows)
            if len(rows) < _CHUNK:
                return
            last = rows[-1][0] + 1

    def _segments(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self._folder.glob("*.jsonl") if self._folder.is_dir() else ():
            match = SEGMENT.fullmatch(path.name)
            if match:
                found.append((int(match[1]), int(match[2]), path))
        return sorted(found)

    def _sealed_before(self, end: int, limit: int) -> list[Entry]:
        found: list[Entry] = []
        for first, _, path in reversed(self._segments()):
            if first < end and len(found) < limit:
                found += [entry for entry in reversed(list(_read(path))) if entry.seq < end][: limit - len(found)]
        return found

    def _name(self, table: str, uid: str) -> str | None:
        row = self._database.one(f"SELECT name FROM {table} WHERE uid = ?", (uid,))  # noqa: S608
        return row[0] if row else None


def readable(entry: Entry, name_of: Callable[[str, str], str | None]) -> dict[str, Any]:
    """An entry as it is shown; `name_of` gives the name of a row (table, uid) that is still there."""
    detail = _detail(entry)
    for field, table in (("collection", "collections"), ("subject", "subjects")):
        uid = detail.get(field)
        if isinstance(uid, str):
            detail[field] = {"uid": uid, "name": name_of(table, uid)}
    return {"seq": entry.seq, "at": entry.at, "actor": entry.actor, "event": entry.event, "detail": detail}


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(*row)


def _detail(entry: Entry) -> dict[str, Any]:
    try:
        return dict(json.loads(entry.detail))
    except (ValueError, TypeError) as error:
        raise BrokenChainError(entry.seq, "it cannot be read") from error


def _line(entry: Entry) -> bytes:
    fields = [entry.seq, entry.at, entry.actor, entry.event, entry.detail, entry.mac.hex()]
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _read(path: Path) -> Iterator[Entry]:
    first = int(path.name[:12])
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines[:-1]):
        try:
            seq, at, actor, event, detail, mac = json.loads(line)
            if not isinstance(seq, int) or not all(isinstance(each, str) for each in (at, actor, event, detail)):
                raise ValueError("a field is of the wrong kind")
            entry = Entry(seq, at, actor, event, detail, bytes.fromhex(mac))
            if _line(entry) != line + b"\n":
                raise ValueError("it is written otherwise than this program writes it")
            yield entry
        except (ValueError, TypeError) as error:
            raise BrokenChainError(first + number, f"a line of {path.name} cannot be read") from error
    if lines[-1]:
        raise BrokenChainError(first + len(lines) - 1, f"{path.name} is cut off")
