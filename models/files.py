"""Small files of the registry: written as a whole or not at all, read up to a limit."""

import os
from pathlib import Path

from models.errors import InvalidBundleError


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step that survives a power cut."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, limit: int) -> bytes:
    """At most so many bytes of a file.

    Raises:
        InvalidBundleError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise InvalidBundleError(f"cannot read {path}: {error.strerror}") from error
