"""The parts of a gallery's file, opened together; a server and the command line may both have it open."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.gallery.audit import Audit
from service.gallery.database import Database
from service.gallery.errands import Errands
from service.gallery.key_table import SqliteKeyTable
from service.gallery.migrations import prepare
from service.gallery.records import Records
from service.gallery.trail import Trail
from service.security.keyfolder import KeyFolder

FILE = "gallery.sqlite3"
AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class Store:
    """One open file."""

    database: Database
    records: Records
    errands: Errands
    trail: Trail
    keys: SqliteKeyTable
    audit: Audit

    def close(self) -> None:
        """Close it."""
        self.keys.close()
        self.database.close()


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def open_store(folder: Path, keys: KeyFolder, now: Callable[[], datetime] = utc_now, file: str = FILE) -> Store:
    """Open the file of a data folder, or begin one.

    Raises:
        StorageError: it is damaged, of a later version, or not of these keys.
    """
    database = Database(folder / file, now)
    try:
        trail = Trail(database, keys.vault.audit_key, keys.anchor)
        errands = Errands(database, keys.vault, keys.ledger)
        records = prepare(database, keys.vault, trail, errands)
        table = SqliteKeyTable(database, keys.vault, trail)
        audit = Audit(database, keys.vault.audit_key, keys.anchor, folder / AUDIT)
    except BaseException:
        database.close()
        raise
    return Store(database, records, errands, trail, table, audit)
