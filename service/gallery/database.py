"""One SQLite file: transactions that are durable when they end, and erasure that leaves no bytes behind."""

import contextlib
import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import StorageError, StorageFullError
from service.gallery.schema import connect
from service.security.master import sync_folder

Row = tuple[Any, ...]
# What SQLite, and Python on top of it, raise for a file that is not right: text in it may be no text any more.
BROKEN = (sqlite3.Error, UnicodeError)

WAIT_MS = 5000
_WAIT_TO_OVERWRITE_MS = 200  # an answer waits for this; a reader that stays longer is left to the next attempt


class Database:
    """Calls may come from several threads. Writers take turns; readers have a connection of their own, and wait for no
    writer, not even for one that writes the whole file anew. Inside of a transaction one reads what it has written.

    While bytes of something erased may still be in the files, a file `<name>.overwrite-pending` lies beside it, so that
    a program that was stopped in between knows of them when it starts again.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open or create a file; its tables are made by `schema.prepare`.

        Raises:
            StorageError: it is no SQLite file, damaged, or cannot be written.
        """
        self.path = path
        self._now = now
        self._lock = threading.RLock()
        self._reading = threading.RLock()
        self._snapshots = 0  # of the reader, one inside the other
        self._writer: int | None = None  # the thread whose transaction is open
        self._marker = path.with_suffix(".overwrite-pending")
        try:
            # SQLite gives its side files the rights of this one, so they are set before it is opened.
            path.touch(mode=0o600)
            path.chmod(0o600)
            self._db = connect(path, WAIT_MS)
            self._reader = connect(path, WAIT_MS)
            self._pending = self._marker.exists()
        except (OSError, *BROKEN) as error:
            raise StorageError(f"{path} cannot be opened as a gallery: {one_line(error)}") from error

    @property
    def overwrite_pending(self) -> bool:
        """Whether bytes of something erased may still be in the files."""
        return self._pending

    def now(self) -> str:
        """The time, UTC, ISO 8601 with milliseconds."""
        return self._now().astimezone(UTC).isoformat(timespec="milliseconds")

    def close(self) -> None:
        """Close the file; what is in the write-ahead log goes into it."""
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Several reads of one state, whatever is written meanwhile."""
        if self._writer == threading.get_ident():
            yield
            return
        with self._reading:
            self._snapshots += 1
            try:
                if self._snapshots == 1:
                    self._begin_reading()
                yield
            finally:
                self._snapshots -= 1
                if self._snapshots == 0:
                    with contextlib.suppress(*BROKEN):
                        self._reader.execute("ROLLBACK")

    def _begin_reading(self) -> None:
        try:
            self._reader.execute("BEGIN")
        except BROKEN as error:
            raise StorageError(f"the gallery cannot be read: {one_line(error)}") from error

    def read(self, query: str, values: tuple[object, ...] = ()) -> list[Row]:
        """Rows of a query.

        Raises:
            StorageError: the file is damaged or closed.
        """
        try:
            if self._writer == threading.get_ident():
                return self._db.execute(query, values).fetchall()
            with self._reading:
                return self._reader.execute(query, values).fetchall()
        except BROKEN as error:
            raise StorageError(f"the gallery cannot be read: {one_line(error)}") from error

    def one(self, query: str, values: tuple[object, ...] = ()) -> Row | None:
        """The first row, or None."""
        rows = self.read(query, values)
        return rows[0] if rows else None

    def write(self, statement: str, values: tuple[object, ...] = ()) -> int:
        """Run a statement inside a transaction; the row number of what it inserted."""
        return self._db.execute(statement, values).lastrowid or 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Statements that become durable together or not at all; when it ends they are on the disk.

        Raises:
            StorageFullError: no room; nothing was changed.
            StorageError: it could not be written; nothing was changed.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._writer = threading.get_ident()
                yield
                self._db.execute("COMMIT")
            except BROKEN as error:
                self._roll_back()
                raise storage_error(error) from error
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writer = None

    def next_id(self, table: str) -> int:
        """The number that the next row of a table will have; inside a transaction."""
        row = self.one("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        return 1 + (row[0] if row else 0)

    def note_pending(self) -> None:
        """Before the commit of an erasure: were it done after, a crash in between would leave bytes nobody knows of.

        Raises:
            StorageFullError, StorageError: it cannot be noted, so nothing may be erased.
        """
        try:
            if not self._marker.exists():
                self._marker.touch(mode=0o600)
                sync_folder(self._marker.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError("the disk is full; nothing was changed") from error
            raise StorageError(f"the gallery cannot be written: {error.strerror}") from error
        self._pending = True

    def overwrite_erased(self) -> None:
        """Leave no byte of what was erased in the files.

        SQLite zeroes deleted cells (secure_delete), but a cell that once moved to another page has left a copy in the
        gap behind it, and the write-ahead log holds old pages. So the file is written anew and the log emptied, which
        takes longer the larger the gallery is.

        Raises:
            StorageError: it is erased, but its bytes may still be on the disk: `overwrite_pending` stays true.
        """
        with self._lock:
            try:
                self._db.execute(f"PRAGMA busy_timeout = {_WAIT_TO_OVERWRITE_MS}")
                self._empty_log()  # first: a reader in the way is found before the file is copied in vain
                self._db.execute("VACUUM")
                self._empty_log()
                self._marker.unlink(missing_ok=True)
            except (OSError, *BROKEN) as error:
                raise StorageError(f"it is erased, but its bytes cannot be overwritten: {one_line(error)}") from error
            finally:
                with contextlib.suppress(*BROKEN):
                    self._db.execute(f"PRAGMA busy_timeout = {WAIT_MS}")
            self._pending = False

    def _empty_log(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # most of the work, beside which others may read
        with self._reading:  # our own reader waits for a moment: a busy one would be in the way for long
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:  # a reader outside this program, such as a backup
            raise StorageError("it is erased, but another program reads the gallery and keeps the old bytes on disk")

    def _roll_back(self) -> None:
        with contextlib.suppress(*BROKEN):  # closed, or rolled back by SQLite itself
            self._db.execute("ROLLBACK")


def storage_error(error: Exception) -> StorageError | StorageFullError:
    """What SQLite says of a failed write, as one of our errors."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return StorageFullError("the disk is full; nothing was changed")
    if name.startswith("SQLITE_IOERR"):  # a write or an fsync failed: not known to be on the disk, so not acknowledged
        return StorageFullError(f"the disk does not take writes ({name}); nothing was acknowledged")
    return StorageError(f"the gallery cannot be written: {one_line(error)}")


def one_line(error: Exception) -> str:
    """What an error says; SQLite quotes whole tables, over many lines."""
    return " ".join(str(error).split())[:300]
