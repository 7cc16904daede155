"""Which engine keeps the gallery. PostgreSQL's is loaded only where it is asked for: its driver is an extra."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from service.errors import InvalidRequestError
from service.gallery.contract import Gallery
from service.security.keyfolder import KeyFolder

if TYPE_CHECKING:
    from service.gallery.postgres.gallery import PostgresStore


def postgres_gallery(url: str, keys: KeyFolder, replica_url: str | None) -> Gallery:
    """A gallery in PostgreSQL.

    Raises:
        InvalidRequestError: the driver is not installed, or `url` is none.
        FaceError: the database cannot be used.
    """
    gallery: Gallery = _module("gallery").PostgresGallery(url, keys.vault.master, replica_url)
    return gallery


def postgres_store(url: str, keys: KeyFolder) -> "PostgresStore":
    """Its parts, for the command line."""
    store: PostgresStore = _module("gallery").open_store(url, keys.vault.master)
    return store


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"service.gallery.postgres.{name}")
    except ImportError as error:
        raise InvalidRequestError(
            f"gallery_url needs the driver of PostgreSQL: pip install 'facesphere[postgres]' ({error})"
        ) from error
