"""Galleries and records in a folder, with their keys beside it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.gallery.database import Database
from service.gallery.embedded import EmbeddedGallery
from service.gallery.errands import Errands
from service.gallery.migrations import prepare
from service.gallery.trail import Trail
from service.security.keyfolder import KeyFolder, open_keys


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Clock:
    """A time that a test sets."""

    def __init__(self, at: str) -> None:
        self.set(at)

    def set(self, at: str) -> None:
        """Move to another time."""
        self.at = datetime.fromisoformat(at)

    def __call__(self) -> datetime:
        return self.at


def keys_of(folder: Path) -> KeyFolder:
    """The keys beside a data folder, made at first use."""
    return open_keys(folder.with_name(folder.name + ".keys"))


def open_gallery(folder: Path, now: Callable[[], datetime] = _utc_now) -> EmbeddedGallery:
    """A gallery with keys of its own."""
    return EmbeddedGallery(folder, keys_of(folder), now)


def open_records(path: Path, now: Callable[[], datetime] = _utc_now) -> Any:
    """Records with their parts at hand: `database`, `errands`, `trail`, `keys`; `close` closes the file."""
    keys = keys_of(path.parent)
    database = Database(path, now)
    trail = Trail(database, keys.vault.audit_key, keys.anchor)
    errands = Errands(database, keys.vault, keys.ledger)
    try:
        records: Any = prepare(database, keys.vault, trail, errands)
    except BaseException:
        database.close()
        raise
    records.database, records.errands, records.trail, records.keys = database, errands, trail, keys
    records.close = database.close
    return records


def stored_bytes(folder: Path, subject: str) -> list[bytes]:
    """Vectors and crops of a person, as they lie in the file."""
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db:
        rows = db.execute(
            "SELECT f.vector, f.crop FROM faces f JOIN subjects s ON s.id = f.subject WHERE s.name = ?", (subject,)
        ).fetchall()
    return [blob for row in rows for blob in row if blob]
