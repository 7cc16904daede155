"""Records and indexes in step: searching, erasing, restarting, and what a killed process leaves."""

import logging
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolment import MODEL, SETTINGS, files_with, near, new_face, new_faces, units
from galleries import open_gallery, stored_bytes
from photos import ROOT

from service.domain import CollectionSettings, ModelInfo
from service.errors import NotFoundError, StorageError, StorageFullError
from service.gallery import embedded
from service.gallery.contract import Erased
from service.gallery.embedded import EmbeddedGallery

CONTRACT = MODEL.contract_id


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[EmbeddedGallery]:
    """A gallery with an empty collection `lab`."""
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        yield gallery


def _enrol(gallery: EmbeddedGallery, people: dict[str, np.ndarray], collection: str = "lab") -> dict[str, list[str]]:
    """Each person with the rows of their matrix as faces; the face_ids."""
    return {
        name: [face.face_id for face in gallery.enrol(collection, CONTRACT, name, new_faces(vectors))]
        for name, vectors in people.items()
    }


def _names(gallery: EmbeddedGallery, probe: np.ndarray, limit: int = 1000) -> list[str]:
    return [match.subject for match in gallery.search("lab", CONTRACT, probe, limit)[0]]


def test_an_erasure_tells_the_faces_of_a_person_in_the_order_in_which_they_were_enrolled(
    gallery: EmbeddedGallery,
) -> None:
    ids = _enrol(gallery, {"Ann": units(3, 8)})["Ann"]
    assert gallery.erase("lab", "Ann").face_ids == ids


# --- searching


def test_who_is_enrolled_between_two_steps_of_a_search_takes_nobodys_place(
    gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = units(0, 1)[0]
    gallery.put_collection("lab", SETTINGS, MODEL)
    gallery.enrol("lab", MODEL.contract_id, "Ann", new_faces(near(probe, 1)[None]))
    index, look = gallery._indexes["lab"], gallery._indexes["lab"].search

    def search(vector: np.ndarray, limit: int) -> list[tuple[int, float]]:
        if len(index) == 1:
            gallery.enrol("lab", MODEL.contract_id, "Bob", new_faces(probe[None]))
        return look(vector, limit)

    monkeypatch.setattr(index, "search", search)

    matches, _ = gallery.search("lab", MODEL.contract_id, probe, 5)

    assert [match.subject for match in matches] == ["Bob", "Ann"]


def test_a_face_that_the_records_no_longer_know_is_never_named(gallery: EmbeddedGallery) -> None:
    probe = units(1, 1)[0]
    _enrol(gallery, {"Ann": probe[None], "Bob": near(probe, 2)[None]})

    # The moment between the commit and the removal from the index, held still.
    gallery._records.erase("lab", "Ann")

    assert _names(gallery, probe, 1) == ["Bob"]


# --- contracts and names


# --- restarting


ENROL_FOREVER = """
import sys
from pathlib import Path
from enrolment import MODEL, SETTINGS, new_faces, units
from galleries import open_gallery

turn = int(sys.argv[2])
gallery = open_gallery(Path(sys.argv[1]))
gallery.put_collection("lab", SETTINGS, MODEL)
number = 0
while True:
    vectors = units(1000 * turn + number, 2)
    for face in gallery.enrol("lab", MODEL.contract_id, f"person {turn}-{number}", new_faces(vectors)):
        print(face.face_id, f"person {turn}-{number}", flush=True)
    number += 1
"""


def _python(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'support')!r}]\n"
    return subprocess.Popen(
        [sys.executable, "-c", path + script, *map(str, arguments)], stdout=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path, kills: int) -> None:
    chance = random.Random(5)
    acknowledged: dict[str, str] = {}

    for turn in range(kills):
        with _python(ENROL_FOREVER, tmp_path, turn) as child:
            assert child.stdout is not None
            for _ in range(chance.randint(1, 40)):
                face_id, name = child.stdout.readline().rstrip("\n").split(" ", 1)
                acknowledged[face_id] = name
            child.kill()
            for line in child.stdout:  # what it said until the signal arrived; the last line may be cut off
                if line.endswith("\n"):
                    face_id, name = line.rstrip("\n").split(" ", 1)
                    acknowledged[face_id] = name

        # The lock is free again without a word, and nothing is half there: both faces of a person, or neither.
        with closing(open_gallery(tmp_path)) as gallery:
            page = gallery.subjects("lab", "", 100_000)
            stored = {
                face.face_id: person.name
                for person in page.subjects
                for face in gallery.subject("lab", person.name).faces
            }
            assert acknowledged.items() <= stored.items()
            assert {person.faces for person in page.subjects} == {2}
            vectors = gallery.vectors_of("lab", CONTRACT, f"person {turn}-0")
            np.testing.assert_array_equal(np.stack([vector for _, vector in vectors]), units(1000 * turn, 2))
            assert gallery.search("lab", CONTRACT, vectors[0][1], 1)[0][0].subject == f"person {turn}-0"
            assert gallery.search("lab", CONTRACT, vectors[0][1], 1)[1] == len(stored)


