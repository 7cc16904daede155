"""Files of a tar archive, with damage told."""

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from training.data.errors import DataError

Read = Callable[[], bytes]


def tar_members(path: Path) -> Iterator[tuple[PurePosixPath, Read]]:
    """Name of each file in the archive, in its order, and what reads it; links and folders are passed over.

    Raises:
        DataError: damaged, cut off or no archive; also by what reads a file.
    """
    with _told(path), tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield PurePosixPath(member.name), _reader(path, file)
        _check_end(archive)


def _reader(path: Path, file: IO[bytes]) -> Read:
    def read() -> bytes:
        with _told(path):
            return file.read()

    return read


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
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
