"""The parts of a gallery's file, opened together; a server and the command line may both have it open."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from service.gallery.audit import Audit
from service.gallery.database import Database
from service.gallery.errands import Errands
from service.gallery.first_row import FirstRow
from service.gallery.jobs import SqliteJobs
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
    jobs: SqliteJobs

    def close(self) -> None:
        """Close it; what of the log waits to be written is."""
        self.trail.flush()
        self.keys.close()
        self.database.close()


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def open_store(
    folder: Path,
    keys: KeyFolder,
    now: Callable[[], datetime] = utc_now,
    file: str = FILE,
    newest: bool = True,
    before_erasure: Callable[[str], None] | None = None,
) -> Store:
    """Open the file of a data folder, or begin one.

    Args:
        folder: of the file.
        keys: what it is encrypted with.
        now: the time.
        file: its name.
        newest: refuse a file that is not the newest one, an empty one too; what puts another in its place does not.
        before_erasure: called with the uid of a collection before something of it is erased for good.

    Raises:
        StorageError: it is damaged, of a later version, not of these keys, or not the newest.
    """
    database = Database(folder / file, now)
    try:
        trail = Trail(database, keys.vault.audit_key, keys.anchor)
        if newest:
            trail.check_anchor()
        errands = Errands(database, keys.vault, keys.ledger, before_erasure)
        records = prepare(database, keys.vault, trail, errands)
        table = SqliteKeyTable(database, keys, trail, errands)
        first = FirstRow(database, keys.vault)
        audit = Audit(database, keys.vault.audit_key, keys.anchor, trail, first.seal, folder / AUDIT)
    except BaseException:
        database.close()
        raise
    return Store(database, records, errands, trail, table, audit, SqliteJobs(database, keys.vault.store))
