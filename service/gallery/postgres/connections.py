"""Connections to PostgreSQL: opened when they are needed, kept for the next call, given up when the server is silent.

psycopg's pool keeps a number of connections and lets callers queue for one. Here the threads that ask are few and
bounded already (service/inference/pool.py), and where there is no server a caller is told so at once.
"""

import contextlib
import logging
import math
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from service.errors import GalleryUnavailableError, InvalidRequestError

log = logging.getLogger("facesphere.gallery")
T = TypeVar("T")
SCHEMA = "facesphere"
PATIENCE_S = 10.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_DEFAULTS: dict[str, Any] = {
    "application_name": "facesphere",
    "connect_timeout": 3,  # a host; a URL may name several
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
# Where pgvector was installed is up to whoever runs the database. A backend whose client is gone stops within 2 s;
# a client that is gone in the middle of a transaction is rolled back.
_SESSION = f"""
SET lock_timeout = '5s';
SET statement_timeout = '10s';
SET idle_in_transaction_session_timeout = '30s';
SET client_connection_check_interval = '2s';
SET hnsw.iterative_scan = 'strict_order';
SET hnsw.ef_search = 600;
SET hnsw.max_scan_tuples = 40000;
SELECT set_config('search_path', '{SCHEMA}, public' || coalesce(', ' || quote_ident(n.nspname), ''), false)
FROM (SELECT 1) one LEFT JOIN pg_extension e ON e.extname = 'vector' LEFT JOIN pg_namespace n ON n.oid = e.extnamespace;
"""  # noqa: S608


class PatientConnection(psycopg.Connection[TupleRow]):
    """A connection that is closed when the server does not answer in time: a stopped one keeps its sockets open."""

    patience_s = PATIENCE_S

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, but never for ever."""
        try:
            return super().wait(gen, interval, self.patience_s if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if error.sqlstate is None:  # it was no answer of the server's: what comes next on this socket is not known
                self.close()
            raise


class Connections:
    """Connections with one URL. Calls may come from several threads; each has one of its own while it needs it."""

    def __init__(self, url: str, attributes: str | None = None, patience_s: float = PATIENCE_S) -> None:
        """Opens nothing yet.

        Args:
            url: may name several hosts: the first with these attributes is used.
            attributes: `read-write` finds the primary among them; None takes what the URL says.
            patience_s: how long an answer may take.

        Raises:
            InvalidRequestError: it is no URL.
        """
        given = _parsed(url)
        if attributes is not None:
            given["target_session_attrs"] = attributes
        self._parameters = {**_DEFAULTS, **given}
        self._patience_s = patience_s
        self._free: list[PatientConnection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._failures = 0
        self._not_before = 0.0

    @contextlib.contextmanager
    def one(self) -> Iterator[PatientConnection]:
        """A connection outside of any transaction, in which each statement commits itself.

        Raises:
            GalleryUnavailableError: the database cannot be reached.
        """
        connection = self._take()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def open(self) -> PatientConnection:
        """A new connection, which the caller closes; one that others were refused a moment ago is not tried again."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            raise _unreachable(wait)
        try:
            connection = PatientConnection.connect(**self._parameters, autocommit=True)
            connection.patience_s = self._patience_s
            connection.execute(_SESSION)
        except psycopg.Error as error:
            raise self._failed(error) from error
        self._failures = 0
        return connection

    def forget(self) -> None:
        """Give up those that are free: where one was lost, the others are no better."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def close(self) -> None:
        """Close those that are free, and the others as they come back."""
        with self._lock:
            self._closed, free, self._free = True, self._free, []
        for connection in free:
            connection.close()

    def _take(self) -> PatientConnection:
        while True:
            with self._lock:
                connection = self._free.pop() if self._free else None
            if connection is None:
                return self.open()
            if not _silent(connection):  # the server has said goodbye while nobody listened
                connection.close()
                continue
            return connection

    def _give_back(self, connection: PatientConnection) -> None:
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()
        with self._lock:
            if not self._closed and not connection.closed:
                self._free.append(connection)
                return
        connection.close()

    def _failed(self, error: psycopg.Error) -> GalleryUnavailableError:
        """Wait twice as long each time, and not all servers at the same moment."""
        with self._lock:
            self._failures += 1
            wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
            self._not_before = time.monotonic() + wait
        log.warning("the database cannot be reached: %s", one_line(error))
        return _unreachable(wait)


def retried(call: Callable[[], T], seconds: float) -> T:
    """The result of a call, tried again for some seconds while the database cannot be reached."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except GalleryUnavailableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _parsed(url: str) -> dict[str, Any]:
    """What libpq would say of a wrong one quotes it, and with it a password."""
    try:
        given = dict(conninfo_to_dict(url))
    except psycopg.Error:
        given = {"port": "wrong"}
    if not all(port.isdecimal() for port in str(given.get("port") or "5432").split(",")):
        raise InvalidRequestError(
            "this is no URL of a database: postgresql://USER:PASSWORD@HOST:PORT/NAME, with special characters of the "
            "password as %XX"
        ) from None
    return given


def _silent(connection: PatientConnection) -> bool:
    """Whether nothing came that was not asked for: a server that stops says so, and the end of a socket can be read."""
    if connection.closed:
        return False
    asked = select.poll()  # select() takes no more than 1,024 files, which a busy server has more of
    asked.register(connection.fileno(), select.POLLIN)
    return not asked.poll(0)


def _unreachable(wait: float) -> GalleryUnavailableError:
    return GalleryUnavailableError("the database of the gallery cannot be reached", max(1, math.ceil(wait)))
