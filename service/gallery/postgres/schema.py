"""Tables of the gallery in PostgreSQL, and the way from one version of them to the next.

`faces` is partitioned by collection. A partition is addressed by its own name, so that a plan looks at no other.
Dropping one waits for the writes that are under way, and others for it, which is a moment.
"""

import uuid

import psycopg

from service.errors import StorageError
from service.gallery.postgres.connections import SCHEMA
from service.gallery.postgres.database import Database
from service.gallery.postgres.rows import Place
from service.gallery.sealing import EMPTY
from service.security.vault import MasterKey

_SETTING_UP = 7_203_911_001  # advisory lock: one server makes the tables
_OLDEST_PGVECTOR = (0, 8)  # iterative scans
# migrating: uid of the embedded gallery that is being copied here (migrate.py). uid, mac, tally: as in the embedded
# gallery (service/gallery/schema.py); the tally here counts people and faces, too. changed_seq, changed_mac: the entry
# of the log that tells of the newest change, by which a replica is asked whether it has come so far. COLLATE "C": names
# are ordered by their bytes, dates as text.
_FIRST = """
CREATE SEQUENCE numbers;
CREATE TABLE store (
    id smallint PRIMARY KEY CHECK (id = 1),
    version integer NOT NULL,
    uid text NOT NULL,
    created_at text NOT NULL,
    key_check bytea NOT NULL,
    migrating text,
    signing_key bytea,
    sweep_clock text
);
CREATE TABLE keyring (uid text PRIMARY KEY, wrapped bytea NOT NULL);
CREATE TABLE collections (
    id bigint PRIMARY KEY,
    uid text NOT NULL UNIQUE,
    name text COLLATE "C" NOT NULL UNIQUE,
    purpose text NOT NULL,
    retention_days integer,
    store_crops boolean NOT NULL,
    require_consent boolean NOT NULL,
    target_fmr double precision,
    model_id text NOT NULL,
    contract_id text NOT NULL,
    dimension integer NOT NULL,
    created_at text NOT NULL,
    tally bytea NOT NULL,
    mac bytea NOT NULL,
    changed_seq bigint NOT NULL,
    changed_mac bytea NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE subjects (
    id bigint PRIMARY KEY,
    uid text NOT NULL UNIQUE,
    collection bigint NOT NULL REFERENCES collections,
    name text COLLATE "C" NOT NULL,
    created_at text NOT NULL,
    mac bytea NOT NULL,
    UNIQUE (collection, name)
);
CREATE TABLE faces (
    id bigint NOT NULL,
    collection bigint NOT NULL,
    subject bigint NOT NULL,
    face_id text NOT NULL,
    contract_id text NOT NULL,
    quality double precision,
    consent text,
    created_at text COLLATE "C" NOT NULL,
    mac bytea NOT NULL,
    code halfvec NOT NULL,
    vector bytea NOT NULL,
    crop bytea,
    PRIMARY KEY (collection, id),
    UNIQUE (collection, face_id)
) PARTITION BY LIST (collection);
CREATE INDEX faces_of_subject ON faces (subject);
CREATE INDEX faces_by_age ON faces (created_at);
ALTER TABLE faces ALTER COLUMN code SET STORAGE MAIN;
ALTER TABLE faces ALTER COLUMN vector SET STORAGE EXTERNAL;
ALTER TABLE faces ALTER COLUMN crop SET STORAGE EXTERNAL;
CREATE TABLE audit (
    seq bigint PRIMARY KEY,
    at text NOT NULL,
    actor text NOT NULL,
    event text NOT NULL,
    detail text NOT NULL,
    mac bytea NOT NULL
);
CREATE TABLE audit_head (id smallint PRIMARY KEY CHECK (id = 1), seq bigint NOT NULL, mac bytea NOT NULL);
CREATE TABLE key_state (
    id smallint PRIMARY KEY CHECK (id = 1),
    version bigint NOT NULL,
    tally bytea NOT NULL,
    mac bytea NOT NULL
);
CREATE TABLE api_keys (
    id text PRIMARY KEY,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    scopes text NOT NULL,
    collections text,
    requests_per_minute integer,
    requests_per_day integer,
    created_at text COLLATE "C" NOT NULL,
    expires_at text,
    last_used_at text COLLATE "C",
    revoked_at text,
    mac bytea NOT NULL
);
"""
# Since version 2. contracts: those that a collection has vectors of, and where they lie (rows.py: Place). Code and
# vector of a face are of the first contract that its collection had, NULL if it has none of that; collections.place is
# that of the contract it is on. jobs: as in the embedded gallery.
_SECOND = """
ALTER TABLE collections ADD COLUMN place bigint NOT NULL DEFAULT 0;
ALTER TABLE faces ALTER COLUMN code DROP NOT NULL, ALTER COLUMN vector DROP NOT NULL;
CREATE TABLE contracts (
    collection bigint NOT NULL REFERENCES collections,
    contract_id text NOT NULL,
    dimension integer NOT NULL,
    place bigint NOT NULL,
    PRIMARY KEY (collection, contract_id)
);
INSERT INTO contracts SELECT id, contract_id, dimension, 0 FROM collections;
CREATE TABLE jobs (
    id text PRIMARY KEY,
    number bigint NOT NULL UNIQUE,
    kind text NOT NULL,
    model_id text NOT NULL,
    actor text NOT NULL,
    state text NOT NULL,
    progress double precision NOT NULL,
    error text,
    result text NOT NULL,
    created_at text NOT NULL,
    updated_at text NOT NULL,
    mac bytea NOT NULL
);
"""
# Since version 3. request, content: as in the embedded gallery.
_THIRD = """
ALTER TABLE faces ADD COLUMN request bytea;
ALTER TABLE faces ADD COLUMN content bytea;
CREATE UNIQUE INDEX faces_by_request ON faces (collection, request) WHERE request IS NOT NULL;
"""
_VERSIONS = (_FIRST, _SECOND, _THIRD)  # what leads from version 0 to 1, from 1 to 2, and so on


