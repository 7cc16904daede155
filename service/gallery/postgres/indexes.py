"""HNSW indexes over the codes of large collections, built beside everything else by one server at a time."""

import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Iterator

import psycopg

from models.errors import FaceError
from service.domain import ModelInfo
from service.gallery.postgres.codes import MOST_DIMENSIONS
from service.gallery.postgres.connections import Connections, PatientConnection, one_line
from service.gallery.postgres.database import gallery_error
from service.gallery.postgres.records import Records
from service.gallery.postgres.rows import CollectionRow, Place, Tally

log = logging.getLogger("facesphere.gallery")
INDEX_FROM = 20_000  # faces; below it, looking at every code is as quick
LOOK_EVERY_S = 60.0
# The better they are, the slower the building; searching looks at 600 candidates (connections.py). docs/scaling.md says
# what is found with that.
_LINKS, _WIDTH = 16, 100
_BUILDING = zlib.crc32(b"facesphere index")  # the first half of an advisory lock, a table's number is the other
_LONGEST_BUILD_S = 86_400.0
_LONGEST_STOP_S = 5.0


class Indexes:
    """Looks now and then, on a thread and a connection of its own, which building holds for as long as it takes."""

    def __init__(self, connections: Connections, records: Records) -> None:
        self._connections = connections
        self._records = records
        self._wake = threading.Event()
        self._stopped = False
        self._busy: set[PatientConnection] = set()
        self._thread = threading.Thread(target=self._run, name="facesphere-indexes", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def look(self) -> None:
        """Look now."""
        self._wake.set()

    def close(self) -> None:
        """Stop; what is being built is given up, and begun anew by the next server that looks."""
        self._stopped = True
        self._wake.set()
        end = time.monotonic() + _LONGEST_STOP_S
        while (busy := list(self._busy)) and time.monotonic() < end:  # again: it may have come between two statements
            for each in busy:
                with contextlib.suppress(psycopg.Error):
                    each.cancel_safe(timeout=2)
            time.sleep(0.05)
        if self._thread.is_alive():
            self._thread.join()

    def build_due(self) -> list[str]:
        """Build what is due; the names of the collections that were indexed."""
        due = [row for row in self._records.all() if _due(row, row.model)]
        if not due:
            return []
        with self._building() as connection:
            return [row.name for row in due if not self._stopped and self._built(connection, row)]

    def build_before(self, row: CollectionRow, model: ModelInfo, place: Place) -> None:
        """Build that of vectors under another contract, before they are what is searched, if the collection is large.

        Raises:
            GalleryUnavailableError, StorageError: it could not be built, or this server is being stopped.
        """
        if _due(row, model) and not self._stopped:
            try:
                with self._building() as connection:
                    self._build(connection, place, model.dimension)
            except psycopg.Error as error:
                raise gallery_error(error) from error

    @contextlib.contextmanager
    def _building(self) -> Iterator[PatientConnection]:
        with contextlib.closing(self._connections.open()) as connection:
            connection.patience_s = _LONGEST_BUILD_S
            connection.execute(
                "SET statement_timeout = 0; SET lock_timeout = 0"
            )  # it waits for who sees an older state
            self._busy.add(connection)
            try:
                yield connection
            finally:
                self._busy.discard(connection)

    def _built(self, connection: PatientConnection, row: CollectionRow) -> bool:
        """One that cannot be built keeps no other waiting."""
        try:
            return self._build(connection, row.place, row.model.dimension)
        except psycopg.Error as error:
            if connection.closed or self._stopped:
                raise
            log.warning("no index was built: %s", one_line(error))
            return False

    def _build(self, connection: PatientConnection, place: Place, dimension: int) -> bool:
        lock = (_BUILDING - 2**31, (place.number or place.collection) % 2**31)  # both out of one sequence
        if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", lock).fetchone() != (True,):
            return False  # another server is at it
        try:
            name = index_name(place)
            valid = connection.execute(
                "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
            ).fetchone()
            if valid == (True,):
                return False
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # half of one, of a server that was stopped
            connection.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON {place.table}"
                f" USING hnsw ((code::halfvec({dimension})) halfvec_ip_ops)"
                f" WITH (m = {_LINKS}, ef_construction = {_WIDTH})"
            )
        finally:
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s, %s)", lock)
        log.info("indexed the vectors of a collection (%s)", place.table)
        return True

    def _run(self) -> None:
        while not self._stopped:
            try:
                self.build_due()
            except (psycopg.Error, FaceError) as error:
                if not self._stopped:
                    log.warning("no index was built: %s", one_line(error))
            except Exception:  # whatever it is, it is tried again
                log.exception("no index was built")
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()


def index_name(place: Place) -> str:
    """Of the index over the codes of a table."""
    return f"{place.table}_by_code"


def _due(row: CollectionRow, model: ModelInfo) -> bool:
    return Tally.of(row).faces >= INDEX_FROM and model.dimension <= MOST_DIMENSIONS
