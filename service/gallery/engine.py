"""Which engine keeps the gallery. PostgreSQL's is loaded only where it is asked for: its driver is an extra."""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from service.errors import InvalidRequestError
from service.gallery.contract import Gallery
from service.gallery.store import Store
from service.security.keyfolder import KeyFolder

if TYPE_CHECKING:
    from service.gallery.postgres.gallery import PostgresStore
    from service.gallery.postgres.migrate import Copied


def postgres_gallery(url: str, keys: KeyFolder, replica_url: str | None) -> Gallery:
    """A gallery in PostgreSQL.

    Raises:
        InvalidRequestError: the driver is not installed, or `url` is none.
        FaceError: the database cannot be used.
    """
    gallery = _module("gallery").PostgresGallery(url, keys.vault.master, replica_url)
    try:
        gallery.share_signing_key(keys.receipts)
    except BaseException:
        gallery.close()
        raise
    opened: Gallery = gallery
    return opened


def postgres_store(url: str, keys: KeyFolder) -> "PostgresStore":
    """Its parts, for the command line."""
    store: PostgresStore = _module("gallery").open_store(url, keys.vault.master)
    return store


def copy_to_postgres(
    source: Store, url: str, keys: KeyFolder, progress: Callable[[int, int], None]
) -> "Mapping[str, Copied]":
    """Copy an embedded gallery into a database, or go on with it; what was copied, by collection.

    Raises:
        FaceError: as `service.gallery.postgres.migrate.migrate`.
    """
    with contextlib.closing(_module("gallery").open_store(url, keys.vault.master, unfinished=True)) as target:
        copied: Mapping[str, Copied] = _module("migrate").migrate(source, target, progress)
    return copied


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"service.gallery.postgres.{name}")
    except ImportError as error:
        raise InvalidRequestError(
            f"gallery_url needs the driver of PostgreSQL: pip install 'facesphere[postgres]' ({error})"
        ) from error
