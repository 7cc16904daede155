"""What must outlive the data folder and its backups: which erasures there were, and how far the log had come.

Both lie beside the keyring. Erasures are named by uid and face_id, random names that say nothing about anybody. A
backup that is put back is an older state: what was erased since is erased from it again, and nobody can pass it off
for the newest one.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.errors import StorageError
from service.security.master import sync_folder
from service.security.vault import as_storage_error

log = logging.getLogger("facesphere.gallery")
_ANCHOR_BYTES = 192
KEYS = "keys"  # stands for a collection where the ledger tells of API keys


@dataclass(frozen=True, slots=True)
class Erasure:
    """A collection, a person of it or some faces, by uid and face_id. subject None and no faces: all of it.

    collection KEYS tells of an API key, by its id as subject: that it was revoked; without subject, that it was made.
    """

    at: str
    collection: str
    subject: str | None
    faces: tuple[str, ...]


class Ledger:
    """Erasures in `erasures.jsonl`, a line each with a tag over it; only ever added to."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._file = folder / "erasures.jsonl"
        self._key = key
        self._lock = threading.Lock()

    def add(self, erasure: Erasure) -> None:
        """Write down an erasure, durably.

        Raises:
            StorageFullError, StorageError: it cannot be written.
        """
        text = json.dumps([erasure.at, erasure.collection, erasure.subject, list(erasure.faces)])
        line = f"{self._tag(text)} {text}\n".encode()
        try:
            with self._lock, self._file.open("ab+") as file:
                new = file.tell() == 0
                self._cut_off_half_a_line(file)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
                if new:
                    sync_folder(self._file.parent)
        except OSError as error:
            raise as_storage_error(error, f"cannot write {self._file}") from error

    def read(self) -> list[Erasure]:
        """All erasures, oldest first. Half a line at the end, from a program that was stopped, is left out.

        Raises:
            StorageError: the file was changed: what was erased cannot be told.
        """
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").split("\n") if self._file.exists() else []
        except OSError as error:
            raise StorageError(f"cannot read {self._file}: {error.strerror}") from error
        return [self._parsed(number, line) for number, line in enumerate(lines[:-1], start=1)]

    def _parsed(self, number: int, line: str) -> Erasure:
        tag, _, text = line.partition(" ")
        if not hmac.compare_digest(tag.encode(), self._tag(text).encode()):
            raise StorageError(f"line {number} of {self._file} is damaged: what was erased cannot be told")
        at, collection, subject, faces = json.loads(text)
        return Erasure(at, collection, subject, tuple(faces))

    def _tag(self, text: str) -> str:
        return hmac.digest(self._key, b"erasure " + text.encode(), hashlib.sha256).hex()[:32]

    def _cut_off_half_a_line(self, file: BinaryIO) -> None:
        """A line that was not finished was not acknowledged, and whoever began it begins again."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry of the audit log, its number and tag, and the tag of the records' first row with it."""

    seq: int
    mac: bytes
    state: bytes


class Anchor:
    """The newest entry of the audit log that was acknowledged, and the state of the records then.

    Written before an answer but not synced: whoever cuts entries off the log, or puts an older gallery back, is found
    out; a power failure can leave it behind the log, which is no sign of anything.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "anchor"

    def get(self) -> Head | None:
        """What was set last; None if nothing was.

        Raises:
            StorageError: it cannot be read, or is not what was written.
        """
        try:
            _, seq, mac, state = self._path.read_text(encoding="ascii").split()
            return Head(int(seq), bytes.fromhex(mac), bytes.fromhex(state))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        except ValueError as error:
            raise StorageError(
                f"{self._path} is damaged: whether the gallery is the newest one cannot be told. Restore a backup, or "
                "take the gallery as it is with: facesphere gallery accept-loss"
            ) from error

    def set(self, head: Head) -> None:
        """The log has come as far as this; it never goes back. Two programs may do this.

        Failing to say so is no reason to refuse what is on the disk already.
        """
        line = f"anchor {head.seq} {head.mac.hex()} {head.state.hex() or '00'}".ljust(_ANCHOR_BYTES - 1) + "\n"
        try:
            new = not self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                words = os.pread(descriptor, _ANCHOR_BYTES, 0).split()
                if len(words) == 4 and words[1].isdigit() and int(words[1]) > head.seq:
                    return
                os.pwrite(descriptor, line.encode("ascii"), 0)
                if new:  # from here on its one block is written over, and never empty after a power failure
                    os.fsync(descriptor)
                    sync_folder(self._path.parent)
            finally:
                os.close(descriptor)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror)

    def forget(self) -> None:
        """The next program takes the log as it finds it."""
        self._path.unlink(missing_ok=True)
