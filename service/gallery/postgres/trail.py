"""The audit log in the database: one chain for all servers, an entry in the transaction of what it tells of.

The row `audit_head` says what the newest entry is. Whoever adds one holds that row until the commit, so the entries of
all servers form one chain; it is taken as late as may be.
"""

import hmac
from collections.abc import Iterator, Sequence
from typing import Any

from service.errors import StorageError
from service.gallery.audit import BrokenChainError, Proof, readable
from service.gallery.postgres.database import Database, Witness
from service.gallery.trail import Decisions, Entry, Waiting, entry_mac

_COLUMNS = "seq, at, actor, event, detail, mac"
_CHUNK = 10_000


class PostgresTrail:
    """Adds, shows and proves entries."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key
        self._decisions = Decisions(database.now, self._write_together)

    def add(self, actor: str, event: str, **detail: Any) -> Witness:
        """An entry; inside the transaction of what it tells of, and near its end."""
        return self._write([Waiting(self._database.now(), actor, event, Waiting.text(detail))])

    def note(self, actor: str, event: str, **detail: Any) -> None:
        """An entry of its own, durable when this returns, or as soon as there is a database again."""
        self._decisions.note(actor, event, detail)

    def flush(self) -> None:
        """Write what waits for a database, before the program ends."""
        self._decisions.flush()

    def page(self, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries, newest first, those before entry `before`; with the names of who is still there."""
        rows = self._database.read(
            f"SELECT {_COLUMNS} FROM audit WHERE seq < %s ORDER BY seq DESC LIMIT %s",  # noqa: S608
            (2**62 if before is None else min(before, 2**62), limit),
        )
        return [readable(_entry(row), self._name) for row in rows]

    def verify(self) -> Proof:
        """Check every entry.

        Raises:
            BrokenChainError: one was changed, removed or put in.
        """
        with self._database.snapshot():
            last, before = 0, b""
            for entry in self._all():
                if entry.seq != last + 1:
                    raise BrokenChainError(last + 1, f"it is missing; the next one is {entry.seq}")
                if not hmac.compare_digest(self._mac(before, entry), entry.mac):
                    raise BrokenChainError(entry.seq, "it was changed, or the one before it")
                last, before = entry.seq, entry.mac
            if self._head("") != (last, before):
                raise BrokenChainError(last + 1, "it is missing, with all after it")
        return Proof(min(1, last), last)

    def _write_together(self, entries: Sequence[Waiting]) -> None:
        with self._database.transaction():
            self._write(entries)

    def _write(self, entries: Sequence[Waiting]) -> Witness:
        seq, mac = self._head(" FOR UPDATE")
        rows = []
        for each in entries:
            seq, before = seq + 1, mac
            mac = entry_mac(self._key, before, seq, each.at, each.actor, each.event, each.detail)
            rows.append((seq, each.at, each.actor, each.event, each.detail, mac))
        self._database.write_many(f"INSERT INTO audit ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)", rows)  # noqa: S608
        self._database.write("UPDATE audit_head SET seq = %s, mac = %s", (seq, mac))
        witness = Witness(seq, mac)
        self._database.testify(witness)
        return witness

    def _head(self, lock: str) -> tuple[int, bytes]:
        row = self._database.one(f"SELECT seq, mac FROM audit_head{lock}")  # noqa: S608
        if row is None:
            raise StorageError("the gallery is damaged: the row of its newest audit entry is missing; restore a backup")
        return row[0], bytes(row[1])

    def _all(self) -> Iterator[Entry]:
        last = 0
        while True:
            rows = self._database.read(
                f"SELECT {_COLUMNS} FROM audit WHERE seq > %s ORDER BY seq LIMIT %s",  # noqa: S608
                (last, _CHUNK),
            )
            yield from (_entry(row) for row in rows)
            if len(rows) < _CHUNK:
                return
            last = rows[-1][0]

    def _mac(self, before: bytes, entry: Entry) -> bytes:
        return entry_mac(self._key, before, entry.seq, entry.at, entry.actor, entry.event, entry.detail)

    def _name(self, table: str, uid: str) -> str | None:
        row = self._database.one(f"SELECT name FROM {table} WHERE uid = %s", (uid,))  # noqa: S608
        return row[0] if row else None


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(row[0], row[1], row[2], row[3], row[4], bytes(row[5]))