def prepare(database: Database, master: MasterKey) -> None:
    """Make the tables, or bring them up to date, as a whole or not at all; servers that start together take turns.

    Raises:
        StorageError: the database lacks something, was begun with another master key, or by a later version.
    """
    if _version(database) == len(_VERSIONS):
        _check_key(database, master)
        return
    with database.transaction():
        database.read("SELECT 1 FROM pg_advisory_xact_lock(%s)", (_SETTING_UP,))
        _check_database(database)
        version = _version(database)
        if version > len(_VERSIONS):
            raise StorageError(f"the gallery has schema version {version}, this program knows {len(_VERSIONS)}")
        for script in _VERSIONS[version:]:
            database.write(script)
        if version == 0:
            _begin(database, master)
        database.write("UPDATE store SET version = %s", (len(_VERSIONS),))
    _check_key(database, master)


def make_partition(database: Database, collection: int) -> None:
    """For the faces of a collection. Made by itself and then attached, which others need not wait for."""
    database.write(
        f"CREATE TABLE faces_{collection} (LIKE faces INCLUDING STORAGE INCLUDING CONSTRAINTS,"
        f" CHECK (collection = {collection}));"
        f" ALTER TABLE faces ATTACH PARTITION faces_{collection} FOR VALUES IN ({collection})"
    )


def make_vectors(database: Database, place: Place) -> None:
    """For vectors of a collection's faces under another contract than its first."""
    database.write(
        f"CREATE TABLE {place.table} (id bigint PRIMARY KEY, code halfvec NOT NULL, vector bytea NOT NULL);"
        f" ALTER TABLE {place.table} ALTER COLUMN code SET STORAGE MAIN;"
        f" ALTER TABLE {place.table} ALTER COLUMN vector SET STORAGE EXTERNAL"
    )


def _version(database: Database) -> int:
    if database.one("SELECT to_regclass(%s)", (f"{SCHEMA}.store",)) == (None,):
        return 0
    row = database.one("SELECT version FROM store")
    return row[0] if row else 0


def _check_database(database: Database) -> None:
    ((encoding,),) = database.read("SHOW server_encoding")
    encoding = encoding.decode() if isinstance(encoding, bytes) else encoding  # as it comes in SQL_ASCII
    if encoding != "UTF8":
        raise StorageError(f"the database is encoded as {encoding}: make one with ENCODING 'UTF8'")
    if database.one("SELECT 1 FROM pg_extension WHERE extname = 'vector'") is None:
        _install_pgvector(database)
    ((installed,),) = database.read("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if tuple(int(part) for part in installed.split(".")[:2]) < _OLDEST_PGVECTOR:
        raise StorageError(f"the database has pgvector {installed}, this program needs 0.8 or later")
    database.write(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")


def _install_pgvector(database: Database) -> None:
    try:
        database.write("CREATE EXTENSION vector")
    except psycopg.errors.InsufficientPrivilege as error:
        raise StorageError(
            "the database has no pgvector and this role may not install it: have its administrator run "
            "CREATE EXTENSION vector"
        ) from error
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile) as error:
        raise StorageError("the server of the database has no pgvector: install it there") from error


def _begin(database: Database, master: MasterKey) -> None:
    database.write(
        "INSERT INTO store (id, version, uid, created_at, key_check) VALUES (1, 0, %s, %s, %s)",
        (uuid.uuid4().hex, database.now(), master.check),
    )
    database.write("INSERT INTO audit_head (id, seq, mac) VALUES (1, 0, '')")
    database.write(
        "INSERT INTO key_state (id, version, tally, mac) VALUES (1, 0, %s, %s)",
        (EMPTY, master.store.mac("api keys", 0, EMPTY)),
    )


def _check_key(database: Database, master: MasterKey) -> None:
    row = database.one("SELECT key_check FROM store")
    if row is None or bytes(row[0]) != master.check:
        raise StorageError(
            "the gallery in the database was begun with another master key: give every server the same one "
            "(FACESPHERE_MASTER_KEY_FILE, FACESPHERE_MASTER_KEY or FACESPHERE_MASTER_KEY_COMMAND)"
        )
