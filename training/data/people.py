"""Photos of people, one folder a person: a folder on disk or a tar archive of one (the layout of LFW)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.data.archives import tar_members
from training.data.errors import DataError

__all__ = ["DataError", "Photo", "read_people"]

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled photo: `person` is the name of its folder; `groups` what else is known, such as {"sex": "f"}."""

    person: str
    name: str
    data: bytes
    groups: Mapping[str, str] = field(default_factory=dict)


def read_people(path: Path) -> Iterator[Photo]:
    """Photos by name, so that the order is the same on every machine for a folder.

    Raises:
        DataError: nothing there, not a tar archive, or no photo in the layout PERSON/PHOTO.
    """
    count = 0
    for photo in _read_folder(path) if path.is_dir() else read_tar(path):
        count += 1
        yield photo
    if not count:
        raise DataError(f"{path} holds no photos in the layout PERSON/PHOTO.jpg")


def _read_folder(path: Path) -> Iterator[Photo]:
    for file in folder_files(path):
        yield Photo(file.parent.name, f"{file.parent.name}/{file.name}", read_bytes(file))


def folder_files(path: Path) -> Iterator[Path]:
    """The photos of a folder PERSON/PHOTO by name, without opening them."""
    return (file for file in sorted(path.glob("*/*")) if file.suffix.lower() in PHOTO_SUFFIXES and file.is_file())


def read_bytes(file: Path) -> bytes:
    """A whole file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def read_tar(path: Path) -> Iterator[Photo]:
    """Photos of one archive in the layout PERSON/PHOTO, in its order; others are passed over.

    Raises:
        DataError: damaged, cut off or no archive.
    """
    for name, read in tar_members(path):
        if name.suffix.lower() in PHOTO_SUFFIXES and name.parent.name:
            yield Photo(name.parent.name, f"{name.parent.name}/{name.name}", read())
