"""Both engines of the gallery, so that one test asks the same of each."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from galleries import keys_of
from postgres_server import Cluster

from service.gallery.contract import Gallery
from service.gallery.embedded import EmbeddedGallery
from service.gallery.postgres.gallery import PostgresGallery


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Engine(Protocol):
    """One place that keeps a gallery, however often it is opened."""

    def open(self, now: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic) -> Gallery:
        """Open it, or begin it."""
        ...

    def crash(self, gallery: Gallery) -> Gallery:
        """What a caller goes on with after the gallery was cut off without a word of goodbye."""
        ...

    def remove(self) -> None:
        """Nobody needs it any more."""
        ...


class Embedded:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "data"

    def open(self, now: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic) -> Gallery:
        """Open it, or begin it."""
        return EmbeddedGallery(self._folder, keys_of(self._folder), now, monotonic)

    def crash(self, gallery: Gallery) -> Gallery:
        """The files as they are now, opened by another program."""
        assert isinstance(gallery, EmbeddedGallery)
        gallery._lock_file.close()
        return self.open()

    def remove(self) -> None:
        """The folder is its maker's to remove."""


class Postgres:
    """A database of its own on a cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._master = keys_of(folder / "data").vault.master
        self._cluster = cluster
        self.database = cluster.new_database()
        self.url = cluster.url(self.database)

    def open(
        self, now: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic
    ) -> PostgresGallery:
        """Open it, or begin it; opened twice, it is two servers on one database."""
        return PostgresGallery(self.url, self._master, None, now, monotonic)

    def crash(self, gallery: Gallery) -> Gallery:
        """Every connection is cut by the server; the gallery finds others."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )
        return gallery

    def remove(self) -> None:
        """Give the database back, in which nothing is left."""
        self._cluster.give_back(self.database)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as the superuser."""
        return self._cluster.execute(statement, self.database)
