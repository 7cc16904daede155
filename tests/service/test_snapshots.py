"""Snapshots of the index: they spare the records from being read, and are never trusted beyond them."""

import contextlib
import json
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolment import MODEL, SETTINGS, near, new_faces, units
from galleries import keys_of, open_gallery
from live_server import live_server, wait_until
from photos import ROOT

from models.errors import FaceError
from models.registry import Registry
from service.domain import ModelInfo
from service.errors import StorageError
from service.gallery import snapshots
from service.gallery.backup import accept, back_up, restore
from service.gallery.embedded import EmbeddedGallery
from service.gallery.records import Records
from service.gallery.snapshots import FOLDER
from service.gallery.store import open_store

TORTURE = float(os.environ.get("TORTURE", "0"))
PEOPLE = 12

pytestmark = pytest.mark.timeout(0 if TORTURE else 120)


def _count(short: int, full: int) -> int:
    return max(1, round(full * TORTURE)) if TORTURE else short


@pytest.fixture(autouse=True)
def _small_galleries_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FROM_FACES", 1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many vectors were opened in the records, call by call, to build indexes."""
    counts: list[int] = []
    all_of, some_of = Records._faces_by_chunk, Records._vectors_at

    def faces_by_chunk(self: Records, collection: Any) -> Iterator[list[Any]]:
        for chunk in all_of(self, collection):
            counts.append(len(chunk))
            yield chunk

    def vectors_at(self: Records, collection: Any, numbers: Any) -> Any:
        counts.append(len(numbers))
        return some_of(self, collection, numbers)

    monkeypatch.setattr(Records, "_faces_by_chunk", faces_by_chunk)
    monkeypatch.setattr(Records, "_vectors_at", vectors_at)
    return counts


def _vector(number: int) -> np.ndarray:
    return units(1000 + number, 1)[0]


def _enrol(gallery: EmbeddedGallery, numbers: range, collection: str = "lab") -> None:
    gallery.put_collection(collection, SETTINGS, MODEL)
    for number in numbers:
        vectors = np.stack([_vector(number), near(_vector(number), number)])
        gallery.enrol(collection, MODEL.contract_id, f"person {number}", new_faces(vectors))


def _make(folder: Path, collection: str = "lab", count: int = PEOPLE) -> Path:
    """A gallery with a snapshot; the file of it."""
    with closing(open_gallery(folder)) as gallery:
        _enrol(gallery, range(count), collection)
        uid = gallery._records.uids(collection)[0]
    return folder / FOLDER / f"{uid}.snapshot"


def _found(gallery: EmbeddedGallery, numbers: range = range(PEOPLE), collection: str = "lab") -> list[str | None]:
    """Who each person is taken for."""
    found: list[str | None] = []
    for number in numbers:
        matches, _ = gallery.search(collection, MODEL.contract_id, _vector(number), 1)
        found.append(matches[0].subject if matches and matches[0].similarity > 0.999 else None)
    return found


def _names(numbers: range = range(PEOPLE)) -> list[str]:
    return [f"person {number}" for number in numbers]


# --- what they are good for


def test_a_start_takes_the_vectors_from_the_snapshot_and_finds_everybody(tmp_path: Path, opened: list[int]) -> None:
    _make(tmp_path / "data")

    with closing(open_gallery(tmp_path / "data")) as gallery:
        assert sum(opened) == 0
        assert _found(gallery) == _names()
        assert gallery.size("lab") == 2 * PEOPLE


def test_what_was_enrolled_after_the_snapshot_is_read_from_the_records(tmp_path: Path, opened: list[int]) -> None:
    file = _make(tmp_path / "data")
    kept = file.read_bytes()
    with closing(open_gallery(tmp_path / "data")) as gallery:
        _enrol(gallery, range(PEOPLE, PEOPLE + 3))
    file.write_bytes(kept)
    opened.clear()

    with closing(open_gallery(tmp_path / "data")) as gallery:
        assert sum(opened) == 2 * 3
        assert _found(gallery, range(PEOPLE + 3)) == _names(range(PEOPLE + 3))
        gallery.erase("lab", "person 1")
        assert _found(gallery, range(3)) == ["person 0", None, "person 2"]


def test_a_small_gallery_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    _make(tmp_path / "data")

    assert not (tmp_path / "data" / FOLDER).exists()


def test_one_is_written_anew_when_a_tenth_is_new_and_not_before(tmp_path: Path) -> None:
    file = _make(tmp_path / "data", count=50)
    before = file.read_bytes()
    with closing(open_gallery(tmp_path / "data")) as gallery:
        _enrol(gallery, range(50, 53))
        gallery.write_snapshots()
        assert file.read_bytes() == before
        _enrol(gallery, range(53, 60))
        gallery.write_snapshots()
        assert file.read_bytes() != before


