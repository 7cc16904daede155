"""The audit log: what is in it, what is not, and that no change to it goes unnoticed."""

import contextlib
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from enrolment import MODEL, SETTINGS, new_face, units
from galleries import keys_of, open_gallery

from service.errors import NotFoundError, StorageError
from service.gallery.audit import BrokenChainError
from service.gallery.store import Store, open_store


def _store(folder: Path) -> Store:
    return open_store(folder, keys_of(folder), newest=False)  # as `facesphere audit verify` does


def _fill(folder: Path, notes: int = 30) -> None:
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL, "anna")
        for number in range(3):
            gallery.enrol("lab", MODEL.contract_id, f"person {number}", [new_face(units(number, 1)[0])], "bert")
        for number in range(notes):
            gallery.note("cora", "identify", "lab", "person 1", candidates=[], threshold=number / 100)
        gallery.erase("lab", "person 2", actor="dora")


def test_every_change_and_decision_stands_in_the_log_with_who_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder, notes=1)

    with closing(_store(folder)) as store:
        entries = store.audit.page(None, 100)

    assert [(entry["actor"], entry["event"]) for entry in reversed(entries)] == [
        ("system", "store.create"),
        ("anna", "collection.create"),
        *[("bert", "enrol")] * 3,
        ("cora", "identify"),
        ("dora", "erase.subject"),
    ]
    assert [entry["seq"] for entry in entries] == list(range(7, 0, -1))
    decision = entries[1]["detail"]
    assert decision["collection"]["name"] == "lab"
    assert decision["subject"]["name"] == "person 1"
    assert decision["threshold"] == 0


