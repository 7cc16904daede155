"""From an empty file, or one of an older version, to the tables of this one."""

import sqlite3
import uuid

import numpy as np

from service.domain import CollectionSettings, ModelInfo, NewFace
from service.errors import StorageError
from service.gallery.database import Database
from service.gallery.errands import Errands
from service.gallery.first_row import FirstRow, State
from service.gallery.records import Records
from service.gallery.schema import SCHEMA, SCHEMA_VERSION, SINCE_3, SINCE_4, SINCE_5
from service.gallery.trail import Trail
from service.security.vault import Vault


def prepare(database: Database, vault: Vault, trail: Trail, errands: Errands) -> Records:
    """The records of a file, whose tables are made or brought up to date first, as a whole or not at all.

    Raises:
        StorageError: the file is damaged, or of a later version of this program.
    """
    records = Records(database, vault, trail, errands)
    ((version,),) = database.read("PRAGMA user_version")
    if version < SCHEMA_VERSION:
        with trail.change():
            ((version,),) = database.read("PRAGMA user_version")  # another program may have been faster
            if version == 0:
                _make_tables(database, vault)
                trail.add("system", "store.create")
            elif version == 1:
                _encrypt(database, vault, trail, records)
            elif version in (2, 3, 4):
                _bring_up_to_date(database, version)
                trail.add("system", "store.migrate", version=SCHEMA_VERSION)
        if version == 1:
            database.overwrite_erased()
    elif version != SCHEMA_VERSION:
        raise StorageError(f"the gallery has schema version {version}, this program knows {SCHEMA_VERSION}")
    return records


def _make_tables(database: Database, vault: Vault) -> None:
    for statement in _statements(SCHEMA):
        database.write(statement)
    FirstRow(database, vault).create(State(uuid.uuid4().hex, database.now()))
    _bring_up_to_date(database, 2)


def _bring_up_to_date(database: Database, version: int) -> None:
    for script in (SINCE_3, SINCE_4, SINCE_5)[version - 2 :]:
        for statement in _statements(script):
            database.write(statement)
    database.write(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _statements(script: str) -> list[str]:
    statements, rest = [], ""
    for line in script.splitlines():
        rest += line + "\n"
        if sqlite3.complete_statement(rest):
            statements.append(rest)
            rest = ""
    return statements


def _encrypt(database: Database, vault: Vault, trail: Trail, records: Records) -> None:
    """Version 1 kept vectors as they were, and no tags. Faces keep their ids and dates."""
    for index in ("faces_of_subject", "faces_by_age"):
        database.write(f"DROP INDEX {index}")
    for table in ("collections", "subjects", "faces"):
        database.write(f"ALTER TABLE {table} RENAME TO old_{table}")
    _make_tables(database, vault)
    trail.add("system", "store.migrate", version=SCHEMA_VERSION)
    for row in database.read(
        "SELECT name, purpose, retention_days, store_crops, target_fmr, model_id, contract_id, dimension, created_at,"
        " id FROM old_collections ORDER BY id"
    ):
        settings = CollectionSettings(row[1], row[2], bool(row[3]), row[4])
        records.adopt_collection(row[0], settings, ModelInfo(*row[5:8]), row[8])
        for name, created_at, number in database.read(
            "SELECT name, created_at, id FROM old_subjects WHERE collection = ? ORDER BY id", (row[9],)
        ):
            faces = database.read(
                "SELECT face_id, vector, quality, consent, crop, created_at FROM old_faces WHERE subject = ?"
                " ORDER BY id",
                (number,),
            )
            records.adopt_subject(row[0], name, created_at, [_face(face) for face in faces])
    for table in ("faces", "subjects", "collections"):
        database.write(f"DROP TABLE old_{table}")
    database.note_pending()


def _face(row: tuple[str, bytes, float | None, str | None, bytes | None, str]) -> tuple[str, str, NewFace]:
    face_id, vector, quality, consent, crop, created_at = row
    return face_id, created_at, NewFace(np.frombuffer(vector, "<f4"), quality, consent, crop)
