"""Enrolled people in SQLite: the source of truth. When a call returns, what it did is on the disk."""

import contextlib
import errno
import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from service.domain import (
    Collection,
    CollectionSettings,
    ModelInfo,
    NewFace,
    Page,
    StoredFace,
    Subject,
    SubjectSummary,
    Vector,
)
from service.errors import NotFoundError, StorageError, StorageFullError
from service.gallery.schema import prepare

Row = tuple[Any, ...]

_WAIT_MS = 5000
_WAIT_TO_OVERWRITE_MS = 200  # an answer waits for this; a reader that stays longer is left to the next attempt
_FACE = "faces.face_id, faces.quality, faces.consent, faces.crop IS NOT NULL, faces.created_at"


class Records:
    """One SQLite file. Calls may come from several threads; they take turns.

    While bytes of something erased may still be in the files, a file `<name>.overwrite-pending` lies beside it, so that
    a program that was stopped in between knows of them when it starts again.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._marker = path.with_suffix(".overwrite-pending")
        try:
            # SQLite gives its side files the rights of this one, so they are set before it is opened.
            path.touch(mode=0o600)
            path.chmod(0o600)
            # Transactions are begun by hand, so that several statements become durable together or not at all.
            self._db = sqlite3.connect(path, _WAIT_MS / 1000, check_same_thread=False, isolation_level=None)
            with contextlib.ExitStack() as undo:
                undo.callback(self._db.close)
                prepare(self._db)
                self._pending = self._marker.exists()
                undo.pop_all()
        except (OSError, sqlite3.DatabaseError) as error:
            raise StorageError(f"{path} cannot be opened as a gallery: {error}") from error

    @property
    def overwrite_pending(self) -> bool:
        """Whether bytes of something erased may still be in the files."""
        return self._pending

    def close(self) -> None:
        """Close the file; what is in the write-ahead log goes into it."""
        with self._lock:
            self._db.close()

    def put_collection(self, name: str, settings: CollectionSettings, model: ModelInfo) -> bool:
        """Create a collection or change its settings; its model stays what it was. True if it was created."""
        with self._transaction():
            exists = self._db.execute("SELECT 1 FROM collections WHERE name = ?", (name,)).fetchone()
            values = (settings.purpose, settings.retention_days, settings.store_crops, settings.target_fmr)
            if exists:
                self._db.execute(
                    "UPDATE collections SET purpose=?, retention_days=?, store_crops=?, target_fmr=? WHERE name=?",
                    (*values, name),
                )
            else:
                self._db.execute(
                    "INSERT INTO collections (purpose, retention_days, store_crops, target_fmr, name, model_id,"
                    " contract_id, dimension, created_at) VALUES (?,?,?,?,?,?,?,?,?)",
                    (*values, name, model.id, model.contract_id, model.dimension, _now()),
                )
        return not exists

    def collections(self, name: str | None = None) -> list[Collection]:
        """All collections by name, or the one of that name."""
        rows = self._read(
            "SELECT c.name, c.purpose, c.retention_days, c.store_crops, c.target_fmr, c.model_id, c.contract_id,"
            " c.dimension, c.created_at,"
            " (SELECT count(*) FROM subjects s WHERE s.collection = c.id),"
            " (SELECT count(*) FROM subjects s JOIN faces f ON f.subject = s.id WHERE s.collection = c.id)"
            " FROM collections c WHERE ?1 IS NULL OR c.name = ?1 ORDER BY c.name",
            (name,),
        )
        return [
            Collection(
                name=row[0],
                settings=CollectionSettings(row[1], row[2], bool(row[3]), row[4]),
                model=ModelInfo(row[5], row[6], row[7]),
                created_at=row[8],
                subjects=row[9],
                faces=row[10],
            )
            for row in rows
        ]

    def collection(self, name: str) -> Collection:
        """One collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        found = self.collections(name)
        if not found:
            raise NotFoundError(f"there is no collection {name!r}", collection=name)
        return found[0]

    def collection_info(self, name: str) -> tuple[CollectionSettings, ModelInfo]:
        """Settings and model of a collection, in a time that does not grow with its people.

        Raises:
            NotFoundError: there is none of that name.
        """
        _, settings, model = self._look_up(name)
        return settings, model

    def model_of(self, name: str) -> ModelInfo:
        """The model of a collection, as cheaply.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self.collection_info(name)[1]

    def add_faces(self, collection: str, subject: str, faces: Sequence[NewFace]) -> list[tuple[int, StoredFace]]:
        """Store faces of a person, who is created if new. Row numbers and what was stored, in order.

        Raises:
            NotFoundError: no such collection.
            StorageFullError: no room; nothing was stored.
        """
        now = _now()
        with self._transaction():
            number, _, model = self._look_up(collection)
            self._db.execute(
                "INSERT INTO subjects (collection, name, created_at) VALUES (?,?,?) ON CONFLICT DO NOTHING",
                (number, subject, now),
            )
            (owner,) = self._db.execute(
                "SELECT id FROM subjects WHERE collection = ? AND name = ?", (number, subject)
            ).fetchone()
            return [self._add_face(owner, model.contract_id, face, now) for face in faces]

    def subject(self, collection: str, name: str) -> Subject:
        """A person and what is kept of their faces, oldest first.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._lock:
            owner, created_at = self._subject_row(collection, name)
            rows = self._read(f"SELECT {_FACE} FROM faces WHERE subject = ? ORDER BY id", (owner,))  # noqa: S608
        return Subject(name, created_at, [_stored(row) for row in rows])

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name, those after `after`, at most `limit`.

        Raises:
            NotFoundError: no such collection.
        """
        with self._lock:
            number, _, _ = self._look_up(collection)
            rows = self._read(
                "SELECT s.name, s.created_at, (SELECT count(*) FROM faces f WHERE f.subject = s.id)"
                " FROM subjects s WHERE s.collection = ? AND s.name > ? ORDER BY s.name LIMIT ?",
                (number, after, limit + 1),
            )
        shown = [SubjectSummary(*row) for row in rows[:limit]]
        return Page(shown, shown[-1].name if len(rows) > limit else None)

    def vectors_of(self, collection: str, subject: str) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._lock:
            owner, _ = self._subject_row(collection, subject)
            rows = self._read("SELECT face_id, vector FROM faces WHERE subject = ? ORDER BY id", (owner,))
        return [(face_id, np.frombuffer(blob, dtype="<f4")) for face_id, blob in rows]

    def vectors(self) -> Iterator[tuple[str, list[int], Vector]]:
        """Per collection: name, row numbers and vectors (N, D), to build the index from.

        Raises:
            StorageError: a row is of another contract or length than its collection.
        """
        for collection in self.collections():
            rows = self._read(
                "SELECT f.id, f.vector, f.contract_id FROM faces f JOIN subjects s ON s.id = f.subject"
                " JOIN collections c ON c.id = s.collection WHERE c.name = ? ORDER BY f.id",
                (collection.name,),
            )
            size = 4 * collection.model.dimension
            if any(len(row[1]) != size or row[2] != collection.model.contract_id for row in rows):
                raise StorageError(f"collection {collection.name} holds a face of another model")
            matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
            yield collection.name, [row[0] for row in rows], matrix.reshape(len(rows), collection.model.dimension)

    def names_of(self, rows: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Subject and face_id of those of the rows that still exist."""
        found = self._read(
            "SELECT f.id, s.name, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject"
            " WHERE f.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(rows)),),
        )
        return {row: (subject, face_id) for row, subject, face_id in found}

    def erase(self, collection: str, subject: str | None = None, face_id: str | None = None) -> list[tuple[int, str]]:
        """Erase a collection, a person of it, or one of their faces; row numbers and face_ids of what went.

        A person whose last face is erased stays, without faces. `overwrite_erased` makes the bytes unreadable.

        Raises:
            NotFoundError: there is no such thing.
        """
        with self._transaction():
            erased = self._erase(collection, subject, face_id)
            self._note_pending()
            return erased

    def erase_expired(self, now: datetime, limit: int) -> dict[str, list[int]]:
        """Erase up to `limit` faces whose retention is over, and people who then have none; row numbers by collection.

        `overwrite_erased` makes the bytes unreadable.
        """
        gone: dict[str, list[int]] = {}
        with self._transaction():
            for collection, row, _ in self.expired(now, limit):
                gone.setdefault(collection, []).append(row)
            if gone:
                self._erase_rows([row for rows in gone.values() for row in rows])
                self._note_pending()
        return gone

    def overwrite_erased(self) -> None:
        """Leave no byte of what was erased in the files.

        SQLite zeroes deleted cells (secure_delete), but a cell that once moved to another page has left a copy in the
        gap behind it, and the write-ahead log holds old pages. So the file is written anew and the log emptied, which
        takes longer the larger the gallery is.

        Raises:
            StorageError: it is erased, but its bytes may still be on the disk: `overwrite_pending` stays true.
        """
        with self._lock:
            try:
                self._db.execute(f"PRAGMA busy_timeout = {_WAIT_TO_OVERWRITE_MS}")
                self._empty_log()  # first: a reader in the way is found before the file is copied in vain
                self._db.execute("VACUUM")
                self._empty_log()
                self._marker.unlink(missing_ok=True)
            except (OSError, sqlite3.DatabaseError) as error:
                raise StorageError(f"it is erased, but its bytes cannot be overwritten: {error}") from error
            finally:
                with contextlib.suppress(sqlite3.DatabaseError):
                    self._db.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
            self._pending = False

    def expired(self, now: datetime, limit: int = -1) -> list[tuple[str, int, str]]:
        """Collection, row number and face_id of faces whose collection's retention_days are over, oldest first."""
        return self._read(
            "SELECT c.name, f.id, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject"
            " JOIN collections c ON c.id = s.collection WHERE c.retention_days IS NOT NULL"
            " AND julianday(f.created_at) + c.retention_days <= julianday(?) ORDER BY f.created_at LIMIT ?",
            (now.isoformat(), limit),
        )

    def _empty_log(self) -> None:
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:  # only a reader outside this program, such as a backup, can be in the way
            raise StorageError("it is erased, but another program reads the gallery and keeps the old bytes on disk")

    def _note_pending(self) -> None:
        """Before a commit: were it done after, a crash in between would leave bytes that nobody knows of."""
        try:
            if not self._marker.exists():
                self._marker.touch(mode=0o600)
                _fsync(self._marker.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError("the disk is full; nothing was changed") from error
            raise StorageError(f"the gallery cannot be written: {error.strerror}") from error
        self._pending = True

    def _look_up(self, name: str) -> tuple[int, CollectionSettings, ModelInfo]:
        """Row number, settings and model of a collection, without counting its people."""
        row = self._one(
            "SELECT id, purpose, retention_days, store_crops, target_fmr, model_id, contract_id, dimension"
            " FROM collections WHERE name = ?",
            (name,),
        )
        if row is None:
            raise NotFoundError(f"there is no collection {name!r}", collection=name)
        return row[0], CollectionSettings(row[1], row[2], bool(row[3]), row[4]), ModelInfo(*row[5:])

    def _add_face(self, owner: int, contract: str, face: NewFace, now: str) -> tuple[int, StoredFace]:
        face_id = uuid.uuid4().hex
        cursor = self._db.execute(
            "INSERT INTO faces (face_id, subject, contract_id, vector, quality, consent, crop, created_at)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (
                face_id,
                owner,
                contract,
                face.embedding.astype("<f4").tobytes(),
                face.quality,
                face.consent,
                face.crop,
                now,
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid, StoredFace(face_id, face.quality, face.consent, face.crop is not None, now)

    def _erase(self, collection: str, subject: str | None, face_id: str | None) -> list[tuple[int, str]]:
        if subject is None:
            number, _, _ = self._look_up(collection)
            erased = self._read(
                "SELECT f.id, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject WHERE s.collection = ?",
                (number,),
            )
            self._db.execute("DELETE FROM collections WHERE id = ?", (number,))
            return erased
        owner, _ = self._subject_row(collection, subject)
        erased = self._read(
            "SELECT id, face_id FROM faces WHERE subject = ?1 AND (?2 IS NULL OR face_id = ?2)",
            (owner, face_id),
        )
        if face_id is None:
            self._db.execute("DELETE FROM subjects WHERE id = ?", (owner,))
        elif not erased:
            raise NotFoundError(f"{subject!r} has no face {face_id!r}", face_id=face_id)
        else:
            self._db.execute("DELETE FROM faces WHERE face_id = ?", (face_id,))
        return erased

    def _erase_rows(self, rows: Sequence[int]) -> None:
        """Delete faces by row number, and those of their people who have no other."""
        listed = (json.dumps(list(rows)),)
        owners = self._read("SELECT DISTINCT subject FROM faces WHERE id IN (SELECT value FROM json_each(?))", listed)
        self._db.execute("DELETE FROM faces WHERE id IN (SELECT value FROM json_each(?))", listed)
        self._db.execute(
            "DELETE FROM subjects WHERE id IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM faces WHERE faces.subject = subjects.id)",
            (json.dumps([owner for (owner,) in owners]),),
        )

    def _subject_row(self, collection: str, subject: str) -> tuple[int, str]:
        number, _, _ = self._look_up(collection)
        row = self._one("SELECT id, created_at FROM subjects WHERE collection = ? AND name = ?", (number, subject))
        if row is None:
            raise NotFoundError(f"there is no subject {subject!r} in {collection!r}", subject=subject)
        return row[0], row[1]

    def _one(self, query: str, values: tuple[object, ...]) -> Row | None:
        rows = self._read(query, values)
        return rows[0] if rows else None

    def _read(self, query: str, values: tuple[object, ...]) -> list[Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise StorageError(f"the gallery cannot be read: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                self._roll_back()
                raise _storage_error(error) from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.DatabaseError):  # closed, or rolled back by SQLite itself
            self._db.execute("ROLLBACK")


def _storage_error(error: sqlite3.DatabaseError) -> Exception:
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
        return StorageFullError("the disk is full; nothing was changed")
    return StorageError(f"the gallery cannot be written: {error}")


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stored(row: Row) -> StoredFace:
    return StoredFace(row[0], row[1], row[2], bool(row[3]), row[4])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