def test_an_erased_person_has_no_name_in_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)

    with closing(_store(folder)) as store:
        last = store.audit.page(None, 1)[0]

    assert last["event"] == "erase.subject"
    assert last["detail"]["subject"]["name"] is None
    assert last["detail"]["subject"]["uid"]
    assert b"person 2" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_pages_go_back_to_the_first_entry_through_the_archive(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(_store(folder)) as store:
        whole = store.audit.page(None, 1000)
        assert store.audit.seal(keep=20) is not None
        assert store.audit.seal(keep=5) is not None
        assert store.audit.seal(keep=5) is None

        pages, before = [], None
        while page := store.audit.page(before, 7):
            pages += page
            before = page[-1]["seq"]

        assert pages == whole
        assert store.audit.verify().first == 1


def test_a_log_whose_archive_is_kept_elsewhere_is_checked_from_there_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(_store(folder)) as store:
        path = store.audit.seal(keep=5)
        assert path is not None
        path.rename(tmp_path / path.name)

        proof = store.audit.verify()

    assert (proof.first, proof.last) == (31, 36)


def test_a_change_that_could_not_be_made_leaves_no_entry(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(open_gallery(folder)) as gallery:
        before = gallery.audit.page(None, 1)
        with pytest.raises(NotFoundError):
            gallery.erase("lab", "nobody")
        assert gallery.audit.page(None, 1) == before


def _edit_records(folder: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        (seq,) = rng.choice(db.execute("SELECT seq FROM audit").fetchall())
        (last,) = db.execute("SELECT max(seq) FROM audit").fetchone()
        column = rng.choice(["at", "actor", "event", "detail", "mac", "seq", "delete", "swap", "copy", "cut"])
        if column == "delete":
            db.execute("DELETE FROM audit WHERE seq = ?", (seq,))
        elif column == "cut":
            db.execute("DELETE FROM audit WHERE seq >= ?", (seq,))
        elif column == "seq":
            db.execute("UPDATE audit SET seq = ? WHERE seq = ?", (last + rng.randint(1, 9), seq))
        elif column == "swap":
            other = seq - 1 if seq > 1 else seq + 1
            for a, b in ((seq, -1), (other, seq), (-1, other)):
                db.execute("UPDATE audit SET seq = ? WHERE seq = ?", (b, a))
        elif column == "copy":
            db.execute(
                "INSERT INTO audit SELECT ?, at, actor, event, detail, mac FROM audit WHERE seq = ?", (last + 1, seq)
            )
        elif column == "mac":
            (mac,) = db.execute("SELECT mac FROM audit WHERE seq = ?", (seq,)).fetchone()
            place = rng.randrange(len(mac))
            changed = mac[:place] + bytes([mac[place] ^ (1 << rng.randrange(8))]) + mac[place + 1 :]
            db.execute("UPDATE audit SET mac = ? WHERE seq = ?", (changed, seq))
        else:
            (text,) = db.execute(f"SELECT {column} FROM audit WHERE seq = ?", (seq,)).fetchone()
            place = rng.randrange(len(text))
            changed = text[:place] + chr(ord(text[place]) ^ (1 << rng.randrange(4))) + text[place + 1 :]
            db.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (changed, seq))


def _edit_archive(folder: Path, rng: random.Random) -> None:
    path = rng.choice(sorted((folder / "audit").glob("*.jsonl")))
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    how = rng.choice(["bit", "cut", "line", "swap"])
    if how == "bit":
        place = rng.randrange(len(content))
        content = content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    elif how == "cut":
        content = content[: rng.randrange(len(content))]
    elif how == "line":
        del lines[rng.randrange(len(lines))]
        content = b"".join(line + b"\n" for line in lines)
    else:
        first = rng.randrange(len(lines) - 1)
        lines[first], lines[first + 1] = lines[first + 1], lines[first]
        content = b"".join(line + b"\n" for line in lines)
    path.write_bytes(content)


@pytest.mark.parametrize("edits", [60, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_every_edit_of_the_log_is_found(tmp_path: Path, edits: int) -> None:
    folder, rng = tmp_path / "data", random.Random(7)
    _fill(folder)
    with closing(_store(folder)) as store:
        store.audit.seal(keep=12)
        assert (store.audit.verify().first, store.audit.verify().last) == (1, 36)
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    missed = []
    for number in range(edits):
        for path in folder.rglob("*-*"):
            path.unlink()  # side files of the last round
        for path, content in kept.items():
            path.write_bytes(content)
        edit = rng.choice([_edit_records, _edit_archive])
        edit(folder, rng)
        with contextlib.suppress(StorageError), closing(_store(folder)) as store:
            store.audit.verify()
            missed.append((number, edit.__name__))

    assert missed == []


def test_the_first_broken_entry_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        db.execute("UPDATE audit SET detail = ? WHERE seq = 9", (json.dumps({"threshold": 0.9}),))
        db.execute("UPDATE audit SET actor = 'eve' WHERE seq = 20")

    with closing(_store(folder)) as store, pytest.raises(BrokenChainError, match="entry 9"):
        store.audit.verify()


def test_a_disk_that_takes_nothing_stops_no_decision_and_loses_none(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with closing(open_gallery(folder)) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        database = gallery._database._db
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(200):
            gallery.note("cora", "verify", number=number, text="x" * 200)
        written = len(gallery.audit.page(None, 1000))
        assert written < 100

        database.execute("PRAGMA max_page_count = 1073741823")
        gallery.note("cora", "verify", number=200)

        entries = gallery.audit.page(None, 1000)
        numbers = [entry["detail"]["number"] for entry in reversed(entries) if entry["event"] == "verify"]
        assert numbers == list(range(201))
        gallery.audit.verify()


def test_entries_that_were_taken_from_the_front_are_missed_and_the_first_that_is_left_is_checked(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        db.execute("DELETE FROM audit WHERE seq < 4")
        db.execute("UPDATE audit SET actor = 'innocent' WHERE seq = 4")
    with closing(_store(folder)) as store, pytest.raises(BrokenChainError, match="entry 1"):
        store.audit.verify()


def test_what_is_sealed_is_checked_where_its_archive_is_kept_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(_store(folder)) as store:
        path = store.audit.seal(keep=5)
        assert path is not None
        path.rename(tmp_path / path.name)
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        db.execute("DELETE FROM audit WHERE seq < 34")

    with closing(_store(folder)) as store, pytest.raises(BrokenChainError, match="entry 31"):
        store.audit.verify()


@pytest.mark.parametrize("detail", ['{"threshold":0,"threshold":0.9}', "[]", "nonsense", "7"])
def test_another_way_to_write_a_detail_is_another_detail(tmp_path: Path, detail: str) -> None:
    folder = tmp_path / "data"
    _fill(folder)
    with closing(sqlite3.connect(folder / "gallery.sqlite3")) as db, db:
        db.execute("UPDATE audit SET detail = ? WHERE seq = 9", (detail,))

    with closing(_store(folder)) as store, pytest.raises(BrokenChainError, match="entry 9"):
        store.audit.verify()


def test_what_waits_for_the_disk_is_written_before_the_gallery_is_closed(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        database = gallery._database._db
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(100):
            gallery.note("cora", "verify", number=number, text="x" * 500)
        database.execute("PRAGMA max_page_count = 1073741823")

    with closing(_store(tmp_path / "data")) as store:
        assert store.audit.page(None, 1)[0]["detail"]["number"] == 99
