"""Galleries and records in a folder, with their keys beside it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.gallery.embedded import EmbeddedGallery
from service.gallery.store import open_store
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
    store = open_store(path.parent, keys, now, path.name)
    records: Any = store.records
    records.database, records.errands, records.trail, records.keys = store.database, store.errands, store.trail, keys
    records.store, records.close = store, store.close
    return records


def stored_bytes(folder: Path, subject: str) -> list[bytes]:
    """Vectors and crops of a person, as they lie in the file."""
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db:
        rows = db.execute(
            "SELECT f.vector, f.crop FROM faces f JOIN subjects s ON s.id = f.subject WHERE s.name = ?", (subject,)
        ).fetchall()
    return [blob for row in rows for blob in row if blob]
