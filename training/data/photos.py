"""Labelled photos, in whichever of the known layouts they come (docs/data.md)."""

import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from training.data.errors import DataError
from training.data.listing import listed_files, read_list
from training.data.people import Photo, folder_files, read_people, read_tar
from training.data.recordio import read_records
from training.data.shards import is_shard, read_shard

ACCEPTED = (
    "accepted are: a folder PERSON/PHOTO.jpg, a tar archive of one, a CSV list with the columns path and person, "
    "tar shards of KEY.jpg with KEY.cls or KEY.json (a file, a folder or a glob), and MXNet's .rec"
)
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def read_photos(path: Path) -> Iterator[Photo]:
    """Photos of a source, one at a time, in an order that is the same on every machine.

    Raises:
        DataError: nothing there, damaged, or in no known layout.
    """
    sources = [_reader(part) for part in _parts(path)]
    count = 0
    for read, part in sources:
        for photo in read(part):
            count += 1
            yield _printable(photo)
    if not count:
        raise DataError(f"{path} holds no photos; {ACCEPTED}")


def _printable(photo: Photo) -> Photo:
    """Names that are no UTF-8, of old archives and file systems, escaped: they are to be written into reports."""
    person, name = _escaped(photo.person), _escaped(photo.name)
    return Photo(person, name, photo.data, {_escaped(key): _escaped(value) for key, value in photo.groups.items()})


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def source_files(path: Path) -> list[Path]:
    """The files that `read_photos` would read, no others; none but lists are opened.

    Raises:
        DataError: nothing there, or a damaged list.
    """
    return [file for part in _parts(path) for file in _files_of(part)]


def _files_of(part: Path) -> Iterable[Path]:
    if part.is_dir():
        return folder_files(part)
    suffix = part.suffix.lower()
    if suffix == ".csv":
        return [part, *listed_files(part)]
    return [part, part.with_suffix(".idx")] if suffix == ".rec" else [part]


def _parts(path: Path) -> list[Path]:
    """A source's files, or the folder itself where it is one of people."""
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        raise DataError(f"cannot read {path}: No such file or directory; {ACCEPTED}")
    found = sorted(Path(name) for name in glob.glob(str(path)))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not found:
        raise DataError(f"there is no file {path}; {ACCEPTED}")
    folder = next((part for part in found if part.is_dir()), None)
    if folder is not None:
        raise DataError(f"cannot read {folder}: a pattern names files, and this is a folder; {ACCEPTED}")
    return found


def _of_folder(path: Path) -> list[Path]:
    try:
        files = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    shards = [file for file in files if file.name.lower().endswith(_TAR_SUFFIXES)]
    records = [file for file in files if file.suffix.lower() == ".rec"]
    if shards and records:
        raise DataError(f"{path} holds both tar archives and .rec files; name one of them")
    return shards or records or [path]


def _reader(path: Path) -> tuple[Callable[[Path], Iterator[Photo]], Path]:
    if path.is_dir():
        return read_people, path
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return read_list, path
    if suffix == ".rec":
        return read_records, path
    try:
        return (read_shard if is_shard(path) else read_tar), path
    except DataError as error:
        hint = "" if path.name.lower().endswith(_TAR_SUFFIXES) else f"; {ACCEPTED}"
        raise DataError(f"{error.message}{hint}") from error
