"""Enrolled people in SQLite: the source of truth. When a call returns, what it did is on the disk."""

import contextlib
import json
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

Row = tuple[Any, ...]

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE collections (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL,
    retention_days INTEGER,
    store_crops INTEGER NOT NULL,
    target_fmr REAL,
    model_id TEXT NOT NULL,
    contract_id TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE TABLE subjects (
    id INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (collection, name)
) STRICT;
-- AUTOINCREMENT: a row number is never used twice, so the index in memory cannot mistake a new face for an erased one.
CREATE TABLE faces (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    face_id TEXT NOT NULL UNIQUE,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE,
    contract_id TEXT NOT NULL,
    vector BLOB NOT NULL,
    quality REAL,
    consent TEXT,
    crop BLOB,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX faces_of_subject ON faces (subject);
CREATE INDEX faces_by_age ON faces (created_at);
"""
_FACE = "faces.face_id, faces.quality, faces.consent, faces.crop IS NOT NULL, faces.created_at"


class Records:
    """One SQLite file. Calls may come from several threads; they take turns."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            # SQLite gives its side files the rights of this one, so they are set before it is opened.
            path.touch(mode=0o600)
            path.chmod(0o600)
            # Transactions are begun by hand, so that several statements become durable together or not at all.
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            with contextlib.ExitStack() as undo:
                undo.callback(self._db.close)
                self._prepare()
                undo.pop_all()
        except (OSError, sqlite3.DatabaseError) as error:
            raise StorageError(f"{path} cannot be opened as a gallery: {error}") from error

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

    def add_faces(self, collection: str, subject: str, faces: Sequence[NewFace]) -> list[tuple[int, StoredFace]]:
        """Store faces of a person, who is created if new. Row numbers and what was stored, in order.

        Raises:
            NotFoundError: no such collection.
            StorageFullError: no room; nothing was stored.
        """
        now = _now()
        with self._transaction():
            row = self._one("SELECT id, contract_id FROM collections WHERE name = ?", (collection,))
            if row is None:
                raise NotFoundError(f"there is no collection {collection!r}", collection=collection)
            self._db.execute(
                "INSERT INTO subjects (collection, name, created_at) VALUES (?,?,?) ON CONFLICT DO NOTHING",
                (row[0], subject, now),
            )
            (owner,) = self._db.execute(
                "SELECT id FROM subjects WHERE collection = ? AND name = ?", (row[0], subject)
            ).fetchone()
            return [self._add_face(owner, row[1], face, now) for face in faces]

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
            self.collection(collection)
            rows = self._read(
                "SELECT s.name, s.created_at, (SELECT count(*) FROM faces f WHERE f.subject = s.id)"
                " FROM subjects s JOIN collections c ON c.id = s.collection"
                " WHERE c.name = ? AND s.name > ? ORDER BY s.name LIMIT ?",
                (collection, after, limit + 1),
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

    def vectors(self) -> Iterator[tuple[str, str, list[int], Vector]]:
        """Per collection: name, contract_id, row numbers and vectors (N, D), to build the index from.

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
            yield (
                collection.name,
                collection.model.contract_id,
                [row[0] for row in rows],
                matrix.reshape(len(rows), collection.model.dimension),
            )

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
            return self._erase(collection, subject, face_id)

    def overwrite_erased(self) -> None:
        """Leave no byte of what was erased in the files.

        SQLite zeroes deleted cells (secure_delete), but a cell that once moved to another page has left a copy in the
        gap behind it, and the write-ahead log holds old pages. So the file is written anew and the log emptied. The
        time grows with the gallery: about half a second at 100,000 faces.

        Raises:
            StorageError: it is erased, but its bytes may still be on the disk; the next call tries again.
        """
        with self._lock:
            try:
                self._db.execute("VACUUM")
                busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.DatabaseError as error:
                raise StorageError(f"it is erased, but its bytes cannot be overwritten: {error}") from error
        if busy:  # only a reader outside this program, such as a backup, can be in the way
            raise StorageError("it is erased, but another program reads the gallery and keeps the old bytes on disk")

    def expired(self, now: datetime) -> list[tuple[str, str, str]]:
        """Collection, subject and face_id of the faces whose collection's retention_days are over."""
        return self._read(
            "SELECT c.name, s.name, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject"
            " JOIN collections c ON c.id = s.collection WHERE c.retention_days IS NOT NULL"
            " AND julianday(f.created_at) + c.retention_days <= julianday(?)",
            (now.isoformat(),),
        )

    def _prepare(self) -> None:
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL loses commits at a power loss: an answer must mean that it is on the disk.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA secure_delete = ON")
        self._db.execute("PRAGMA temp_store = MEMORY")  # VACUUM's copy of the gallery stays out of the temp folder
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StorageError(f"the gallery has schema version {version}, this program knows {SCHEMA_VERSION}")

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
            self.collection(collection)
            erased = self._read(
                "SELECT f.id, f.face_id FROM faces f JOIN subjects s ON s.id = f.subject"
                " JOIN collections c ON c.id = s.collection WHERE c.name = ?",
                (collection,),
            )
            self._db.execute("DELETE FROM collections WHERE name = ?", (collection,))
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

    def _subject_row(self, collection: str, subject: str) -> tuple[int, str]:
        self.collection(collection)
        row = self._one(
            "SELECT s.id, s.created_at FROM subjects s JOIN collections c ON c.id = s.collection"
            " WHERE c.name = ? AND s.name = ?",
            (collection, subject),
        )
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


def _stored(row: Row) -> StoredFace:
    return StoredFace(row[0], row[1], row[2], bool(row[3]), row[4])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
