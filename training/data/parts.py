"""What an alignment has done so far, kept beside its output so that a run that was killed goes on where it was.

The folder holds settings.json, done.jsonl, a line for each photo in the order of the source, and crops.bin, the crops
of those that gave one. Both files only grow, crops first: a line is there only when its crop is.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from models.image import Pixels
from training.data.aligned_files import sync_folder
from training.data.errors import DataError
from training.data.faces import Skipped
from training.data.people import Photo

_SECONDS_BETWEEN_SYNCS = 1.0
_MOST_PENDING = 1024


class AlignSettings(BaseModel):
    """What the crops depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    template: str
    height: int
    width: int
    face: str
    aligned: bool
    min_face: int
    detector: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of a photo. `sha256` is of its file; `crop` of its crop, None where it was skipped."""

    name: str
    person: str
    groups: dict[str, str]
    sha256: str
    crop: str | None = None
    code: str | None = None
    message: str | None = None


_ENTRY = TypeAdapter(Entry)


class Parts:
    """The folder of one run, locked while it is open.

    Raises:
        DataError: another run holds it, it is of other settings, or it is damaged.
    """

    def __init__(self, folder: Path, settings: AlignSettings) -> None:
        self.folder = folder
        self._shape = (settings.height, settings.width, 3)
        self._size = settings.height * settings.width * 3
        self._pending: list[tuple[Entry, bytes]] = []
        self._synced = time.monotonic()
        with contextlib.ExitStack() as files:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._log: IO[bytes] = files.enter_context((folder / "done.jsonl").open("a+b"))
                self._lock()
                self._check_settings(settings)
                self._crops: IO[bytes] = files.enter_context((folder / "crops.bin").open("a+b"))
                self.crops = self._recover()
            except OSError as error:
                raise DataError(f"cannot write {folder}: {error.strerror}") from error
            self._files = files.pop_all()

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.sync()
        finally:
            with contextlib.suppress(OSError):  # told already, by sync
                self._files.close()

    def entries(self) -> Iterator[Entry]:
        """All photos that are done."""
        with (self.folder / "done.jsonl").open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _ENTRY.validate_json(line)
                except ValidationError as error:
                    raise self._damaged(f"line {number} of done.jsonl") from error

    def append(self, photo: Photo, result: Pixels | Skipped) -> None:
        """Add the next photo; it is sure to stay after about a second.

        Raises:
            DataError: the disk is full or broken.
        """
        known = (photo.name, photo.person, dict(photo.groups), sha256(photo.data))
        if isinstance(result, Skipped):
            self._pending.append((Entry(*known, code=result.code, message=result.message), b""))
        else:
            data = result.tobytes()
            self._pending.append((Entry(*known, crop=sha256(data)), data))
        if len(self._pending) >= _MOST_PENDING or time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Bring crops to the disk, and then the lines that speak of them.

        Raises:
            DataError: the disk is full or broken.
        """
        # Taken out before they are written: after a failure they must not be written twice.
        pending, self._pending = self._pending, []
        try:
            self._crops.write(b"".join(data for _, data in pending))
            _flush(self._crops)
            self._log.writelines(_ENTRY.dump_json(entry, exclude_none=True) + b"\n" for entry, _ in pending)
            _flush(self._log)
        except OSError as error:
            raise DataError(f"cannot write {self.folder}: {error.strerror}") from error
        self.crops += sum(entry.crop is not None for entry, _ in pending)
        self._synced = time.monotonic()

    def mapped(self) -> NDArray[np.uint8]:
        """The crops, (N, height, width, 3)."""
        if not self.crops:
            return np.empty((0, *self._shape), np.uint8)
        return np.memmap(self.folder / "crops.bin", np.uint8, "r", shape=(self.crops, *self._shape))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another run is at work in {self.folder}") from error

    def _check_settings(self, settings: AlignSettings) -> None:
        file = self.folder / "settings.json"
        if not file.exists() or not (self.folder / "crops.bin").exists():
            file.write_text(settings.model_dump_json(indent=2) + "\n")
            sync_folder(self.folder)
            return
        try:
            there = AlignSettings.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise self._damaged("settings.json") from error
        for name, now in settings:
            if (before := getattr(there, name)) != now:
                raise DataError(
                    f"{self.folder} is half done with {name} {before}, not {now}; go on with that, or delete the folder"
                )

    def _recover(self) -> int:
        """Cut off what was half written, and count the crops."""
        self._log.seek(0)
        end = count = 0
        for number, line in enumerate(self._log, 1):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                count += "crop" in json.loads(line)
            except (ValueError, TypeError) as error:
                raise self._damaged(f"line {number} of done.jsonl") from error
        if (self.folder / "crops.bin").stat().st_size < count * self._size:
            raise self._damaged("crops.bin")
        self._log.truncate(end)
        self._crops.truncate(count * self._size)
        return count

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.folder} is damaged: {what}; delete the folder to begin anew")


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
