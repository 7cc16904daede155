"""Tables of the gallery, and how the SQLite file is set up so that what is acknowledged is on the disk."""

import sqlite3

from service.errors import StorageError

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


def prepare(db: sqlite3.Connection) -> None:
    """Set a connection up, and make the tables in a new file.

    Raises:
        StorageError: the file is of another version of this program.
    """
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA journal_mode = WAL")
    # WAL with NORMAL loses commits at a power loss: an answer must mean that it is on the disk.
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA temp_store = MEMORY")  # VACUUM's copy of the gallery stays out of the temp folder
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise StorageError(f"the gallery has schema version {version}, this program knows {SCHEMA_VERSION}")