def test_searches_and_enrolments_go_on_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        _enrol(gallery, range(PEOPLE))
        reached, go_on, tags_of = threading.Event(), threading.Event(), gallery._records.tags_of

        def held(rows: Any) -> Any:
            reached.set()
            assert go_on.wait(20)
            return tags_of(rows)

        monkeypatch.setattr(gallery._records, "tags_of", held)
        writing = threading.Thread(target=gallery.write_snapshots)
        writing.start()
        assert reached.wait(20)
        _enrol(gallery, range(PEOPLE, PEOPLE + 2))  # and with it a search: both would wait for ever
        assert _found(gallery, range(PEOPLE + 2)) == _names(range(PEOPLE + 2))
        go_on.set()
        writing.join()
        monkeypatch.setattr(snapshots, "FROM_FACES", 10**9)  # closing writes no other

    with closing(open_gallery(tmp_path / "data")) as gallery:
        assert _found(gallery, range(PEOPLE + 2)) == _names(range(PEOPLE + 2))


# --- erasure


def test_an_erased_face_is_in_no_snapshot_when_the_erasure_is_answered(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")
    with closing(open_gallery(tmp_path / "data")) as gallery:
        face_id = gallery.subject("lab", "person 2").faces[0].face_id
        for erase in (("lab", "person 1"), ("lab", "person 2", face_id)):
            gallery.write_snapshots()
            assert file.exists()
            gallery.erase(*erase)
            assert list((tmp_path / "data" / FOLDER).iterdir()) == []
        gallery.write_snapshots()
        row = gallery._records.uids("lab")[0]
        held = gallery._snapshots.read(row, MODEL)
        assert held is not None
        assert len(held.rows) == 2 * PEOPLE - 3
        assert not (held.vectors @ _vector(1) > 0.99).any()


def test_no_byte_of_the_snapshot_of_before_is_left_in_data_or_backup(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")
    before = file.read_bytes().partition(b"\n")[2]
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.erase("lab", "person 1")
        gallery.write_snapshots()
        back_up(tmp_path / "data", tmp_path / "backup.tar", lambda *_: None)
    assert file.exists()
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]

    pieces = [before[start : start + 16] for start in range(0, len(before) - 16, 16)]
    assert len(pieces) > 50
    assert [piece for piece in pieces for content in contents if piece in content] == []


def test_erasing_nobody_leaves_the_snapshot(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")
    with closing(open_gallery(tmp_path / "data")) as gallery:
        for names in (("lab", "nobody"), ("lab", "person 1", "f" * 32), ("nowhere",)):
            with pytest.raises(FaceError):
                gallery.erase(*names)
        assert file.exists()


def test_an_erased_collection_leaves_no_snapshot_and_others_keep_theirs(tmp_path: Path) -> None:
    lab, gate = _make(tmp_path / "data"), _make(tmp_path / "data", "gate")
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.erase("lab")
        assert (lab.exists(), gate.exists()) == (False, True)


def test_the_retention_sweep_removes_snapshots_too(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery._records.put_collection("lab", type(SETTINGS)("p", retention_days=1), MODEL)
        gallery.erase_expired(gallery._sweep_clock.now().replace(year=2100))  # type: ignore[union-attr]
        assert not file.exists()


def test_an_erasure_ends_the_writing_of_a_snapshot_and_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        _enrol(gallery, range(PEOPLE))
        reached, tags_of = threading.Event(), gallery._records.tags_of

        def held(rows: Any) -> Any:
            reached.set()
            wait_until(lambda: gallery._snapshots._erasing)
            return tags_of(rows)

        with monkeypatch.context() as slow:
            slow.setattr(gallery._records, "tags_of", held)
            writing = threading.Thread(target=gallery.write_snapshots)
            writing.start()
            assert reached.wait(20)
            gallery.erase("lab", "person 1")
            assert list((tmp_path / "data" / FOLDER).iterdir()) == []
            writing.join()


def test_where_a_snapshot_cannot_be_removed_nothing_is_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(tmp_path / "data")
    with closing(open_gallery(tmp_path / "data")) as gallery:

        def refused(path: Path) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr(snapshots, "overwrite", refused)
            with pytest.raises(StorageError, match="cannot remove"):
                gallery.erase("lab", "person 1")
        assert _found(gallery) == _names()


def test_what_a_killed_program_was_writing_is_removed_at_the_next_start(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")
    left = file.with_name(file.name + ".tmp")
    file.rename(left)

    with closing(open_gallery(tmp_path / "data")) as gallery:
        assert not left.exists()
        assert _found(gallery) == _names()


def test_a_backup_holds_no_snapshot_and_a_restored_gallery_uses_none_of_before(
    tmp_path: Path, opened: list[int]
) -> None:
    file = _make(tmp_path / "data")
    back_up(tmp_path / "data", tmp_path / "backup.tar", lambda *_: None)
    assert b".snapshot" not in (tmp_path / "backup.tar").read_bytes()
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.erase("lab", "person 3")
    assert file.exists()  # written when the gallery was closed

    restore(tmp_path / "backup.tar", tmp_path / "data", keys_of(tmp_path / "data"), True, lambda *_: None)

    assert list((tmp_path / "data" / FOLDER).iterdir()) == []
    opened.clear()
    with closing(open_gallery(tmp_path / "data")) as gallery:
        assert sum(opened) == 2 * (PEOPLE - 1)
        assert _found(gallery, range(2, 5)) == ["person 2", None, "person 4"]


def test_a_gallery_that_is_taken_with_its_losses_begins_without_snapshots(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")

    accept(tmp_path / "data", keys_of(tmp_path / "data"))

    assert not file.exists()


# --- trust


def _of_an_older_gallery(folder: Path, file: Path) -> None:
    """One of before an erasure."""
    kept = file.read_bytes()
    with closing(open_gallery(folder)) as gallery:
        gallery.erase("lab", "person 1")
        gallery.enrol("lab", MODEL.contract_id, "person 1", new_faces(_vector(1)[None]))
    file.write_bytes(kept)


def _of_another_collection(folder: Path, file: Path) -> None:
    other = _make(folder, "gate")
    file.write_bytes(other.read_bytes())


def _with_another_contract(folder: Path, file: Path) -> None:
    line, _, rest = file.read_bytes().partition(b"\n")
    file.write_bytes(line.replace(MODEL.contract_id.encode(), b"f" * 16) + b"\n" + rest)


def _of_a_later_format(folder: Path, file: Path) -> None:
    line, _, rest = file.read_bytes().partition(b"\n")
    file.write_bytes(line.replace(b'"format":1', b'"format":2') + b"\n" + rest)


def _cut_off(folder: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def _empty(folder: Path, file: Path) -> None:
    file.write_bytes(b"")


def _longer(folder: Path, file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")


def _nonsense(folder: Path, file: Path) -> None:
    file.write_bytes(b'{"format":1}\n')


def _deeply_nested(folder: Path, file: Path) -> None:
    file.write_bytes(b"[" * 100_000 + b"\n")


@pytest.mark.parametrize(
    "damage",
    [
        _of_an_older_gallery,
        _of_another_collection,
        _with_another_contract,
        _of_a_later_format,
        _cut_off,
        _empty,
        _longer,
        _nonsense,
        _deeply_nested,
    ],
)
def test_one_that_does_not_agree_is_thrown_away_with_one_line_and_everybody_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, opened: list[int], damage: Any
) -> None:
    folder = tmp_path / "data"
    file = _make(folder)
    damage(folder, file)
    opened.clear()
    with caplog.at_level(logging.WARNING), closing(open_gallery(folder)) as gallery:
        said = [record.getMessage() for record in caplog.records]
        assert [file.stem in line and "is not used" in line and "\n" not in line for line in said] == [True]
        assert not file.exists()
        assert sum(opened) >= 2 * PEOPLE - 1
        assert _found(gallery) == _names()


def test_blocks_cannot_be_exchanged_within_a_file_or_with_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.gallery.index._BLOCK_BYTES", 1)  # blocks of 64
    file = _make(tmp_path / "data", count=64)
    first = file.read_bytes()
    file.unlink()
    with closing(open_gallery(tmp_path / "data")):
        pass
    second = file.read_bytes()
    (line, _, blocks), other = first.partition(b"\n"), second.partition(b"\n")[2]
    assert json.loads(line)["counts"] == [64, 64]
    size = len(blocks) // 2

    for mixed in (blocks[size:] + blocks[:size], blocks[:size] * 2, blocks[:size] + other[size:]):
        caplog.clear()
        file.write_bytes(line + b"\n" + mixed)
        with closing(open_gallery(tmp_path / "data")) as gallery:
            assert "is not what was written" in caplog.text
            assert _found(gallery, range(64)) == _names(range(64))


def test_a_snapshot_of_a_collection_that_is_gone_is_removed(tmp_path: Path) -> None:
    file = _make(tmp_path / "data")
    stranger = file.with_name("0" * 32 + ".snapshot")
    shutil.copy(file, stranger)

    open_gallery(tmp_path / "data").close()

    assert (file.exists(), stranger.exists()) == (True, False)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM faces WHERE id = 3",
        "DELETE FROM subjects WHERE id = 3",
        "UPDATE faces SET mac = zeroblob(16) WHERE id = 3",
        "UPDATE faces SET mac = zeroblob(3) WHERE id = 3",
        "UPDATE subjects SET mac = zeroblob(16) WHERE id = 3",
        "UPDATE faces SET mac = (SELECT mac FROM faces WHERE id = 4) WHERE id = 3",
    ],
)
def test_records_that_lost_a_row_or_a_tag_are_refused_beside_a_snapshot_too(tmp_path: Path, change: str) -> None:
    _make(tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3", isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(change)

    with pytest.raises(StorageError):
        open_gallery(tmp_path / "data")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE faces SET subject = 2 WHERE subject = 3",
        "UPDATE faces SET face_id = 'x' || substr(face_id, 2) WHERE subject = 3",
        "UPDATE subjects SET name = 'somebody' WHERE id = 3",
        "UPDATE subjects SET uid = 'x' || substr(uid, 2) WHERE id = 3",
    ],
)
def test_a_row_that_was_changed_beside_a_snapshot_is_noticed_and_never_answered_with(
    tmp_path: Path, change: str
) -> None:
    _make(tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3", isolation_level=None)) as db:
        db.execute(change)

    with closing(open_gallery(tmp_path / "data")) as gallery:
        with pytest.raises(StorageError, match="is not what was stored"):
            gallery.search("lab", MODEL.contract_id, _vector(2), 1)
        assert _found(gallery, range(5, 8)) == _names(range(5, 8))


def test_faces_that_changed_places_in_the_records_are_refused_beside_a_snapshot(tmp_path: Path) -> None:
    _make(tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "gallery.sqlite3", isolation_level=None)) as db:
        for old, new in ((3, 9999), (5, 3), (9999, 5)):
            db.execute("UPDATE faces SET id = ? WHERE id = ?", (new, old))

    with pytest.raises(StorageError):
        open_gallery(tmp_path / "data")


# --- disks


def test_a_disk_that_takes_no_snapshot_is_told_of_once_and_everything_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        _enrol(gallery, range(PEOPLE))
        (tmp_path / "data" / FOLDER).write_text("in the way")  # root may write everywhere, so no rights are taken away
        for _ in range(3):
            gallery.write_snapshots()
        assert len(caplog.records) == 1
        assert "cannot be written" in caplog.text
        (tmp_path / "data" / FOLDER).unlink()
        gallery.write_snapshots()
        assert len(list((tmp_path / "data" / FOLDER).iterdir())) == 1
        assert _found(gallery) == _names()


CHANGE_FOREVER = """
from pathlib import Path
import numpy as np
from enrolment import MODEL, SETTINGS, new_faces, units
from galleries import open_gallery
from service.gallery import snapshots

snapshots.FROM_FACES, snapshots.SHARE = 1, 0
gallery = open_gallery(Path(sys.argv[1]))
gallery.put_collection("lab", SETTINGS, MODEL)
turn = int(sys.argv[2])
print("open", flush=True)
for number in range(10**6):
    mine = 1000 * turn + number
    gallery.enrol("lab", MODEL.contract_id, f"person {mine}", new_faces(units(1000 + mine, 1)))
    print(f"enrolled {mine}", flush=True)
    if number % 2:
        gallery.write_snapshots()
    if number % 3 == 2:
        print(f"erasing {mine - 1}", flush=True)
        gallery.erase("lab", f"person {mine - 1}")
        print(f"erased {mine - 1}", flush=True)
"""


def test_a_program_that_is_killed_while_it_writes_them_loses_nobody_and_brings_nobody_back(tmp_path: Path) -> None:
    kills, chance = _count(4, 200), random.Random(3)
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'support')!r}]\n"
    enrolled: set[str] = set()
    unsure: set[str] = set()
    erased: set[str] = set()
    used = 0
    for turn in range(kills):
        command = [sys.executable, "-c", path + CHANGE_FOREVER, str(tmp_path / "data"), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(chance.randint(2, 60))]
            child.kill()
            lines += child.stdout.readlines()
        for what, _, number in (line.rstrip("\n").partition(" ") for line in lines if line.endswith("\n")):
            if what == "enrolled":
                enrolled.add(f"person {number}")
            elif what == "erasing":
                unsure.add(f"person {number}")
            elif what == "erased":
                erased.add(f"person {number}")
        used += any((tmp_path / "data" / FOLDER).glob("*.snapshot"))
        with closing(open_gallery(tmp_path / "data")) as gallery:
            there = {each.name for each in gallery.subjects("lab", "", 10**6).subjects}
            assert enrolled - unsure <= there
            assert not erased & there
            assert gallery.size("lab") == len(there)
            numbers = sorted(int(name.removeprefix("person ")) for name in there)
            for number in chance.sample(numbers, min(20, len(numbers))):
                assert _found(gallery, range(number, number + 1)) == [f"person {number}"]
            for gone in (int(name.removeprefix("person ")) for name in sorted(erased)[:10]):
                assert _found(gallery, range(gone, gone + 1)) == [None]
    print(f"{kills} kills, {used} with a snapshot; {len(enrolled)} enrolled, {len(erased)} erased")
    assert used > 0
    assert enrolled


