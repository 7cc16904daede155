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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import FaceError
from service.errors import StorageError
from service.gallery.database import Database
from service.security.ledger import Anchor, Head
from service.security.vault import canonical

log = logging.getLogger("facesphere.audit")
_MOST_WAITING = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log. `actor` is the id of a key, or who else did it; `detail` is JSON."""

    seq: int
    at: str
    actor: str
    event: str
    detail: str
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


class Decisions:
    """Entries of their own, beside no change: of callers who come together one writes for all.

    Where nothing can be written, they wait in memory for when it can: decisions do not stop for it.
    """

    def __init__(self, now: Callable[[], str], write: Callable[[Sequence[Waiting]], None]) -> None:
        """`write` puts entries into the log, durably, or raises a FaceError and writes none of them."""
        self._now = now
        self._write = write
        self._waiting: list[Waiting] = []
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    def note(self, actor: str, event: str, detail: dict[str, Any]) -> None:
        """An entry, written when this returns."""
        mine = Waiting(self._now(), actor, event, Waiting.text(detail))
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.written:
                self._write_all()

    def flush(self) -> None:
        """Write what waits, before the program ends."""
        with self._turn:
            if self._waiting:
                self._write_all()
            if self._waiting:
                log.error("%d entries of the audit log could not be written and are lost", len(self._waiting))

    def _write_all(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            self._write(batch)
        except FaceError as error:
            log.error("%d entries of the audit log wait to be written: %s", len(batch), error.message)
            with self._lock:
                self._waiting = (batch + self._waiting)[-_MOST_WAITING:]
            return
        for each in batch:
            each.written = True


class Trail:
    """Entries that are not archived yet."""

    def __init__(self, database: Database, key: bytes, anchor: Anchor) -> None:
        self._database = database
        self._key = key
        self._anchor = anchor
        self._decisions = Decisions(database.now, self._write_together)

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """A transaction that adds entries: when it ends, it is on the disk and the anchor has followed."""
        with self._database.transaction():
            yield
            head = self.anchored_head()
        self._anchor.set(head)

    def add(self, actor: str, event: str, **detail: Any) -> None:
        """An entry; inside the transaction of what it tells of."""
        self._write(Waiting(self._database.now(), actor, event, Waiting.text(detail)))

    def note(self, actor: str, event: str, **detail: Any) -> None:
        """An entry of its own, on the disk when this returns, or as soon as the disk takes it."""
        self._decisions.note(actor, event, detail)

    def flush(self) -> None:
        """Write what waits for a disk that took nothing, before the program ends."""
        self._decisions.flush()

    def anchored_head(self) -> Head:
        """The newest entry, and the tag of the first row of the records with it."""
        seq, mac = self.head()
        row = self._database.one("SELECT mac FROM store")
        return Head(seq, mac, row[0] if row else b"")

    def head(self) -> tuple[int, bytes]:
        """Number and tag of the newest entry."""
        row = self._database.one("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1")
        return (row[0], row[1]) if row else (0, b"")

    def check_anchor(self) -> None:
        """That nothing that was acknowledged is missing, and that the people are those of the newest entry.

        Raises:
            StorageError: the newest part of the gallery is gone, or an older part was put in its place.
        """
        known = self._anchor.get()
        if known is None:
            return
        with self._database.holding():
            ((tables,),) = self._database.read("SELECT count(*) FROM sqlite_schema WHERE name = 'audit'")
            now = self.anchored_head() if tables else Head(0, b"", b"")
            row = self._database.one("SELECT mac FROM audit WHERE seq = ?", (known.seq,)) if tables else None
        seq, last = known.seq, now.seq
        # An anchor can be behind after a power failure; then the state that belongs to it is no longer there.
        if seq > last or (row is not None and row[0] != known.mac) or (seq == last and now.state != known.state):
            raise StorageError(
                f"the newest part of the gallery is missing: it ends with change {last} of {seq}. A file was cut off, "
                "or an older one put in its place: restore a backup, or take it as it is with: "
                "facesphere gallery accept-loss"
            )

    def _write_together(self, entries: Sequence[Waiting]) -> None:
        with self.change():
            for each in entries:
                self._write(each)

    def _write(self, entry: Waiting) -> None:
        seq, before = self.head()
        mac = entry_mac(self._key, before, seq + 1, entry.at, entry.actor, entry.event, entry.detail)
        self._database.write(
            "INSERT INTO audit (seq, at, actor, event, detail, mac) VALUES (?,?,?,?,?,?)",
            (seq + 1, entry.at, entry.actor, entry.event, entry.detail, mac),
        )
