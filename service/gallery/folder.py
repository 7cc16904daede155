"""The data folder itself: one program at a time, and no copies left behind."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import BinaryIO, TextIO

from service.errors import StorageError
from service.security.master import sync_folder

MOVED = "moved"
SCRATCH = ".scratch-"  # folders of backups and restores that are under way
_CHUNK = 2**20


def lock(folder: Path) -> TextIO:
    """The lock of a data folder, made if it is new; whoever closes the file gives it free.

    Raises:
        StorageError: another process has it, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "gallery.lock").open("w")
    except OSError as error:
        raise StorageError(f"cannot use {folder} for the gallery: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StorageError(f"{folder} is in use by another process") from error
    return file


def remove_scratch(folder: Path) -> None:
    """Remove what a killed backup or restore has left: copies in which there may be somebody who was erased."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        for path in sorted(scratch.rglob("*"), reverse=True):
            if path.is_file():
                overwrite(path)
        shutil.rmtree(scratch, ignore_errors=True)


def mark_moved(folder: Path) -> None:
    """The gallery is elsewhere now: no server must answer out of these files by mistake."""
    (folder / MOVED).write_text("this gallery was copied into PostgreSQL; without this file it can be served again\n")
    sync_folder(folder)


def refuse_moved(folder: Path) -> None:
    """Raises StorageError for files that `mark_moved` was called for."""
    if (folder / MOVED).exists():
        raise StorageError(
            f"the gallery in {folder} was moved to PostgreSQL: set FACESPHERE_GALLERY_URL. People who were erased "
            f"there are still in these files; to serve them all the same, remove {folder / MOVED}"
        )


def overwrite(path: Path) -> None:
    """Overwrite a file and remove it, if it is there."""
    if path.exists():
        with path.open("rb+") as file:
            zero(file)
        path.unlink()


def zero(file: BinaryIO) -> None:
    """Overwrite the bytes of an open file, which may have no name any more."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        file.write(bytes(min(_CHUNK, size - file.tell())))
    file.flush()
    os.fsync(file.fileno())
