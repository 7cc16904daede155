"""Photos of people, one folder a person: a folder on disk or a tar archive of one (the layout of LFW)."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.errors import FaceError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class DataError(FaceError):
    """The data set is missing, damaged, or not in the layout that was expected."""

    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled photo: `person` is the name of its folder."""

    person: str
    name: str
    data: bytes


def read_people(path: Path) -> Iterator[Photo]:
    """Photos by name, so that the order is the same on every machine for a folder.

    Raises:
        DataError: nothing there, not a tar archive, or no photo in the layout PERSON/PHOTO.
    """
    count = 0
    for photo in _read_folder(path) if path.is_dir() else _read_tar(path):
        count += 1
        yield photo
    if not count:
        raise DataError(f"{path} holds no photos in the layout PERSON/PHOTO.jpg")


def _read_folder(path: Path) -> Iterator[Photo]:
    for file in sorted(path.glob("*/*")):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            yield Photo(file.parent.name, f"{file.parent.name}/{file.name}", _read(file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def _read_tar(path: Path) -> Iterator[Photo]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                name = PurePosixPath(member.name)
                if file is not None and name.suffix.lower() in _SUFFIXES and name.parent.name:
                    yield Photo(name.parent.name, f"{name.parent.name}/{name.name}", file.read())
            _check_end(archive)
    except (OSError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        # Of a file that is no archive, tarfile goes on to say in a line each why it is none of those that it knows.
        reason = str(error).partition("\n")[0].rstrip(":")
        raise DataError(f"cannot read {path}: {reason}") from error


def _check_end(archive: tarfile.TarFile) -> None:
    """An archive ends with two empty blocks; tarfile has read one, and takes any that is no header for it."""
    file = archive.fileobj
    if file is None or file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is damaged or cut off")
    while file.read(2**20):  # a compressed file has its checksum at the end
        pass
