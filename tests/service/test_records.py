"""The records on disk: what is kept, what is refused, and what a full or foreign file does."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from enrolment import DIMENSION, MODEL, SETTINGS, new_face, new_faces, units
from galleries import open_records
from photos import ROOT

from service.domain import CollectionSettings, ModelInfo
from service.errors import NotFoundError, StorageError, StorageFullError
from service.gallery.records import Records
from service.gallery.schema import SCHEMA_VERSION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gallery.sqlite3"


@pytest.fixture
def records(path: Path) -> Iterator[Records]:
    """Records with an empty collection `lab`."""
    with closing(open_records(path)) as records:
        records.put_collection("lab", SETTINGS, MODEL)
        yield records


def _sql(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement, values)


def test_everything_is_there_again_after_reopening(path: Path) -> None:
    vectors = units(1, 3)
    settings = CollectionSettings("door", retention_days=30, store_crops=True, target_fmr=1e-4)
    with closing(open_records(path)) as before:
        before.put_collection("lab", settings, MODEL)
        before.put_collection("empty", SETTINGS, MODEL)
        first = before.add_faces("lab", "Zoë Ångström", [new_face(vectors[0], 0.25, "form 17", b"png bytes")])
        second = before.add_faces("lab", "Zoë Ångström", [new_face(vectors[1], None)])
        before.add_faces("lab", "Bob", new_faces(vectors[2:]))
        collections, subject = before.collections(), before.subject("lab", "Zoë Ångström")

    with closing(open_records(path)) as after:
        assert after.collections() == collections
        lab = after.collection("lab")
        assert (lab.settings, lab.model, lab.subjects, lab.faces) == (settings, MODEL, 2, 3)
        assert after.subject("lab", "Zoë Ångström") == subject
        assert list(subject.faces) == [first[0][1], second[0][1]]
        assert (subject.faces[0].quality, subject.faces[0].consent, subject.faces[0].has_crop) == (
            0.25,
            "form 17",
            True,
        )
        assert (subject.faces[1].quality, subject.faces[1].consent, subject.faces[1].has_crop) == (None, None, False)
        found = dict(after.vectors_of("lab", "Zoë Ångström"))
        np.testing.assert_array_equal(found[first[0][1].face_id], vectors[0])
        by_collection = {name: (rows, matrix) for name, rows, matrix in after.vectors()}
        np.testing.assert_array_equal(by_collection["lab"][1], vectors)
        assert by_collection["empty"][0] == []
        assert by_collection["empty"][1].shape == (0, DIMENSION)


def test_the_same_name_in_two_collections_is_two_people(records: Records) -> None:
    records.put_collection("gate", SETTINGS, MODEL)
    vectors = units(2, 2)
    records.add_faces("lab", "Ann", new_faces(vectors[:1]))
    records.add_faces("gate", "Ann", new_faces(vectors[1:]))

    records.erase("lab", "Ann")

    assert len(records.subject("gate", "Ann").faces) == 1
    with pytest.raises(NotFoundError):
        records.subject("lab", "Ann")


def test_settings_and_model_of_a_collection_are_found_without_counting_its_people(records: Records) -> None:
    settings = CollectionSettings("door", 30, store_crops=True, target_fmr=1e-4)
    records.put_collection("gate", settings, MODEL)
    asked: list[str] = []
    for connection in (records.database._db, records.database._reader):
        connection.set_trace_callback(asked.append)

    assert records.collection_info("gate") == (settings, MODEL)
    assert records.model_of("gate") == MODEL
    records.add_faces("gate", "Ann", new_faces(units(3, 1)))
    records.subject("gate", "Ann")
    records.vectors_of("gate", "Ann")
    records.erase("gate", "Ann")
    records.erase("gate")

    assert asked
    assert not any("count(" in statement for statement in asked)
    for call in (records.collection_info, records.model_of):
        with pytest.raises(NotFoundError, match="nowhere"):
            call("nowhere")


def test_putting_a_collection_again_changes_its_settings_and_never_its_model(records: Records) -> None:
    records.add_faces("lab", "Ann", new_faces(units(3, 1)))
    other = ModelInfo("other", "f" * 16, 99)

    assert records.put_collection("lab", CollectionSettings("new purpose", 7), other) is False

    lab = records.collection("lab")
    assert lab.settings == CollectionSettings("new purpose", 7)
    assert lab.model == MODEL
    assert lab.faces == 1


def test_what_is_not_there_is_named_in_the_error(records: Records) -> None:
    records.add_faces("lab", "Ann", new_faces(units(4, 1)))

    for call in (
        lambda: records.collection("nowhere"),
        lambda: records.add_faces("nowhere", "Ann", new_faces(units(4, 1))),
        lambda: records.subject("nowhere", "Ann"),
        lambda: records.subjects("nowhere", "", 10),
        lambda: records.vectors_of("nowhere", "Ann"),
        lambda: records.erase("nowhere"),
        lambda: records.erase("nowhere", "Ann"),
    ):
        with pytest.raises(NotFoundError, match="nowhere"):
            call()
    for call in (
        lambda: records.subject("lab", "Nobody"),
        lambda: records.vectors_of("lab", "Nobody"),
        lambda: records.erase("lab", "Nobody"),
        lambda: records.erase("lab", "Nobody", "some face"),
    ):
        with pytest.raises(NotFoundError, match="Nobody"):
            call()
    with pytest.raises(NotFoundError, match="some face"):
        records.erase("lab", "Ann", "some face")
    assert records.collection("lab").faces == 1


def test_a_face_is_erased_only_through_the_person_it_belongs_to(records: Records) -> None:
    ((_, face),) = records.add_faces("lab", "Ann", new_faces(units(5, 1)))
    records.add_faces("lab", "Bob", new_faces(units(6, 1)))

    with pytest.raises(NotFoundError):
        records.erase("lab", "Bob", face.face_id)

    assert len(records.subject("lab", "Ann").faces) == 1


def test_a_person_whose_last_face_is_erased_stays_without_faces(records: Records) -> None:
    ((_, face),) = records.add_faces("lab", "Ann", new_faces(units(7, 1)))

    records.erase("lab", "Ann", face.face_id)

    assert records.subject("lab", "Ann").faces == []
    assert [(each.name, each.faces) for each in records.subjects("lab", "", 10).subjects] == [("Ann", 0)]


def test_pages_by_name_show_everybody_once(records: Records) -> None:
    names = sorted(f"{word} {number}" for word in ("ann", "Bob", "Ärzte", "日本") for number in range(7))
    for name in reversed(names):
        records.add_faces("lab", name, new_faces(units(8, 2)))

    for limit in (1, 3, 28, 29):
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = records.subjects("lab", after, limit)
            assert 1 <= len(page.subjects) <= limit
            assert all(each.faces == 2 for each in page.subjects)
            seen += [each.name for each in page.subjects]
            after = page.next_cursor
        assert seen == names


def test_a_page_goes_on_behind_a_name_that_was_erased_meanwhile(records: Records) -> None:
    for name in "abcd":
        records.add_faces("lab", name, new_faces(units(9, 1)))
    cursor = records.subjects("lab", "", 2).next_cursor
    assert cursor == "b"
    records.erase("lab", "b")

    page = records.subjects("lab", cursor, 2)

    assert [each.name for each in page.subjects] == ["c", "d"]
    assert page.next_cursor is None


def test_names_are_found_for_more_rows_than_sqlite_takes_parameters(records: Records) -> None:
    vector = units(10, 1)[0]
    stored = records.add_faces("lab", "Ann", [new_face(vector)] * 41_000)
    rows = [row for row, _ in stored]

    names = records.names_of([*rows, rows[-1] + 1])

    assert {row: each[:2] for row, each in names.items()} == {row: ("Ann", face.face_id) for row, face in stored}


def test_a_row_number_is_never_used_twice(path: Path) -> None:
    seen: set[int] = set()
    for turn in range(4):
        with closing(open_records(path)) as records:
            records.put_collection("lab", SETTINGS, MODEL)
            rows = [row for row, _ in records.add_faces("lab", "Ann", new_faces(units(turn, 3)))]
            assert not seen & set(rows)
            seen.update(rows)
            if turn % 2:
                records.erase("lab", "Ann")
            else:
                records.erase("lab")


def test_expired_faces_are_those_of_collections_with_a_retention_that_is_over(path: Path) -> None:
    with closing(open_records(path)) as records:
        for name, days in (("ten", 10), ("thirty", 30), ("ever", None)):
            records.put_collection(name, CollectionSettings("p", days), MODEL)
            records.add_faces(name, "Ann", new_faces(units(11, 3)))
        faces = [face.face_id for face in records.subject("ten", "Ann").faces]
    # A time far from now, so that nothing depends on when the test runs; the third face is a day younger.
    _sql(path, "UPDATE faces SET created_at = '2020-02-20T12:00:00.000+00:00'")
    _sql(path, "UPDATE faces SET created_at = '2020-02-21T12:00:00.000+00:00' WHERE face_id = ?", faces[2])
    created = datetime(2020, 2, 20, 12, tzinfo=UTC)

    with closing(open_records(path)) as records:

        def expired(after: timedelta) -> list[tuple[str, str]]:
            return sorted((collection, face) for collection, _, face in records.expired(created + after))

        second, ten, thirty = timedelta(seconds=1), timedelta(days=10), timedelta(days=30)
        assert expired(ten - second) == []
        assert expired(ten + second) == sorted(("ten", face) for face in faces[:2])
        assert expired(ten + timedelta(days=1) + second) == sorted(("ten", face) for face in faces)
        assert {collection for collection, _ in expired(thirty + second)} == {"ten", "thirty"}
        assert len(expired(timedelta(days=10_000))) == 6


def test_expired_faces_are_erased_oldest_first_and_in_portions_with_the_people_who_have_no_other(
    path: Path, records: Records
) -> None:
    records.put_collection("lab", CollectionSettings("p", 1), MODEL)
    (one, two), (three,) = (
        [row for row, _ in records.add_faces("lab", name, new_faces(units(31, count)))]
        for name, count in (("Ann", 2), ("Bob", 1))
    )
    _sql(path, "UPDATE faces SET created_at = '2020-02-20T12:00:00.000+00:00'")
    _sql(path, "UPDATE faces SET created_at = '2020-02-10T12:00:00.000+00:00' WHERE id = ?", three)
    _sql(path, "UPDATE faces SET created_at = '2020-02-15T12:00:00.000+00:00' WHERE id = ?", two)
    later = datetime(2020, 3, 1, tzinfo=UTC)

    assert dict(records.erase_expired(later, 2)) == {"lab": [three, two]}
    assert [(each.name, each.faces) for each in records.subjects("lab", "", 5).subjects] == [("Ann", 1)]
    assert dict(records.erase_expired(later, 2)) == {"lab": [one]}
    assert records.subjects("lab", "", 5).subjects == []
    assert dict(records.erase_expired(later, 2)) == {}


def test_erased_bytes_are_remembered_until_they_are_overwritten_even_by_the_next_program(path: Path) -> None:
    marker = path.with_suffix(".overwrite-pending")
    with closing(open_records(path)) as first:
        first.put_collection("lab", SETTINGS, MODEL)
        first.add_faces("lab", "Ann", new_faces(units(32, 1)))
        assert not first.database.overwrite_pending
        with pytest.raises(NotFoundError):
            first.erase("lab", "Bob")
        assert not marker.exists()

        first.erase("lab", "Ann")

        assert first.database.overwrite_pending
        assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    with closing(open_records(path)) as second:
        assert second.database.overwrite_pending
        second.database.overwrite_erased()
        assert not second.database.overwrite_pending
    assert not marker.exists()


def test_where_bytes_could_not_be_remembered_nothing_is_erased(path: Path, records: Records) -> None:
    records.add_faces("lab", "Ann", new_faces(units(33, 1)))
    records.database._marker = path.parent / "no such folder" / "marker"

    with pytest.raises(StorageError, match="cannot be written"):
        records.erase("lab", "Ann")

    assert len(records.subject("lab", "Ann").faces) == 1
    assert not records.database.overwrite_pending


def test_the_time_zone_of_now_does_not_matter(path: Path, records: Records) -> None:
    records.put_collection("lab", CollectionSettings("p", 1), MODEL)
    records.add_faces("lab", "Ann", new_faces(units(12, 1)))
    _sql(path, "UPDATE faces SET created_at = '2020-02-20T12:00:00.000+00:00'")

    assert records.expired(datetime.fromisoformat("2020-02-21T13:59:00+02:00")) == []
    assert len(records.expired(datetime.fromisoformat("2020-02-21T14:01:00+02:00"))) == 1


def test_gallery_files_are_for_their_owner_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    previous = os.umask(0o022)
    try:
        with closing(open_records(tmp_path / "gallery.sqlite3")) as records:
            records.put_collection("lab", SETTINGS, MODEL)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(previous)

    assert {"gallery.sqlite3", "gallery.sqlite3-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}


def test_a_gallery_that_others_could_read_is_closed_to_them(path: Path) -> None:
    open_records(path).close()
    path.chmod(0o644)

    open_records(path).close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 100, b"\x00" * 5000])
def test_a_file_that_is_not_sqlite_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(StorageError) as refused:
        open_records(path)

    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    assert path.read_bytes() == content


def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()

    with pytest.raises(StorageError):
        open_records(path)


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    open_records(path).close()
    _sql(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()

    with pytest.raises(StorageError, match=f"version {SCHEMA_VERSION + 1}.*knows {SCHEMA_VERSION}"):
        open_records(path)

    assert path.read_bytes() == before


def test_a_damaged_file_is_an_error_and_not_a_wrong_answer(path: Path) -> None:
    with closing(open_records(path)) as records:
        records.put_collection("lab", SETTINGS, MODEL)
        records.add_faces("lab", "Ann", new_faces(units(13, 200)))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    with pytest.raises(StorageError), closing(open_records(path)) as records:
        list(records.vectors())


def test_after_closing_every_call_is_a_storage_error(records: Records) -> None:
    records.close()
    records.close()

    with pytest.raises(StorageError):
        records.collections()
    with pytest.raises(StorageError):
        records.add_faces("lab", "Ann", new_faces(units(15, 1)))


def test_a_full_disk_changes_nothing_and_room_makes_it_work_again(records: Records) -> None:
    records.add_faces("lab", "Ann", new_faces(units(16, 1)))
    (pages,) = records.database._db.execute("PRAGMA page_count").fetchone()
    records.database._db.execute(f"PRAGMA max_page_count = {pages}")
    before = records.collections(), records.subject("lab", "Ann")

    with pytest.raises(StorageFullError) as refused:
        records.add_faces("lab", "Bob", new_faces(units(17, 500)))
    assert "\n" not in str(refused.value)
    with pytest.raises(StorageFullError):
        records.add_faces("lab", "Ann", new_faces(units(17, 500)))

    assert (records.collections(), records.subject("lab", "Ann")) == before
    with pytest.raises(NotFoundError):
        records.subject("lab", "Bob")

    records.database._db.execute("PRAGMA max_page_count = 1073741823")
    stored = records.add_faces("lab", "Bob", new_faces(units(17, 500)))
    assert len(stored) == len(records.subject("lab", "Bob").faces) == 500


def test_a_file_system_without_room_is_told_as_full_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """The same with a real file system of 400 KB, where this machine lets a test mount one for itself."""
    mounted = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        'mount -t tmpfs -o size=400k none "$0" && exec "$@"',
    ]
    try:
        probe = subprocess.run([*mounted, str(tmp_path), "true"], capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no unshare")
    if probe.returncode:
        pytest.skip("this machine does not let a test mount a file system")

    done = subprocess.run(
        [*mounted, str(tmp_path), sys.executable, "-c", FILL_UP, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "whole\n"


FILL_UP = """
import sys
from pathlib import Path
from enrolment import MODEL, SETTINGS, new_face, units
from service.errors import StorageFullError
from galleries import open_records

folder = Path(sys.argv[1])
(folder / "ballast").write_bytes(bytes(100_000))
records = open_records(folder / "gallery.sqlite3")
records.put_collection("lab", SETTINGS, MODEL)
acknowledged = []
vector = units(0, 1)[0]
try:
    for number in range(1000):
        ((_, face),) = records.add_faces("lab", f"person {number}", [new_face(vector, crop=bytes(2000))])
        acknowledged.append(face.face_id)
    raise SystemExit("the disk did not fill up")
except StorageFullError:
    pass
assert records.collection("lab").faces == records.collection("lab").subjects == len(acknowledged) > 0

(folder / "ballast").unlink()
((_, face),) = records.add_faces("lab", "the last", [new_face(vector)])
acknowledged.append(face.face_id)
records.close()

records = open_records(folder / "gallery.sqlite3")
stored = {each.face_id for each in records.names_of(range(2000)).values()}
assert stored == set(acknowledged)
print("whole")
"""
