"""One database: reading, snapshots, and transactions of which one knows what became of them."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from models.errors import FaceError
from service.errors import GalleryUnavailableError, InvalidRequestError, NotFoundError, StorageError, StorageFullError
from service.gallery.postgres.connections import Connections, PatientConnection, one_line, retried

Row = tuple[Any, ...]
Values = Sequence[object]
# What this may raise besides an error of the database: text that is no text.
BROKEN = (psycopg.Error, UnicodeError)
_SETTLE_S = 8.0
_BUSY = {"40001", "40P01", "55P03", "57014"}  # serialization, deadlock, lock_timeout, statement_timeout
_AWAY = ("08", "53", "57")  # connection, resources, operator: what goes by


@dataclass(frozen=True, slots=True)
class Witness:
    """An entry of the audit log, whose tag there can be once: where it is, all that was committed with it is too."""

    seq: int
    mac: bytes


class _Current(threading.local):
    """What a thread has open."""

    connection: PatientConnection | None = None
    witness: Witness | None = None


class Database:
    """Calls may come from several threads. Inside of a transaction one reads what it has written."""

    def __init__(self, connections: Connections, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._connections = connections
        self._now = now
        self._current = _Current()

    def now(self) -> str:
        """The time, UTC, ISO 8601 with milliseconds."""
        return self._now().astimezone(UTC).isoformat(timespec="milliseconds")

    def read(self, query: str, values: Values | None = None) -> list[Row]:
        """Rows of a query. Outside of a transaction it is asked again once, of another connection, if one was lost.

        Raises:
            GalleryUnavailableError: the database cannot be reached, or is busy.
            StorageError: it says that something is not right with it.
        """
        current = self._current.connection
        try:
            return self._ask(query, values) if current is None else current.execute(query, values).fetchall()
        except BROKEN as error:
            raise gallery_error(error) from error

    def one(self, query: str, values: Values | None = None) -> Row | None:
        """The first row, or None."""
        rows = self.read(query, values)
        return rows[0] if rows else None

    def write(self, statement: str, values: Values | None = None) -> int:
        """Run a statement inside a transaction; the number of rows it touched."""
        return self._open().execute(statement, values).rowcount

    def write_many(self, statement: str, values: Sequence[Values]) -> None:
        """Run a statement for each of several values, in one go."""
        with self._open().cursor() as cursor:
            cursor.executemany(statement, values)

    def testify(self, witness: Witness) -> None:
        """The newest entry of the log in this transaction; should its commit be cut off, it tells what became of it."""
        self._current.witness = witness

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads of one state, whatever is written meanwhile."""
        if self._current.connection is not None:
            yield
            return
        with self._begun("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as connection:
            yield
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Statements that become durable together or not at all, as durable as `synchronous_commit` says.

        Raises:
            StorageFullError: no room; nothing was changed.
            GalleryUnavailableError: `details["outcome"]` says whether nothing was changed, or it is not known.
        """
        # A statement_timeout would end COMMIT's wait for the standby as well, and let it pass as done.
        with self._begun("BEGIN; SET LOCAL statement_timeout = 0") as connection:
            yield
            witness = self._current.witness
            commit = _Commit(connection)
            try:
                commit.run()
            except psycopg.Error as error:
                if not _lost(connection, error):
                    raise
                self._settle(witness, error)

    @contextlib.contextmanager
    def holding_lock(self, number: int) -> Iterator[bool]:
        """False if another program holds the advisory lock of this number, and else hold it."""
        try:
            with self._connections.one() as connection:
                (held,) = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone() or (False,)
                try:
                    yield held
                finally:
                    if held and not connection.closed:
                        connection.execute("SELECT pg_advisory_unlock(%s)", (number,))
        except psycopg.Error as error:
            raise gallery_error(error) from error

    @contextlib.contextmanager
    def _begun(self, begin: str) -> Iterator[PatientConnection]:
        with self._connections.one() as connection:
            self._current.connection, self._current.witness = connection, None
            try:
                connection.execute(begin)
                yield connection
            except BaseException as error:
                _roll_back(connection)
                if isinstance(error, BROKEN):
                    raise gallery_error(error) from error
                raise
            finally:
                self._current.connection = None

    def _ask(self, query: str, values: Values | None) -> list[Row]:
        with self._connections.one() as connection:
            try:
                return connection.execute(query, values).fetchall()
            except psycopg.OperationalError as error:
                if not _lost(connection, error):
                    raise
        self._connections.forget()
        with self._connections.one() as connection:
            return connection.execute(query, values).fetchall()

    def _open(self) -> PatientConnection:
        assert self._current.connection is not None, "inside of a transaction"
        return self._current.connection

    def _settle(self, witness: Witness | None, error: psycopg.Error) -> None:
        """What became of a transaction whose COMMIT got no answer. It holds the row of the newest entry until it ends:

        whoever can change that row finds either its entry, or that it never came to be. The change is committed, which
        waits for a standby like any other: an entry that only a primary has is not taken for safe.
        """
        self._current.connection = None
        done = None if witness is None else self._outcome(witness)
        if done is False:
            raise GalleryUnavailableError("the connection to the database was lost; nothing was changed") from error
        if done is None:
            raise GalleryUnavailableError(
                "the connection to the database was lost during the commit: whether the change was made is not known; "
                "look before you repeat it",
                outcome="unknown",
            ) from error

    def _outcome(self, witness: Witness) -> bool | None:
        try:
            return retried(lambda: self._finds(witness), _SETTLE_S)
        except FaceError:
            return None

    def _finds(self, witness: Witness) -> bool:
        with self._begun("BEGIN; SET LOCAL statement_timeout = 0") as connection:
            connection.execute("UPDATE audit_head SET seq = seq")
            found = connection.execute("SELECT mac FROM audit WHERE seq = %s", (witness.seq,)).fetchone()
            _Commit(connection).run()
        return found is not None and bytes(found[0]) == witness.mac


class _Commit:
    """Ends a transaction; not being as durable as was asked for is a failure."""

    def __init__(self, connection: PatientConnection) -> None:
        self._connection = connection
        self._warned = False

    def run(self) -> None:
        self._connection.add_notice_handler(self._hear)
        try:
            self._connection.execute("COMMIT")
        finally:
            self._connection.remove_notice_handler(self._hear)
        if self._warned:  # somebody has ended the wait for the standby by hand
            raise GalleryUnavailableError(
                "the change was made, but no standby has confirmed it: it may be lost in a failover", outcome="unknown"
            )

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        self._warned = self._warned or notice.severity_nonlocalized == "WARNING"


class TableGoneError(NotFoundError):
    """A table was dropped between the reading of what it is called and the reading of it."""


def gallery_error(error: Exception) -> FaceError:
    """What PostgreSQL says, as one of our errors; nothing was changed."""
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, psycopg.DataError | UnicodeError):
        return InvalidRequestError(f"the gallery cannot keep this text: {one_line(error)}")
    if state == "42P01":  # each collection has tables of its own, which go with it or with a contract
        return TableGoneError("the collection was erased a moment ago")
    if state == "53100":
        return StorageFullError("the disk of the database is full; nothing was changed")
    if state in _BUSY:
        return GalleryUnavailableError(f"the database is busy; nothing was changed: {one_line(error)}")
    if state == "25006":
        return GalleryUnavailableError("the database does not take writes: it is a standby, or became one")
    if state.startswith(_AWAY) or (not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)):
        return GalleryUnavailableError(
            f"the connection to the database was lost; nothing was changed: {one_line(error)}"
        )
    return StorageError(f"the database refuses: {one_line(error)}")


def _lost(connection: PatientConnection, error: psycopg.Error) -> bool:
    """Whether this was the end of the connection, and no answer to what was asked."""
    return connection.closed or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def _roll_back(connection: PatientConnection) -> None:
    with contextlib.suppress(psycopg.Error):
        if not connection.closed:
            connection.execute("ROLLBACK")
