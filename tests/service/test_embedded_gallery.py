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
from enrolment import DIMENSION, MODEL, SETTINGS, files_with, near, new_face, new_faces, units
from galleries import Clock, open_gallery, stored_bytes
from photos import ROOT

from models.preprocess import l2_normalize
from service.domain import CollectionSettings, ModelInfo
from service.errors import ContractMismatchError, NotFoundError, StorageError, StorageFullError
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


# --- searching


def test_a_search_names_each_person_once_by_their_best_face(gallery: EmbeddedGallery) -> None:
    people = {f"person {number}": units(number, 4) for number in range(20)}
    ids = _enrol(gallery, people)
    probe = units(99, 1)[0]

    matches, size = gallery.search("lab", CONTRACT, probe, 7)

    assert size == 80
    expected = sorted(
        ((float((vectors @ probe).max()), name, ids[name][int((vectors @ probe).argmax())]))
        for name, vectors in people.items()
    )[::-1][:7]
    assert [(match.subject, match.face_id) for match in matches] == [(name, face) for _, name, face in expected]
    assert [match.similarity for match in matches] == pytest.approx([score for score, _, _ in expected], abs=1e-6)


def test_a_person_with_many_faces_does_not_crowd_out_the_others(gallery: EmbeddedGallery) -> None:
    probe = units(1, 1)[0]
    crowd = np.stack([near(probe, seed) for seed in range(300)])
    others = {f"other {number}": near(probe, 1000 + number, distance=1.0)[None] for number in range(4)}
    _enrol(gallery, {"many faces": crowd, **others})

    matches, size = gallery.search("lab", CONTRACT, probe, 3)

    assert size == 304
    ranked = sorted(others, key=lambda name: -float(others[name][0] @ probe))
    assert [match.subject for match in matches] == ["many faces", *ranked[:2]]


def test_a_limit_above_the_number_of_people_finds_everybody(gallery: EmbeddedGallery) -> None:
    _enrol(gallery, {"Ann": units(1, 3), "Bob": units(2, 1)})

    assert sorted(_names(gallery, units(3, 1)[0])) == ["Ann", "Bob"]


def test_an_empty_collection_finds_nobody(gallery: EmbeddedGallery) -> None:
    assert gallery.search("lab", CONTRACT, units(1, 1)[0], 5) == ([], 0)


def test_collections_do_not_see_each_other(gallery: EmbeddedGallery) -> None:
    gallery.put_collection("gate", SETTINGS, MODEL)
    probe = units(1, 1)
    _enrol(gallery, {"Ann": probe})
    _enrol(gallery, {"Bob": probe}, "gate")

    assert _names(gallery, probe[0]) == ["Ann"]
    assert [match.subject for match in gallery.search("gate", CONTRACT, probe[0], 5)[0]] == ["Bob"]


def test_a_face_that_the_records_no_longer_know_is_never_named(gallery: EmbeddedGallery) -> None:
    probe = units(1, 1)[0]
    _enrol(gallery, {"Ann": probe[None], "Bob": near(probe, 2)[None]})

    # The moment between the commit and the removal from the index, held still.
    gallery._records.erase("lab", "Ann")

    assert _names(gallery, probe, 1) == ["Bob"]


# --- contracts and names


def test_vectors_of_another_contract_are_refused_in_every_call(gallery: EmbeddedGallery) -> None:
    _enrol(gallery, {"Ann": units(1, 1)})
    other = "f" * 16

    for call in (
        lambda: gallery.enrol("lab", other, "Bob", new_faces(units(2, 1))),
        lambda: gallery.search("lab", other, units(2, 1)[0], 5),
        lambda: gallery.vectors_of("lab", other, "Ann"),
    ):
        with pytest.raises(ContractMismatchError) as refused:
            call()
        assert refused.value.details == {"collection_contract_id": CONTRACT, "server_contract_id": other}
    assert gallery.collection("lab").subjects == 1


def test_a_collection_that_is_not_there_is_not_found_in_every_call(gallery: EmbeddedGallery) -> None:
    for call in (
        lambda: gallery.collection("nowhere"),
        lambda: gallery.collection_info("nowhere"),
        lambda: gallery.size("nowhere"),
        lambda: gallery.enrol("nowhere", CONTRACT, "Ann", new_faces(units(1, 1))),
        lambda: gallery.search("nowhere", CONTRACT, units(1, 1)[0], 5),
        lambda: gallery.vectors_of("nowhere", CONTRACT, "Ann"),
        lambda: gallery.subject("nowhere", "Ann"),
        lambda: gallery.subjects("nowhere", "", 5),
        lambda: gallery.erase("nowhere"),
        lambda: gallery.erase("nowhere", "Ann"),
        lambda: gallery.erase("nowhere", "Ann", "face"),
    ):
        with pytest.raises(NotFoundError, match="nowhere"):
            call()


def test_creating_says_so_and_changing_keeps_the_people(gallery: EmbeddedGallery) -> None:
    created, is_new = gallery.put_collection("gate", SETTINGS, MODEL)
    assert (is_new, created.faces, created.model) == (True, 0, MODEL)
    _enrol(gallery, {"Ann": units(1, 2)}, "gate")

    changed, is_new = gallery.put_collection("gate", CollectionSettings("other purpose"), MODEL)

    assert (is_new, changed.faces, changed.settings.purpose) == (False, 2, "other purpose")
    assert len(gallery.search("gate", CONTRACT, units(1, 1)[0], 5)[0]) == 1
    assert [each.name for each in gallery.collections()] == ["gate", "lab"]


