"""Files of older versions: everything in them is kept, and what they kept in the clear is gone."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enrolment import MODEL, files_with, new_faces, units
from galleries import open_gallery

from service.domain import CollectionSettings
from service.errors import StorageError

VERSION_1 = """
CREATE TABLE collections (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL, retention_days INTEGER,
    store_crops INTEGER NOT NULL, target_fmr REAL, model_id TEXT NOT NULL, contract_id TEXT NOT NULL,
    dimension INTEGER NOT NULL, created_at TEXT NOT NULL
) STRICT;
CREATE TABLE subjects (
    id INTEGER PRIMARY KEY, collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    name TEXT NOT NULL, created_at TEXT NOT NULL, UNIQUE (collection, name)
) STRICT;
CREATE TABLE faces (
    id INTEGER PRIMARY KEY AUTOINCREMENT, face_id TEXT NOT NULL UNIQUE,
    subject INTEGER NOT NULL REFERENCES subjects ON DELETE CASCADE, contract_id TEXT NOT NULL, vector BLOB NOT NULL,
    quality REAL, consent TEXT, crop BLOB, created_at TEXT NOT NULL
) STRICT;
CREATE INDEX faces_of_subject ON faces (subject);
CREATE INDEX faces_by_age ON faces (created_at);
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""
CREATED = "2026-01-02T03:04:05.678+00:00"
CROP = b"a crop that was stored in the clear" * 100


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder as version 1 left it."""
    folder = tmp_path / "data"
    folder.mkdir()
    vectors = units(1, 3)
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db:
        db.executescript(VERSION_1)
        model = (MODEL.id, MODEL.contract_id, MODEL.dimension, CREATED)
        db.execute("INSERT INTO collections VALUES (3, 'lab', 'door', 30, 1, 0.001, ?, ?, ?, ?)", model)
        db.execute("INSERT INTO collections VALUES (5, 'empty', 'p', NULL, 0, NULL, ?, ?, ?, ?)", model)
        db.execute("INSERT INTO subjects VALUES (1, 3, 'Ann', ?)", (CREATED,))
        db.execute("INSERT INTO subjects VALUES (4, 3, 'nobody''s face', ?)", (CREATED,))
        for number, vector in enumerate(vectors):
            db.execute(
                "INSERT INTO faces VALUES (?, ?, 1, ?, ?, 0.25, 'form 17', ?, ?)",
                (number + 7, f"face-{number}", MODEL.contract_id, vector.tobytes(), CROP if number else None, CREATED),
            )
        db.commit()
    return folder


def test_a_gallery_of_version_1_is_encrypted_at_the_first_start_and_keeps_everything(old: Path) -> None:
    vectors = units(1, 3)
    assert files_with(old, vectors[0].tobytes())

    for _ in range(2):  # at the second start there is nothing left to do
        with closing(open_gallery(old)) as gallery:
            lab = gallery.collection("lab")
            assert (lab.settings, lab.model) == (CollectionSettings("door", 30, True, 0.001), MODEL)
            assert (lab.created_at, lab.subjects, lab.faces) == (CREATED, 2, 3)
            assert gallery.collection("empty").settings == CollectionSettings("p")
            person = gallery.subject("lab", "Ann")
            assert [(face.face_id, face.quality, face.consent, face.has_crop) for face in person.faces] == [
                ("face-0", 0.25, "form 17", False),
                ("face-1", 0.25, "form 17", True),
                ("face-2", 0.25, "form 17", True),
            ]
            assert {face.created_at for face in person.faces} == {person.created_at} == {CREATED}
            stored = gallery.vectors_of("lab", MODEL.contract_id, "Ann")
            np.testing.assert_array_equal(np.stack([vector for _, vector in stored]), vectors)
            assert gallery.search("lab", MODEL.contract_id, vectors[2], 1)[0][0].face_id == "face-2"
    assert not any(files_with(old, needle) for needle in (vectors[0].tobytes(), CROP[:200]))


_BACK_TO = {
    4: "DROP INDEX faces_of_subject; CREATE INDEX faces_of_subject ON faces (subject);",
    3: "DROP INDEX faces_by_request; ALTER TABLE faces DROP COLUMN request; ALTER TABLE faces DROP COLUMN content;",
}


@pytest.mark.parametrize("version", [4, 3])
def test_a_gallery_of_a_version_before_goes_on_and_knows_requests(tmp_path: Path, version: int) -> None:
    folder = tmp_path / "data"
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", CollectionSettings("door"), MODEL)
        (first,) = gallery.enrol("lab", MODEL.contract_id, "Ann", new_faces(units(1, 1)))
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        for each in range(4, version - 1, -1):
            db.executescript(_BACK_TO[each])
        db.execute(f"PRAGMA user_version = {version}")

    for _ in range(2):
        with closing(open_gallery(folder)) as gallery:
            (again,) = new_faces(units(2, 1))
            gallery.enrol("lab", MODEL.contract_id, "Ann", [replace(again, request="0 of a")])
            faces = gallery.subject("lab", "Ann").faces
            assert (faces[0], len(faces)) == (first, 2)
    with closing(open_gallery(tmp_path / "new")):
        assert _indexes(folder) == _indexes(tmp_path / "new")


def test_a_gallery_of_version_1_that_cannot_be_encrypted_is_left_as_it_was(old: Path) -> None:
    with closing(sqlite3.connect(old / "gallery.sqlite3")) as db, db:
        db.execute("UPDATE faces SET subject = 999 WHERE id = 8")  # nobody's: a damaged file
        db.execute("CREATE TABLE old_faces (x)")  # in the way
    before = _dump(old)

    with pytest.raises(StorageError):
        open_gallery(old)

    assert _dump(old) == before


def test_tags_are_read_from_an_index_alone(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path / "data")):
        pass
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3")) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT f.id, f.mac FROM faces f JOIN subjects s ON s.id = f.subject"
            " WHERE s.collection = 1"
        ).fetchall()
    assert [row[3] for row in plan if " f " in row[3]] == ["SEARCH f USING COVERING INDEX faces_of_subject (subject=?)"]


def _dump(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db:
        return list(db.iterdump())


def _indexes(folder: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db:
        return set(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"))
