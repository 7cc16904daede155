"""Tables of the gallery, and how the SQLite file is set up so that what is acknowledged is on the disk."""

import sqlite3
from pathlib import Path

SCHEMA_VERSION = 5
# uid: a random name that means nothing, for logs and receipts. mac: see sealing.py. tally: the macs of all people and
# faces of a collection together (of all collections, and of all keys, in `store`), so that a row that went missing is
# noticed. sealed_to and sealed_mac: the newest entry of the audit log that is archived. contract_id of a face: what it
# was enrolled under, and what `vector` is of.
SCHEMA = """
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    uid TEXT NOT NULL,
    created_at TEXT NOT NULL,
    tally BLOB NOT NULL,
    keys_tally BLOB NOT NULL,
    sealed_to INTEGER NOT NULL,
    sealed_mac BLOB NOT NULL,
    mac BLOB NOT NULL,
    sweep_clock TEXT
) STRICT;
CREATE TABLE collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    purpose TEXT NOT NULL,
    retention_days INTEGER,
    store_crops INTEGER NOT NULL,
    require_consent INTEGER NOT NULL,
    target_fmr REAL,
    model_id TEXT NOT NULL,
    contract_id TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    tally BLOB NOT NULL,
    mac BLOB NOT NULL
) STRICT;
CREATE TABLE subjects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL UNIQUE,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    mac BLOB NOT NULL,
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
    created_at TEXT NOT NULL,
    mac BLOB NOT NULL
) STRICT;
CREATE INDEX faces_of_subject ON faces (subject);
CREATE INDEX faces_by_age ON faces (created_at);
-- What a committed change still asks for outside of this file (errands.py): done before it is acknowledged, and by the
-- next program if this one is stopped in between.
CREATE TABLE errands (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL,
    mac BLOB NOT NULL
) STRICT;
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    collections TEXT,
    requests_per_minute INTEGER,
    requests_per_day INTEGER,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    last_used_at TEXT,
    revoked_at TEXT,
    mac BLOB NOT NULL
) STRICT;
"""
# Since version 3. vectors: of a face under contracts it was not enrolled under, made of its crop (contracts.py). They
# bear no tag of their own: each is sealed under the face and the contract it is of, and one that is missing is noticed
# because the face is there. jobs: what is done about models in the background (jobs.py).
SINCE_3 = """
CREATE TABLE vectors (
    face INTEGER NOT NULL REFERENCES faces ON DELETE CASCADE,
    contract_id TEXT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (face, contract_id)
) STRICT;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    model_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    state TEXT NOT NULL,
    progress REAL NOT NULL,
    error TEXT,
    result TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    mac BLOB NOT NULL
) STRICT;
"""
# Since version 4. request: by what the caller calls the request for a face, it is known when it comes again; content:
# by what was in it, whether that is the same. Not covered by the tag: they are made under the key of the collection,
# and say nothing about whose face it is.
SINCE_4 = """
ALTER TABLE faces ADD COLUMN request BLOB;
ALTER TABLE faces ADD COLUMN content BLOB;
CREATE UNIQUE INDEX faces_by_request ON faces (request) WHERE request IS NOT NULL;
"""
# Since version 5. Row numbers and tags of a collection are read from this index alone: from the rows, which have their
# vectors in them, it would be every page of the file at each start.
SINCE_5 = """
DROP INDEX faces_of_subject;
CREATE INDEX faces_of_subject ON faces (subject, mac);
"""


def connect(path: Path, wait_ms: int) -> sqlite3.Connection:
    """A connection on which a commit means that it is on the disk; usable from any thread."""
    # Transactions are begun by hand, so that several statements become durable together or not at all.
    db = sqlite3.connect(path, wait_ms / 1000, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL loses commits at a power loss: an answer must mean that it is on the disk.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA temp_store = MEMORY")  # VACUUM's copy of the gallery stays out of the temp folder
    except BaseException:
        db.close()
        raise
    return db