# --- restarting


def test_everything_survives_closing_and_reopening(tmp_path: Path) -> None:
    people = {f"person {number}": units(number, 3) for number in range(10)}
    probe = units(77, 1)[0]
    with closing(open_gallery(tmp_path)) as before:
        before.put_collection("lab", SETTINGS, MODEL)
        before.put_collection("empty", SETTINGS, MODEL)
        ids = _enrol(before, people)
        before.erase("lab", "person 3")
        before.erase("lab", "person 4", ids["person 4"][0])
        found = before.search("lab", CONTRACT, probe, 1000)
        page = before.subjects("lab", "", 100)
        collections = before.collections()

    with closing(open_gallery(tmp_path)) as after:
        assert after.search("lab", CONTRACT, probe, 1000) == found
        assert found[1] == 26
        assert after.subjects("lab", "", 100) == page
        assert after.collections() == collections
        assert after.search("empty", CONTRACT, probe, 5) == ([], 0)
        _enrol(after, {"person 3": probe[None]})
        assert _names(after, probe, 1) == ["person 3"]


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


def test_one_erased_face_leaves_the_others_of_the_person(gallery: EmbeddedGallery) -> None:
    vectors = units(1, 3)
    ids = _enrol(gallery, {"Ann": vectors})["Ann"]

    assert gallery.erase("lab", "Ann", ids[1]) == Erased([ids[1]], overwritten=True)

    assert [face.face_id for face in gallery.subject("lab", "Ann").faces] == [ids[0], ids[2]]
    (match,), size = gallery.search("lab", CONTRACT, vectors[1], 5)
    assert (match.subject, size) == ("Ann", 2)
    assert match.similarity < 0.999


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


def test_the_size_of_a_collection_is_that_of_a_search(gallery: EmbeddedGallery) -> None:
    assert gallery.size("lab") == 0
    _enrol(gallery, {"Ann": units(1, 3), "Bob": units(2, 2)})
    gallery.erase("lab", "Bob")

    assert gallery.size("lab") == gallery.search("lab", CONTRACT, units(1, 1)[0], 5)[1] == 3
    assert gallery.collection_info("lab") == (SETTINGS, MODEL)


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


def test_a_sweep_without_a_time_is_a_sweep_now(tmp_path: Path) -> None:
    clock = Clock("2026-01-10T12:00:00+00:00")
    with closing(open_gallery(tmp_path / "data", clock)) as gallery:
        gallery.put_collection("lab", CollectionSettings("p", 1), MODEL)
        _enrol(gallery, {"Ann": units(1, 2)})
        clock.set("2026-01-11T11:59:00+00:00")
        assert gallery.erase_expired() == 0

        clock.set("2026-01-11T12:01:00+00:00")

        assert gallery.erase_expired() == 2


def test_two_sweeps_at_once_share_the_work(gallery: EmbeddedGallery) -> None:
    gallery.put_collection("lab", CollectionSettings("p", 1), MODEL)
    _enrol(gallery, {f"person {number}": units(number, 2) for number in range(20)})
    later = datetime.now(UTC) + timedelta(days=2)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(gallery.erase_expired(later))) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(counts) == 2  # a sweep that met an error would not have counted
    assert sum(counts) == 40


# --- many threads


def test_searches_beside_enrolments_and_erasures_name_only_people_who_are_near(gallery: EmbeddedGallery) -> None:
    centre = units(0, 1)[0]
    stop = threading.Event()
    errors: list[BaseException] = []
    _enrol(gallery, {"always there": centre[None]})

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # an assertion of a thread must fail the test
                errors.append(error)

        return run

    def change(worker: int) -> None:
        for number in range(25):
            name = f"person {worker}-{number}"
            _enrol(gallery, {name: np.stack([near(centre, number), near(centre, number + 1)])})
            assert name in _names(gallery, centre)
            gallery.erase("lab", name)
            assert name not in _names(gallery, centre)

    def search() -> None:
        while not stop.is_set():
            names = _names(gallery, centre)
            assert names[0] == "always there"
            assert len(names) == len(set(names))

    changing = [threading.Thread(target=guarded(lambda worker=worker: change(worker))) for worker in range(3)]
    searching = [threading.Thread(target=guarded(search)) for _ in range(2)]
    for thread in (*changing, *searching):
        thread.start()
    for thread in changing:
        thread.join()
    stop.set()
    for thread in searching:
        thread.join()

    assert errors == []
    assert gallery.search("lab", CONTRACT, centre, 5)[1] == 1


def test_a_vector_is_stored_as_it_was_given(gallery: EmbeddedGallery) -> None:
    vector = l2_normalize(np.linspace(-1, 1, DIMENSION)[None])[0]
    ids = _enrol(gallery, {"Ann": vector[None]})["Ann"]

    ((face_id, stored),) = gallery.vectors_of("lab", CONTRACT, "Ann")

    assert face_id == ids[0]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, vector)


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
