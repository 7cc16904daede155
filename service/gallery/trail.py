"""The audit log's newest entries, in the file of the records: a change and its entry become durable together.

Each entry bears a mac over itself and the mac of the one before (a hash chain under a key), so that none can be
changed, removed or put in between unnoticed. Entries name collections and people by uid, a random name that says
nothing once the row that holds it is erased.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.errors import StorageError, StorageFullError
from service.gallery.database import Database
from service.security.ledger import Anchor
from service.security.vault import canonical

log = logging.getLogger("facesphere.audit")
_MOST_WAITING = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log. `actor` is the id of a key, or who else did it."""

    seq: int
    at: str
    actor: str
    event: str
    detail: dict[str, Any]
    mac: bytes


@dataclass(slots=True)
class Waiting:
    """An entry that is to be written."""

    at: str
    actor: str
    event: str
    detail: str
    written: bool = False

    @staticmethod
    def text(detail: dict[str, Any]) -> str:
        """The one form of a detail."""
        return json.dumps(detail, sort_keys=True, separators=(",", ":"))


def entry_mac(key: bytes, before: bytes, seq: int, at: str, actor: str, event: str, detail: str) -> bytes:
    """The tag of an entry that follows the one with the tag `before`."""
    return hmac.digest(key, canonical((before, seq, at, actor, event, detail)), hashlib.sha256)


class Trail:
    """Entries that are not archived yet."""

    def __init__(self, database: Database, key: bytes, anchor: Anchor) -> None:
        self._database = database
        self._key = key
        self._anchor = anchor
        self._waiting: list[Waiting] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """A transaction that adds entries: when it ends, it is on the disk and the anchor has followed."""
        with self._database.holding():
            with self._database.transaction():
                yield
            self._anchor.set(*self.head())

    def add(self, actor: str, event: str, **detail: Any) -> None:
        """An entry; inside the transaction of what it tells of."""
        self._write(Waiting(self._database.now(), actor, event, Waiting.text(detail)))

    def note(self, actor: str, event: str, **detail: Any) -> None:
        """An entry of its own, on the disk when this returns; of callers who come together one writes for all.

        Where the disk takes nothing, the entry waits in memory for when it does: decisions do not stop for it.
        """
        mine = Waiting(self._database.now(), actor, event, Waiting.text(detail))
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.written:
                self._write_all()

    def head(self) -> tuple[int, bytes]:
        """Number and tag of the newest entry."""
        row = self._database.one("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1")
        return (row[0], row[1]) if row else (0, b"")

    def check_anchor(self) -> None:
        """That no entry that was acknowledged is missing at the end.

        Raises:
            StorageError: the newest part of the gallery is gone.
        """
        known, (last, _) = self._anchor.get(), self.head()
        if known is None:
            return
        seq, mac = known
        row = self._database.one("SELECT mac FROM audit WHERE seq = ?", (seq,))
        if seq > last or (row is not None and row[0] != mac):
            raise StorageError(
                f"the newest part of the gallery is missing: it ends with change {last} of {seq}. A file was cut off, "
                "or an older one put in its place: restore a backup, or take it as it is with: "
                "facesphere gallery accept-loss"
            )

    def _write_all(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            with self.change():
                for each in batch:
                    self._write(each)
        except (StorageError, StorageFullError) as error:
            log.error("%d entries of the audit log wait to be written: %s", len(batch), error.message)
            with self._lock:
                self._waiting = (batch + self._waiting)[-_MOST_WAITING:]
            return
        for each in batch:
            each.written = True

    def _write(self, entry: Waiting) -> None:
        seq, before = self.head()
        mac = entry_mac(self._key, before, seq + 1, entry.at, entry.actor, entry.event, entry.detail)
        self._database.write(
            "INSERT INTO audit (seq, at, actor, event, detail, mac) VALUES (?,?,?,?,?,?)",
            (seq + 1, entry.at, entry.actor, entry.event, entry.detail, mac),
        )