HOLD = """
from pathlib import Path
from galleries import open_gallery
gallery = open_gallery(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_second_process_on_the_same_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with _python(HOLD, tmp_path, stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"

        with pytest.raises(StorageError) as refused:
            open_gallery(tmp_path)
        assert str(refused.value) == f"{tmp_path} is in use by another process"

        holder.communicate()
    open_gallery(tmp_path).close()


def test_a_gallery_that_could_not_be_opened_does_not_keep_the_folder(tmp_path: Path) -> None:
    (tmp_path / "gallery.sqlite3").write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError) as refused:
        open_gallery(tmp_path)
    assert "\n" not in str(refused.value)

    (tmp_path / "gallery.sqlite3").unlink()

    open_gallery(tmp_path).close()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    with pytest.raises(StorageError, match="data"):
        open_gallery(tmp_path / "data")


# --- erasing


def _marked_people(count: int) -> dict[str, tuple[np.ndarray, str, bytes]]:
    """Name to vectors, consent and crop, each of which can be told from all others in a file."""
    return {
        f"Subject Number {number:04d}": (
            units(number, 2),
            f"consent form {number:04d}",
            np.random.default_rng(number).bytes(3000),
        )
        for number in range(count)
    }


def _pieces(crop: bytes) -> list[bytes]:
    # A crop is longer than a page of the file, so it is looked for in pieces.
    return [crop[start : start + 200] for start in range(0, len(crop), 200)]


def _traces(folder: Path, name: str, consent: str) -> list[bytes]:
    """What is in the files of a person who is enrolled."""
    return [name.encode(), consent.encode(), *(piece for blob in stored_bytes(folder, name) for piece in _pieces(blob))]


def _plain(vectors: np.ndarray, crop: bytes) -> list[bytes]:
    """What never is: the same unencrypted."""
    numbers = [vector.astype(kind).tobytes() for vector in vectors for kind in ("<f4", "<f2", "<f8")]
    return [*numbers, *_pieces(crop)]


def _enrol_marked(gallery: EmbeddedGallery, people: dict[str, tuple[np.ndarray, str, bytes]]) -> None:
    gallery.put_collection("lab", CollectionSettings("p", store_crops=True), MODEL)
    for name, (vectors, consent, crop) in people.items():
        faces = [new_face(vector, consent=consent, crop=crop) for vector in vectors]
        gallery.enrol("lab", CONTRACT, name, faces)


def _erase_one_person(gallery: EmbeddedGallery, name: str) -> None:
    assert len(gallery.erase("lab", name).face_ids) == 2


def _erase_face_by_face_then_the_person(gallery: EmbeddedGallery, name: str) -> None:
    for face in gallery.subject("lab", name).faces:
        assert gallery.erase("lab", name, face.face_id) == Erased([face.face_id], overwritten=True)
    assert gallery.erase("lab", name) == Erased([], overwritten=True)


@pytest.mark.parametrize("erase", [_erase_one_person, _erase_face_by_face_then_the_person])
def test_erased_people_are_gone_from_search_records_and_the_bytes_on_disk(
    tmp_path: Path, erase: Callable[[EmbeddedGallery, str], None]
) -> None:
    people = _marked_people(24)
    with closing(open_gallery(tmp_path)) as gallery:
        _enrol_marked(gallery, people)
        kept = {name: _traces(tmp_path, name, consent) for name, (_, consent, _) in people.items()}
        gone = random.Random(3).sample(sorted(people), 8)
        for name in gone:
            traces = kept[name]
            assert all(files_with(tmp_path, trace) for trace in traces)  # else the search below proves nothing

            erase(gallery, name)

            assert [trace for trace in traces if files_with(tmp_path, trace)] == []
            assert name not in _names(gallery, people[name][0][0])
            with pytest.raises(NotFoundError):
                gallery.subject("lab", name)

        assert gallery.search("lab", CONTRACT, units(0, 1)[0], 1)[1] == 2 * 16
    for name, (vectors, _, crop) in people.items():
        found = [trace for trace in kept[name] if files_with(tmp_path, trace)]
        assert bool(found) == (name not in gone)
        assert not any(files_with(tmp_path, plain) for plain in _plain(vectors, crop))
    with closing(open_gallery(tmp_path)) as gallery:
        assert sorted(_names(gallery, units(0, 1)[0])) == sorted(set(people) - set(gone))


def test_an_erased_collection_is_gone_with_all_its_people(tmp_path: Path) -> None:
    people = _marked_people(6)
    with closing(open_gallery(tmp_path)) as gallery:
        _enrol_marked(gallery, people)
        gallery.put_collection("other", SETTINGS, MODEL)
        _enrol(gallery, {"Somebody Else": units(50, 1)}, "other")
        traces = [trace for name, (_, consent, _) in people.items() for trace in _traces(tmp_path, name, consent)]

        assert len(gallery.erase("lab").face_ids) == 12

        assert [trace for trace in traces if files_with(tmp_path, trace)] == []
        with pytest.raises(NotFoundError):
            gallery.search("lab", CONTRACT, units(0, 1)[0], 5)
        assert gallery.collection("other").faces == 1
        assert files_with(tmp_path, b"Somebody Else")

        gallery.put_collection("lab", SETTINGS, MODEL)
        assert gallery.search("lab", CONTRACT, units(0, 1)[0], 5) == ([], 0)


@contextmanager
def _foreign_reader(folder: Path) -> Iterator[None]:
    """Another program in the middle of reading the gallery, a backup for one."""
    with closing(sqlite3.connect(folder / "gallery.sqlite3", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM faces").fetchone()
        yield


def _sweep(gallery: EmbeddedGallery) -> None:
    assert gallery.erase_expired() == 0


def _erase_somebody(gallery: EmbeddedGallery) -> None:
    assert gallery.erase("lab", "Bob").overwritten


def _erase_nobody(gallery: EmbeddedGallery) -> None:
    with pytest.raises(NotFoundError):
        gallery.erase("lab", "Ann Unforgotten")


@pytest.mark.parametrize("later", [_sweep, _erase_somebody, _erase_nobody])
def test_bytes_that_a_foreign_reader_keeps_on_disk_are_overwritten_when_it_is_gone(
    gallery: EmbeddedGallery,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    later: Callable[[EmbeddedGallery], None],
) -> None:
    ids = _enrol(gallery, {"Ann Unforgotten": units(1, 1), "Bob": units(2, 1)})
    with _foreign_reader(tmp_path / "data"):
        begun = time.monotonic()

        erased = gallery.erase("lab", "Ann Unforgotten")

        assert time.monotonic() - begun < 2
        assert erased == Erased(ids["Ann Unforgotten"], overwritten=False)
        assert files_with(tmp_path, b"Ann Unforgotten")
        assert _names(gallery, units(1, 1)[0]) == ["Bob"]
    assert [(record.name, record.levelno) for record in caplog.records] == [("facesphere.gallery", logging.WARNING)]
    assert "another program" in caplog.text
    assert not any(name in caplog.text for name in ("Ann", "lab", *ids["Ann Unforgotten"]))

    later(gallery)

    assert files_with(tmp_path, b"Ann Unforgotten") == []


def test_bytes_that_a_stopped_program_left_are_overwritten_at_the_next_start(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path)) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        _enrol(gallery, {"Ann Unforgotten": units(1, 1)})
        with _foreign_reader(tmp_path):
            gallery.erase("lab", "Ann Unforgotten")
            traces = files_with(tmp_path, b"Ann Unforgotten")
            kept = {name: (tmp_path / name).read_bytes() for name in traces}
    assert (tmp_path / "gallery.overwrite-pending").exists()
    for name, content in kept.items():  # as a power loss would have left them
        (tmp_path / name).write_bytes(content)
    assert files_with(tmp_path, b"Ann Unforgotten")

    with closing(open_gallery(tmp_path)) as gallery:
        assert files_with(tmp_path, b"Ann Unforgotten") == []
        assert gallery.subjects("lab", "", 5).subjects == []
    assert not (tmp_path / "gallery.overwrite-pending").exists()


def test_a_full_disk_changes_neither_records_nor_search(gallery: EmbeddedGallery) -> None:
    probe = units(1, 1)[0]
    _enrol(gallery, {"Ann": probe[None]})
    (pages,) = gallery._database._db.execute("PRAGMA page_count").fetchone()
    gallery._database._db.execute(f"PRAGMA max_page_count = {pages}")
    before = gallery.search("lab", CONTRACT, probe, 5), gallery.subjects("lab", "", 5)

    with pytest.raises(StorageFullError):
        gallery.enrol("lab", CONTRACT, "Bob", new_faces(units(2, 300)))

    assert (gallery.search("lab", CONTRACT, probe, 5), gallery.subjects("lab", "", 5)) == before
    gallery._database._db.execute("PRAGMA max_page_count = 1073741823")
    _enrol(gallery, {"Bob": units(2, 300)})
    assert gallery.search("lab", CONTRACT, probe, 5)[1] == 301


# --- retention


def test_the_retention_sweep_erases_exactly_what_is_past_its_date(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path)) as gallery:
        vectors = {"ten": units(1, 2), "thirty": units(2, 2), "ever": units(3, 2)}
        for name, days in (("ten", 10), ("thirty", 30), ("ever", None)):
            gallery.put_collection(name, CollectionSettings("p", days), MODEL)
            _enrol(gallery, {"Ann": vectors[name]}, name)
        created = datetime.fromisoformat(gallery.subject("ever", "Ann").faces[0].created_at)
        with closing(sqlite3.connect(tmp_path / "gallery.sqlite3")) as db:
            rows = db.execute(
                "SELECT c.name, f.vector FROM faces f JOIN subjects s ON s.id = f.subject"
                " JOIN collections c ON c.id = s.collection"
            ).fetchall()
        blobs = {name: [blob for collection, blob in rows if collection == name] for name in vectors}

        def left() -> list[int]:
            sizes = [gallery.search(name, CONTRACT, units(1, 1)[0], 5)[1] for name in vectors]
            assert sizes == [gallery.collection(name).faces for name in vectors]
            return sizes

        assert gallery.erase_expired(created + timedelta(days=9, hours=23)) == 0
        assert left() == [2, 2, 2]
        assert gallery.erase_expired(created + timedelta(days=11)) == 2
        assert left() == [0, 2, 2]
        assert not any(files_with(tmp_path, blob) for blob in blobs["ten"])
        assert all(files_with(tmp_path, blob) for blob in blobs["thirty"])
        assert gallery.erase_expired(created + timedelta(days=11)) == 0
        assert gallery.erase_expired(created + timedelta(days=3650)) == 2
        assert left() == [0, 0, 2]


# --- many threads


@pytest.mark.parametrize(("seed", "dimension"), [(1, 8), (10, 128)])
def test_no_copy_of_an_erased_person_stays_behind_when_pages_are_reused(
    tmp_path: Path, seed: int, dimension: int
) -> None:
    """SQLite leaves stale copies in the gaps of pages when it moves cells; these two histories have made it do so."""
    rng, choice = np.random.default_rng(seed), random.Random(seed)
    model = ModelInfo("m", "c" * 16, dimension)
    people: dict[str, list[bytes]] = {}
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.put_collection("c", SETTINGS, model)
        for _ in range(250):
            if people and choice.random() < 0.48:
                name = choice.choice(list(people))
                gallery.erase("c", name)
                for needle in (name.encode(), *people.pop(name)):
                    assert files_with(tmp_path, needle) == []
            else:
                name = f"person-{choice.getrandbits(64)}-{'x' * choice.randint(0, 150)}"
                vectors = [rng.normal(size=dimension).astype("f4") for _ in range(choice.randint(1, 3))]
                gallery.enrol("c", model.contract_id, name, new_faces(vectors))
                people[name] = stored_bytes(tmp_path / "data", name)


def test_a_person_whose_last_face_expires_goes_with_it(tmp_path: Path) -> None:
    with closing(open_gallery(tmp_path / "data")) as gallery:
        gallery.put_collection("lab", CollectionSettings("door", retention_days=10), MODEL)
        gallery.enrol("lab", CONTRACT, "visitor", new_faces(units(1, 2)))

        assert gallery.erase_expired(datetime.now(UTC) + timedelta(days=11)) == 2

        assert files_with(tmp_path, b"visitor") == []
        with pytest.raises(NotFoundError):
            gallery.subject("lab", "visitor")


def test_a_sweep_works_in_portions_and_overwrites_once(
    gallery: EmbeddedGallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SWEEP_CHUNK", 7)
    gallery.put_collection("lab", CollectionSettings("p", 1), MODEL)
    gallery.put_collection("gate", CollectionSettings("p", 1), MODEL)
    gallery.put_collection("ever", SETTINGS, MODEL)
    for collection in ("lab", "gate", "ever"):
        _enrol(gallery, {f"visitor {number}": units(number, 2) for number in range(7)}, collection)
    statements: list[str] = []
    gallery._database._db.set_trace_callback(statements.append)

    assert gallery.erase_expired(datetime.now(UTC) + timedelta(days=2)) == 28

    assert statements.count("VACUUM") == 1
    assert statements.count("COMMIT") == 5  # four portions, and what is to be done beside the file
    for collection, left in (("lab", 0), ("gate", 0), ("ever", 14)):
        assert gallery.size(collection) == gallery.collection(collection).faces == left
        assert len(gallery.subjects(collection, "", 50).subjects) == left // 2


def test_a_sweep_of_many_faces_takes_seconds_and_lets_others_write_in_between(gallery: EmbeddedGallery) -> None:
    gallery.put_collection("lab", CollectionSettings("p", 1), MODEL)
    gallery.put_collection("gate", SETTINGS, MODEL)
    _enrol(gallery, {f"visitor {number}": units(number, 1000) for number in range(20)})
    sweep = threading.Thread(target=lambda: gallery.erase_expired(datetime.now(UTC) + timedelta(days=2)))
    begun, sizes = time.monotonic(), []

    sweep.start()
    while sweep.is_alive():
        _enrol(gallery, {"Ann": units(1, 1)}, "gate")
        sizes.append(gallery.size("lab"))
    sweep.join()

    assert time.monotonic() - begun < 20
    assert gallery.size("lab") == 0
    assert gallery.size("gate") == len(sizes)
