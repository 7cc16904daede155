"""Whatever somebody changes in the file behind the program's back is noticed before anybody is taken for another."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from enrolment import MODEL, SETTINGS, new_face, units
from galleries import keys_of, open_gallery, open_records

from service.domain import CollectionSettings
from service.errors import StorageError
from service.gallery.backup import accept

TAMPERINGS = [
    "UPDATE collections SET target_fmr = 0.5 WHERE name = 'lab'",
    "UPDATE collections SET purpose = 'advertising' WHERE name = 'lab'",
    "UPDATE collections SET retention_days = NULL WHERE name = 'lab'",
    "UPDATE collections SET name = 'gate 2' WHERE name = 'gate'",
    "UPDATE collections SET contract_id = 'ffffffffffffffff' WHERE name = 'lab'",
    "UPDATE subjects SET name = 'Eve' WHERE name = 'Ann'",
    "UPDATE subjects SET uid = 'ffff' WHERE name = 'Ann'",
    "UPDATE subjects SET collection = 2 WHERE name = 'Ann'",
    "UPDATE faces SET subject = (SELECT id FROM subjects WHERE name = 'Bob')",
    "UPDATE faces SET contract_id = 'ffffffffffffffff' WHERE id = 2",
    "UPDATE faces SET vector = (SELECT vector FROM faces WHERE id = 1) WHERE id = 2",
    "UPDATE faces SET vector = x'00000000' WHERE id = 2",
    "UPDATE faces SET created_at = '2099-01-01T00:00:00.000+00:00' WHERE id = 2",
    "UPDATE faces SET consent = 'form 99' WHERE id = 2",
    "UPDATE faces SET quality = 1.0 WHERE id = 2",
    "UPDATE faces SET id = 77 WHERE id = 2",
    "UPDATE faces SET crop = NULL WHERE id = 1",
    "DELETE FROM faces WHERE id = 2",
    "DELETE FROM subjects WHERE name = 'Bob'",
    "DELETE FROM collections WHERE name = 'gate'",
    "UPDATE store SET tally = zeroblob(16)",
    "UPDATE store SET keys_tally = zeroblob(16), sealed_to = 3",
    "DELETE FROM store",
    "INSERT INTO faces SELECT 99, 'new', subject, contract_id, vector, quality, consent, crop, created_at, mac,"
    " NULL, NULL FROM faces WHERE id = 1",
]


def _fill(folder: Path) -> None:
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", CollectionSettings("door", 30, store_crops=True), MODEL)
        gallery.put_collection("gate", SETTINGS, MODEL)
        vectors = units(1, 4)
        gallery.enrol("lab", MODEL.contract_id, "Ann", [new_face(v, 0.5, "form 1", b"png") for v in vectors[:2]])
        gallery.enrol("lab", MODEL.contract_id, "Bob", [new_face(vectors[2])])
        gallery.enrol("gate", MODEL.contract_id, "Cid", [new_face(vectors[3])])


def _sql(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_gallery_that_was_changed_from_outside_is_not_opened(tmp_path: Path, tampering: str) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    _sql(folder, tampering)

    with pytest.raises(StorageError, match=r"damaged|missing") as refused:
        open_gallery(folder)

    assert "\n" not in refused.value.message


def test_what_is_changed_under_a_running_gallery_is_an_error_and_not_a_wrong_name(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(open_gallery(folder)) as gallery:
        _sql(
            folder,
            "UPDATE subjects SET name = 'x' WHERE name = 'Ann'",
            "UPDATE subjects SET name = 'Ann' WHERE name = 'Bob'",
            "UPDATE subjects SET name = 'Bob' WHERE name = 'x'",
        )
        calls: list[Callable[[], Any]] = [
            lambda: gallery.search("lab", MODEL.contract_id, units(1, 4)[0], 5),
            lambda: gallery.subject("lab", "Ann"),
            lambda: gallery.subjects("lab", "", 5),
            lambda: gallery.vectors_of("lab", MODEL.contract_id, "Bob"),
        ]
        for call in calls:
            with pytest.raises(StorageError, match="damaged"):
                call()
        assert gallery.search("gate", MODEL.contract_id, units(1, 4)[3], 1)[0][0].subject == "Cid"


def test_two_rows_that_were_exchanged_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    _sql(
        folder,
        "UPDATE faces SET id = 1000 WHERE id = 1",
        "UPDATE faces SET id = 1 WHERE id = 3",
        "UPDATE faces SET id = 3 WHERE id = 1000",
    )

    with pytest.raises(StorageError, match="damaged"):
        open_gallery(folder)


def test_an_older_gallery_put_in_place_of_the_newest_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    older = (folder / "gallery.sqlite3").read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab", "Ann")
    (folder / "gallery.sqlite3").write_bytes(older)

    with pytest.raises(StorageError, match="newest part of the gallery is missing"):
        open_gallery(folder)


def test_a_write_ahead_log_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    gallery = open_gallery(folder)
    gallery.enrol("gate", MODEL.contract_id, "Dan", [new_face(units(2, 1)[0])])
    log = (folder / "gallery.sqlite3-wal").read_bytes()
    database = (folder / "gallery.sqlite3").read_bytes()
    gallery.close()
    # As a kill would have left both files, but for the end of the log.
    (folder / "gallery.sqlite3").write_bytes(database)
    (folder / "gallery.sqlite3-wal").write_bytes(log[: len(log) // 2])

    with pytest.raises(StorageError, match="newest part of the gallery is missing"):
        open_gallery(folder)

    (folder / "gallery.sqlite3-wal").write_bytes(log)
    with closing(open_gallery(folder)) as again:
        assert [each.name for each in again.subjects("gate", "", 5).subjects] == ["Cid", "Dan"]


def test_keys_of_another_gallery_open_nothing(tmp_path: Path) -> None:
    _fill(tmp_path / "data")
    _fill(tmp_path / "other")
    keyring = (tmp_path / "data.keys" / "keyring.json").read_bytes()
    (tmp_path / "data.keys" / "keyring.json").write_bytes((tmp_path / "other.keys" / "keyring.json").read_bytes())

    with pytest.raises(StorageError, match="not its master key"):
        open_gallery(tmp_path / "data")

    (tmp_path / "data.keys" / "keyring.json").unlink()
    with pytest.raises(StorageError, match="put the keyring back"):
        open_gallery(tmp_path / "data")
    (tmp_path / "data.keys" / "keyring.json").write_bytes(keyring)
    open_gallery(tmp_path / "data").close()


def test_a_copy_of_an_erased_collection_cannot_be_read_any_more(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    copy = (folder / "gallery.sqlite3").read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab")
    (folder / "gallery.sqlite3").write_bytes(copy)
    (tmp_path / "data.keys" / "anchor").unlink()

    with pytest.raises(StorageError, match="no key for collection"):
        open_gallery(folder)


def test_a_program_that_stops_before_the_errands_of_an_erasure_leaves_them_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "data" / "gallery.sqlite3"
    _fill(path.parent)
    with closing(open_records(path)) as records:
        uid, _ = records.uids("lab")
        records.erase("lab")  # as a kill would have left it: committed, and nothing done yet
        assert records.keys.vault.knows(uid)
        assert records.keys.ledger.read() == []

    with closing(open_gallery(path.parent)):
        pass

    with closing(open_records(path)) as records:
        assert not records.keys.vault.knows(uid)
        assert [(each.collection, each.subject, each.faces) for each in records.keys.ledger.read()] == [(uid, None, ())]


def test_what_was_erased_is_in_the_ledger_by_names_that_say_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(open_gallery(folder)) as gallery:
        person = gallery.subject("lab", "Ann")
        gallery.erase("lab", "Ann", person.faces[0].face_id)
        gallery.erase("lab", "Ann")

    with closing(open_records(folder / "gallery.sqlite3")) as records:
        first, second = records.keys.ledger.read()
    assert (first.subject, first.faces) == (None, (person.faces[0].face_id,))
    assert second.subject is not None
    assert second.faces == (person.faces[1].face_id,)
    assert b"Ann" not in (tmp_path / "data.keys" / "erasures.jsonl").read_bytes()


def test_a_gallery_that_was_removed_or_emptied_does_not_begin_anew_without_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    anchor = (tmp_path / "data.keys" / "anchor").read_bytes()
    for empty in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        empty(folder / "gallery.sqlite3")
        with pytest.raises(StorageError, match="newest part of the gallery is missing"):
            open_gallery(folder)
        assert (tmp_path / "data.keys" / "anchor").read_bytes() == anchor


def test_older_people_beside_the_newest_log_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    older = (folder / "gallery.sqlite3").read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab", "Ann")
    (tmp_path / "older.sqlite3").write_bytes(older)
    tables = ("store", "collections", "subjects", "faces")
    _sql(
        folder,
        f"ATTACH '{tmp_path / 'older.sqlite3'}' AS older",
        *(f"DELETE FROM {table}" for table in reversed(tables)),
        *(f"INSERT INTO {table} SELECT * FROM older.{table}" for table in tables),
    )

    with pytest.raises(StorageError, match="newest part of the gallery is missing"):
        open_gallery(folder)


def test_a_key_made_on_the_command_line_does_not_hide_that_the_gallery_is_an_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    older = (folder / "gallery.sqlite3").read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab", "Ann")
    (folder / "gallery.sqlite3").write_bytes(older)

    for _ in range(2):
        with pytest.raises(StorageError, match="newest part of the gallery is missing"):
            open_records(folder / "gallery.sqlite3")


def test_an_older_gallery_that_is_taken_as_it_is_brings_nobody_back(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    older = (folder / "gallery.sqlite3").read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab", "Ann")
    (folder / "gallery.sqlite3").write_bytes(older)

    assert accept(folder, keys_of(folder)) == 1

    with closing(open_gallery(folder)) as gallery:
        assert [each.name for each in gallery.subjects("lab", "", 5).subjects] == ["Bob"]
        assert gallery.audit.page(None, 1)[0]["event"] == "store.accept-loss"
        gallery.audit.verify()
    assert not (folder / "anchor").exists()


def test_an_older_gallery_whose_erasures_cannot_be_told_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    older = (folder / "gallery.sqlite3").read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab", "Ann")
    (folder / "gallery.sqlite3").write_bytes(older)
    (tmp_path / "data.keys" / "erasures.jsonl").write_text("damaged\n")

    with pytest.raises(StorageError, match="damaged"):
        accept(folder, keys_of(folder))
    with pytest.raises(StorageError):
        open_gallery(folder)


def test_a_failure_after_the_commit_leaves_search_and_records_in_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        anchor = gallery._store.trail._anchor

        def fails(_: object) -> None:
            raise StorageError("just now")

        with monkeypatch.context() as broken:
            broken.setattr(anchor, "set", fails)
            with pytest.raises(StorageError, match="just now"):
                gallery.put_collection("lab", SETTINGS, MODEL)
        gallery.put_collection("lab", SETTINGS, MODEL)
        gallery.enrol("lab", MODEL.contract_id, "Ann", [new_face(units(1, 1)[0])])

        assert gallery.search("lab", MODEL.contract_id, units(1, 1)[0], 1)[0][0].subject == "Ann"
