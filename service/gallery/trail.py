"""The audit log's newest entries, in the records' own file: a change and its entry become durable together or not at
all.

Each entry bears a mac over itself and the mac of the one before (a hash chain under a key), so that none can be
changed, removed or put in between unnoticed. Entries name collections and people by uid, a random name that says
nothing once the row that holds it is erased.
"""

import contextlib
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.errors import StorageError
from service.gallery.database import Database
from service.security.ledger import Anchor
from service.security.vault import canonical


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log. `actor` is the id of a key, or who else did it."""

    seq: int
    at: str
    actor: str
    event: str
    detail: dict[str, Any]
    mac: bytes


def entry_mac(key: bytes, before: bytes, seq: int, at: str, actor: str, event: str, detail: str) -> bytes:
    """The tag of an entry that follows the one with the tag `before`."""
    return hmac.digest(key, canonical((before, seq, at, actor, event, detail)), hashlib.sha256)


class Trail:
    """Entries that are not archived yet."""

    def __init__(self, database: Database, key: bytes, anchor: Anchor) -> None:
        self._database = database
        self._key = key
        self._anchor = anchor

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """A transaction that adds entries: when it ends, it is on the disk and the anchor has followed."""
        with self._database.holding():
            with self._database.transaction():
                yield
            self._anchor.set(*self.head())

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

    def add(self, actor: str, event: str, **detail: Any) -> None:
        """An entry; inside the transaction of what it tells of."""
        seq, before = self.head()
        at, text = self._database.now(), json.dumps(detail, sort_keys=True, separators=(",", ":"))
        mac = entry_mac(self._key, before, seq + 1, at, actor, event, text)
        self._database.write(
            "INSERT INTO audit (seq, at, actor, event, detail, mac) VALUES (?,?,?,?,?,?)",
            (seq + 1, at, actor, event, text, mac),
        )

    def head(self) -> tuple[int, bytes]:
        """Number and tag of the newest entry."""
        row = self._database.one("SELECT seq, mac FROM audit ORDER BY seq DESC LIMIT 1")
        return (row[0], row[1]) if row else (0, b"")
