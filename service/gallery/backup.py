"""A backup: one tar file with a consistent copy of the records, the archive of the audit log, and their digests.

    manifest.json        format, date, sizes and SHA-256 of the others
    gallery.sqlite3      vectors and crops encrypted, as in the data folder
    audit/*.jsonl

Made while the server runs. It holds no key: without the folder of the keys nobody can read the faces in it, and what
was erased since stays erased when it is put back (ledger.py).
"""

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from service.errors import AlreadyExistsError, InvalidRequestError, StorageError
from service.gallery.audit import SEGMENT
from service.gallery.database import BROKEN, WAIT_MS, storage_error
from service.gallery.folder import SCRATCH, lock, overwrite, remove_scratch
from service.gallery.schema import connect
from service.gallery.snapshots import remove_snapshots
from service.gallery.store import AUDIT, FILE, Store, open_store
from service.security.keyfolder import KeyFolder
from service.security.ledger import KEYS, Anchor, Head
from service.security.master import sync_folder
from service.security.vault import as_storage_error

Progress = Callable[[int, int], None]  # bytes or pages done, of how many
_FORMAT = 1
_MANIFEST = "manifest.json"
_PAGES = 1024
_CHUNK = 2**20
_MAX_MANIFEST = 2**22


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: faces and people, and how many erasures since were applied again."""

    subjects: int
    faces: int
    erasures: int


def back_up(folder: Path, target: Path, progress: Progress) -> int:
    """Write a backup of a data folder; a server may be using it. The size in bytes.

    Raises:
        AlreadyExistsError: the target is there.
        StorageError, StorageFullError: it cannot be read or written; nothing is left of it.
    """
    if not (folder / FILE).is_file():
        raise StorageError(f"there is no gallery in {folder}")
    if target.exists():
        raise AlreadyExistsError(f"{target} is there already")
    try:
        # In the data folder, which is swept at every start: a copy that a kill leaves would outlive erasures.
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
            copy, partial = Path(scratch) / FILE, target.with_name(f".{target.name}.partial")
            _copy_records(folder / FILE, copy, progress)
            try:
                _pack(partial, {FILE: copy} | {f"{AUDIT}/{path.name}": path for path in _segments(folder)})
                partial.rename(target)
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(target.absolute().parent)
            return target.stat().st_size
    except BROKEN as error:
        raise storage_error(error) from error
    except OSError as error:
        raise as_storage_error(error, f"cannot write the backup {target}") from error


def restore(source: Path, folder: Path, keys: KeyFolder, in_place: bool, progress: Progress) -> Restored:
    """Put a backup into a data folder that no server uses; then erase again what was erased since.

    Raises:
        InvalidRequestError: it is no backup, or damaged.
        AlreadyExistsError: there is a gallery already, and `in_place` is false.
        StorageError: these are not its keys, or it cannot be written. What was there before is still there.
    """
    with contextlib.closing(lock(folder)):
        remove_scratch(folder)
        if (folder / FILE).exists() and not in_place:
            raise AlreadyExistsError(f"there is a gallery in {folder} already; say --replace to put this in its place")
        try:
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
                _unpack(source, Path(scratch), progress)
                _finish_errands(folder, keys)
                restored, head = _made_current(Path(scratch), keys)
                _take_place(Path(scratch), folder, keys.anchor, head)
                return restored
        except OSError as error:
            raise as_storage_error(error, f"cannot restore {source}") from error


def erase_again(store: Store, keys: KeyFolder) -> int:
    """Erase from an older state what was erased since; the number of erasures that this took.

    Raises:
        StorageError: the ledger is damaged.
    """
    everything = keys.ledger.read()
    erasures = [each for each in everything if each.collection != KEYS]
    whole = [each for each in erasures if each.subject is None and not each.faces]
    again = sum(store.records.drop(each.collection) for each in whole)
    again += sum(store.records.forget(each) for each in erasures)
    for each in everything:
        if each.collection == KEYS and each.subject is not None:
            store.keys.revoke_again(each.subject)
    store.errands.run()
    store.database.overwrite_erased()
    return again


def accept(folder: Path, keys: KeyFolder) -> int:
    """Take a gallery for the newest one that is older; what was erased since is erased from it again, and how often.

    The anchor follows when all that is done: until then the gallery is not opened by anybody else.

    Raises:
        StorageError: it cannot be read, or the ledger cannot.
    """
    if not (folder / FILE).is_file():
        raise StorageError(f"there is no gallery in {folder}")
    try:
        remove_snapshots(folder)  # who is erased again may be in one
    except OSError as error:
        raise as_storage_error(error, f"cannot remove the snapshots in {folder}") from error
    scratch = Anchor(folder)
    scratch.forget()
    with contextlib.closing(open_store(folder, replace(keys, anchor=scratch), newest=False)) as store:
        again = erase_again(store, keys)
        with store.trail.change():
            store.trail.add("cli", "store.accept-loss", erased_again=again)
        head = store.trail.anchored_head()
    scratch.forget()
    keys.anchor.forget()
    keys.anchor.set(head)
    return again


def _copy_records(source: Path, copy: Path, progress: Progress) -> None:
    """One state of the file, as it was when this began, however much is written meanwhile."""
    with contextlib.closing(connect(source, WAIT_MS)) as reader, contextlib.closing(sqlite3.connect(copy)) as writer:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on it sees no other changes
        reader.backup(writer, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total))


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / AUDIT).glob("*.jsonl") if SEGMENT.fullmatch(path.name))


def _pack(target: Path, members: dict[str, Path]) -> None:
    files = {name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for name, path in members.items()}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = json.dumps({"format": _FORMAT, "created_at": created, "files": files}, indent=1).encode()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            info = tarfile.TarInfo(_MANIFEST)
            info.size = len(manifest)
            tar.addfile(info, io.BytesIO(manifest))
            for name, path in members.items():
                info = tarfile.TarInfo(name)
                info.size = files[name]["bytes"]  # type: ignore[assignment]
                with path.open("rb") as opened:
                    tar.addfile(info, opened)
        file.flush()
        os.fsync(file.fileno())


def _unpack(source: Path, folder: Path, progress: Progress) -> None:
    """Take out exactly what the manifest names, and check each byte of it."""
    try:
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = iter(tar)
            files = _manifest(tar, next(members, None))
            total = sum(each["bytes"] for each in files.values())
            done = 0
            for member in members:
                if member.name not in files or not member.isfile():
                    raise InvalidRequestError(f"{source} is damaged: it holds {member.name!r}, which it does not name")
                expected = files.pop(member.name)
                path = folder / member.name
                path.parent.mkdir(exist_ok=True, mode=0o700)
                for count in _extract(tar, member, path, expected, source):
                    done += count
                    progress(done, total)
            if files:
                raise InvalidRequestError(f"{source} is damaged: {sorted(files)[0]} is missing")
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequestError(f"{source} is no backup, or damaged") from error
    except OSError as error:
        if error.filename == str(source) or error.errno is None:
            raise InvalidRequestError(f"cannot read {source}: {error.strerror or error}") from error
        raise


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    file = tar.extractfile(member) if member and member.name == _MANIFEST and member.size < _MAX_MANIFEST else None
    if file is None:
        raise tarfile.TarError("no manifest")
    document = json.loads(file.read())
    if document["format"] != _FORMAT:
        raise InvalidRequestError(f"the backup is of format {document['format']}, this program knows {_FORMAT}")
    files = dict(document["files"])
    allowed = all(name == FILE or SEGMENT.fullmatch(name.removeprefix(f"{AUDIT}/")) for name in files)
    if FILE not in files or not allowed:
        raise tarfile.TarError("not these files")
    return files


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, expected: dict[str, Any], source: Path
) -> Iterator[int]:
    digest, size = hashlib.sha256(), 0
    stream: IO[bytes] | None = tar.extractfile(member)
    with path.open("xb") as file:
        while stream is not None and (chunk := stream.read(_CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
            yield len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if size != expected["bytes"] or digest.hexdigest() != expected["sha256"]:
        raise InvalidRequestError(f"{source} is damaged: {member.name} is not what was backed up")


def _made_current(scratch: Path, keys: KeyFolder) -> tuple[Restored, Head]:
    """Check every row, and erase again what was erased since the backup was made; and the newest entry of the log."""
    before = None
    with contextlib.suppress(StorageError):  # damaged: no reason not to restore
        before = keys.anchor.get()
    # An anchor of its own: should anything fail, the gallery that is there is the current one still.
    store = open_store(scratch, replace(keys, anchor=Anchor(scratch)), newest=False)
    try:
        again = erase_again(store, keys)
        for _ in store.records.vectors():
            pass  # reading them all is the check
        with store.trail.change():
            store.trail.add("cli", "store.restore", erased_again=again, log_had_come_to=before.seq if before else None)
        collections = store.records.collections()
        counts = sum(each.subjects for each in collections), sum(each.faces for each in collections)
        return Restored(*counts, again), store.trail.anchored_head()
    finally:
        store.close()


def _finish_errands(folder: Path, keys: KeyFolder) -> None:
    """What the gallery that is there has erased and not yet written down, it writes down now."""
    if (folder / FILE).exists():
        with (
            contextlib.suppress(StorageError),  # it cannot be read: there is nothing to be had from it
            contextlib.closing(open_store(folder, replace(keys, anchor=Anchor(folder)), newest=False)) as store,
        ):
            store.errands.run()
    Anchor(folder).forget()


def _take_place(scratch: Path, folder: Path, anchor: Anchor, head: Head) -> None:
    """The new files in place of the old ones. At every moment one of the two galleries is there, whole.

    The old files are overwritten at last: there may be somebody in them who was erased.
    """
    remove_snapshots(folder)  # of other records, in which the same row number may be somebody else
    _set_aside(_segments(folder), folder / AUDIT)
    aside = scratch / "before"
    aside.mkdir()
    # A log that the old file has left, for want of somebody who could read it, must not be taken for the new one's.
    for path in (folder / f"{FILE}-wal", folder / f"{FILE}-shm"):
        if path.exists():
            path.rename(aside / path.name)
    if (folder / FILE).exists():
        os.link(folder / FILE, aside / FILE)
    (scratch / FILE).replace(folder / FILE)
    anchor.forget()
    anchor.set(head)
    for path in _segments(scratch):
        path.rename(folder / AUDIT / path.name)
    sync_folder(folder / AUDIT)
    sync_folder(folder)
    for path in aside.iterdir():
        overwrite(path)


def _set_aside(segments: list[Path], audit: Path) -> None:
    """Another history than the one that is put back; it is evidence, and kept, but no part of the chain."""
    audit.mkdir(exist_ok=True, mode=0o700)
    if segments:
        stamp = datetime.now(UTC).strftime("before-restore-%Y%m%dT%H%M%S.")
        aside = Path(tempfile.mkdtemp(prefix=stamp, dir=audit))
        for path in segments:
            path.rename(aside / path.name)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