@pytest.mark.parametrize("how", ["truncation", "bit flip"])
def test_a_damaged_snapshot_never_changes_an_answer(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    folder, rng = tmp_path / "data", random.Random(how)
    file = _make(folder)
    _make(folder, "gate")
    content, count = file.read_bytes(), _count(25, 2000)

    for _ in range(count):
        place = rng.randrange(len(content))
        changed = bytes([content[place] ^ (1 << rng.randrange(8))])
        file.write_bytes(content[:place] + (b"" if how == "truncation" else changed + content[place + 1 :]))
        caplog.clear()
        with closing(open_gallery(folder)) as gallery:
            assert caplog.text.count("is not used") == 1, place
            assert _found(gallery) == _names()
    print(f"{how}: {count} of a snapshot, every one noticed")


def test_a_server_writes_one_beside_its_work_uses_it_after_a_kill_and_removes_it_for_an_erasure(
    tmp_path: Path, models_dir: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the server's own threshold
    folder, count = tmp_path / "data", snapshots.FROM_FACES + 10
    folder.mkdir()
    vectors = units(1, count, 128)
    model = ModelInfo("any", registry.resolve("embedder").manifest.contract_id, 128)
    with closing(open_store(folder, keys_of(folder))) as store, store.trail.change():
        now = store.database.now()
        store.records.adopt_collection("lab", SETTINGS, model, now)
        for number, face in enumerate(new_faces(vectors)):
            store.records.adopt_subject("lab", f"person {number}", now, [(f"{number:032x}", now, face)])

    with live_server(folder, models_dir=str(models_dir)) as server:
        wait_until(lambda: list((folder / FOLDER).glob("*.snapshot")))
        server.process.kill()
        server.process.wait()
    with live_server(folder, models_dir=str(models_dir)) as server:
        for number in (0, count // 2, count - 1):
            body = {"embedding": vectors[number].tolist(), "threshold": 0.9}
            found = server.client.post("/collections/lab/identify", json=body).json()
            assert (found["candidates"][0]["subject"], found["gallery_size"]) == (f"person {number}", count)
        assert "is not used" not in "".join(server.log)
        assert server.client.delete("/collections/lab/subjects/person 7").status_code == 200
        assert list((folder / FOLDER).iterdir()) == []
    assert len(list((folder / FOLDER).iterdir())) == 1  # written when it was told to stop


def test_other_models_of_other_sizes_lie_side_by_side(tmp_path: Path, opened: list[int]) -> None:
    wide = ModelInfo("wide", "fedcba9876543210", 48)
    with closing(open_gallery(tmp_path / "data")) as gallery:
        _enrol(gallery, range(PEOPLE))
        gallery.put_collection("wide", SETTINGS, wide)
        gallery.enrol("wide", wide.contract_id, "Ann", new_faces(units(1, 3, 48)))

    with closing(open_gallery(tmp_path / "data")) as gallery:
        assert sum(opened) == 0
        assert _found(gallery) == _names()
        assert gallery.search("wide", wide.contract_id, units(1, 3, 48)[2], 1)[0][0].subject == "Ann"


def test_nothing_of_a_vector_can_be_read_in_a_snapshot(tmp_path: Path) -> None:
    content = _make(tmp_path / "data").read_bytes()

    with contextlib.suppress(ValueError):
        content.index(_vector(0).tobytes()[:12])
        pytest.fail("a vector lies in the file as it is")
    assert (tmp_path / "data" / FOLDER).stat().st_mode & 0o777 == 0o700
