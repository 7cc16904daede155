"""What every engine of the gallery owes its callers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from engines import Engine
from enrolment import DIMENSION, MODEL, SETTINGS, near, new_face, new_faces, units
from galleries import Clock

from models.preprocess import l2_normalize
from service.domain import CollectionSettings
from service.errors import ContractMismatchError, InvalidRequestError, NotFoundError
from service.gallery.contract import Gallery

CONTRACT = MODEL.contract_id


@pytest.fixture
def gallery(engine: Engine) -> Iterator[Gallery]:
    """A gallery with an empty collection `lab`."""
    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", SETTINGS, MODEL)
        yield gallery


def _enrol(gallery: Gallery, people: dict[str, np.ndarray], collection: str = "lab") -> dict[str, list[str]]:
    """Each person with the rows of their matrix as faces; the face_ids."""
    return {
        name: [face.face_id for face in gallery.enrol(collection, CONTRACT, name, new_faces(vectors))]
        for name, vectors in people.items()
    }


def _names(gallery: Gallery, probe: np.ndarray, limit: int = 1000) -> list[str]:
    return [match.subject for match in gallery.search("lab", CONTRACT, probe, limit)[0]]


def test_a_search_names_each_person_once_by_their_best_face(gallery: Gallery) -> None:
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


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.9, 1.1])
def test_whoever_is_near_enough_is_found_whatever_is_left_out_and_so_is_the_nearest(
    gallery: Gallery, limit: int, threshold: float
) -> None:
    probe = units(1, 1)[0]
    people = {f"near {number}": np.stack([near(probe, 7 * number + k) for k in range(7)]) for number in range(6)}
    _enrol(gallery, people | {f"far {number}": units(100 + number, 2) for number in range(9)})
    everybody, size = gallery.search("lab", CONTRACT, probe, limit)
    asked: list[int] = []

    def least(searched: int) -> float:
        asked.append(searched)
        return threshold

    found, again = gallery.search("lab", CONTRACT, probe, limit, least)

    assert (size, again) == (60, 60)
    assert [match for match in found if match.similarity >= threshold] == [
        match for match in everybody if match.similarity >= threshold
    ]
    assert found[0] == everybody[0]
    assert set(asked) <= {60}


def test_a_person_with_many_faces_does_not_crowd_out_the_others(gallery: Gallery) -> None:
    probe = units(1, 1)[0]
    crowd = np.stack([near(probe, seed) for seed in range(300)])
    others = {f"other {number}": near(probe, 1000 + number, distance=1.0)[None] for number in range(4)}
    _enrol(gallery, {"many faces": crowd, **others})

    matches, size = gallery.search("lab", CONTRACT, probe, 3)

    assert size == 304
    ranked = sorted(others, key=lambda name: -float(others[name][0] @ probe))
    assert [match.subject for match in matches] == ["many faces", *ranked[:2]]


def test_a_limit_above_the_number_of_people_finds_everybody(gallery: Gallery) -> None:
    _enrol(gallery, {"Ann": units(1, 3), "Bob": units(2, 1)})

    assert sorted(_names(gallery, units(3, 1)[0])) == ["Ann", "Bob"]


def test_a_request_that_comes_again_stores_nothing_twice(gallery: Gallery) -> None:
    def enrol(name: str, *requests: str | None) -> list[str]:
        faces = [replace(face, request=key) for face, key in zip(new_faces(vectors), requests, strict=True)]
        return [face.face_id for face in gallery.enrol("lab", CONTRACT, name, faces)]

    vectors = units(1, 2)
    first = enrol("Ann", "0 of a", "1 of a")
    entries = len(gallery.audit.page(None, 1000))

    assert enrol("Ann", "0 of a", "1 of a") == first
    assert len(gallery.audit.page(None, 1000)) == entries  # nothing was done
    assert gallery.search("lab", CONTRACT, vectors[0], 5)[1] == 2
    assert enrol("Ann", "1 of a", "0 of a") == first[::-1]
    again, new = enrol("Ann", "1 of a", "0 of b")
    assert (again == first[1], new in first) == (True, False)
    assert not {*enrol("Bob", "0 of a", "1 of a"), *enrol("Ann", None, None)} & {*first, new}
    assert (gallery.collection("lab").faces, gallery.search("lab", CONTRACT, vectors[0], 5)[1]) == (7, 7)


def test_a_request_that_comes_again_with_something_else_in_it_is_refused(gallery: Gallery) -> None:
    (face,) = new_faces(units(1, 1))
    first = replace(face, request="0 of a", content="this")
    (stored,) = gallery.enrol("lab", CONTRACT, "Ann", [first])

    with pytest.raises(InvalidRequestError, match="idempotency_key") as refused:
        gallery.enrol("lab", CONTRACT, "Ann", [replace(face, request=None), replace(first, content="that")])

    assert refused.value.details["field"] == "idempotency_key"
    assert gallery.collection("lab").faces == 1  # and none of those beside it
    assert gallery.enrol("lab", CONTRACT, "Ann", [first]) == [stored]
    assert gallery.enrol("lab", CONTRACT, "Bob", [replace(first, content="that")]) != [stored]


def test_what_was_erased_since_is_stored_anew_by_the_same_request(gallery: Gallery) -> None:
    def enrol() -> str:
        (face,) = new_faces(units(1, 1))
        (stored,) = gallery.enrol("lab", CONTRACT, "Ann", [replace(face, request="0 of a")])
        return stored.face_id

    first = enrol()
    gallery.erase("lab", "Ann", first)
    second = enrol()
    gallery.erase("lab", "Ann")
    third = enrol()

    assert len({first, second, third}) == 3
    assert [face.face_id for face in gallery.subject("lab", "Ann").faces] == [third]


def test_a_request_is_known_after_a_restart(engine: Engine) -> None:
    (face,) = new_faces(units(1, 1))
    stored = []
    for _ in range(2):
        with closing(engine.open()) as gallery:
            gallery.put_collection("lab", SETTINGS, MODEL)
            stored += gallery.enrol("lab", CONTRACT, "Ann", [replace(face, request="0 of a")])
    assert stored[0] == stored[1]


def test_an_empty_collection_finds_nobody(gallery: Gallery) -> None:
    assert gallery.search("lab", CONTRACT, units(1, 1)[0], 5) == ([], 0)


def test_collections_do_not_see_each_other(gallery: Gallery) -> None:
    gallery.put_collection("gate", SETTINGS, MODEL)
    probe = units(1, 1)
    _enrol(gallery, {"Ann": probe})
    _enrol(gallery, {"Bob": probe}, "gate")

    assert _names(gallery, probe[0]) == ["Ann"]
    assert [match.subject for match in gallery.search("gate", CONTRACT, probe[0], 5)[0]] == ["Bob"]


def test_vectors_of_another_contract_are_refused_in_every_call(gallery: Gallery) -> None:
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


def test_a_collection_that_is_not_there_is_not_found_in_every_call(gallery: Gallery) -> None:
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


def test_creating_says_so_and_changing_keeps_the_people(gallery: Gallery) -> None:
    created, is_new = gallery.put_collection("gate", SETTINGS, MODEL)
    assert (is_new, created.faces, created.model) == (True, 0, MODEL)
    _enrol(gallery, {"Ann": units(1, 2)}, "gate")

    changed, is_new = gallery.put_collection("gate", CollectionSettings("other purpose"), MODEL)

    assert (is_new, changed.faces, changed.settings.purpose) == (False, 2, "other purpose")
    assert len(gallery.search("gate", CONTRACT, units(1, 1)[0], 5)[0]) == 1
    assert [each.name for each in gallery.collections()] == ["gate", "lab"]


def test_everything_survives_closing_and_reopening(engine: Engine) -> None:
    people = {f"person {number}": units(number, 3) for number in range(10)}
    probe = units(77, 1)[0]
    with closing(engine.open()) as before:
        before.put_collection("lab", SETTINGS, MODEL)
        before.put_collection("empty", SETTINGS, MODEL)
        ids = _enrol(before, people)
        before.erase("lab", "person 3")
        before.erase("lab", "person 4", ids["person 4"][0])
        found = before.search("lab", CONTRACT, probe, 1000)
        page = before.subjects("lab", "", 100)
        collections = before.collections()

    with closing(engine.open()) as after:
        assert after.search("lab", CONTRACT, probe, 1000) == found
        assert found[1] == 26
        assert after.subjects("lab", "", 100) == page
        assert after.collections() == collections
        assert after.search("empty", CONTRACT, probe, 5) == ([], 0)
        _enrol(after, {"person 3": probe[None]})
        assert _names(after, probe, 1) == ["person 3"]


def test_one_erased_face_leaves_the_others_of_the_person(gallery: Gallery) -> None:
    vectors = units(1, 3)
    ids = _enrol(gallery, {"Ann": vectors})["Ann"]

    assert gallery.erase("lab", "Ann", ids[1]).face_ids == [ids[1]]

    assert [face.face_id for face in gallery.subject("lab", "Ann").faces] == [ids[0], ids[2]]
    (match,), size = gallery.search("lab", CONTRACT, vectors[1], 5)
    assert (match.subject, size) == ("Ann", 2)
    assert match.similarity < 0.999


def test_the_size_of_a_collection_is_that_of_a_search(gallery: Gallery) -> None:
    assert gallery.size("lab") == 0
    _enrol(gallery, {"Ann": units(1, 3), "Bob": units(2, 2)})
    gallery.erase("lab", "Bob")

    assert gallery.size("lab") == gallery.search("lab", CONTRACT, units(1, 1)[0], 5)[1] == 3
    assert gallery.collection_info("lab") == (SETTINGS, MODEL)


def test_a_sweep_without_a_time_is_a_sweep_now(engine: Engine) -> None:
    clock = Clock("2026-01-10T12:00:00+00:00")
    with closing(engine.open(clock)) as gallery:
        gallery.put_collection("lab", CollectionSettings("p", 1), MODEL)
        _enrol(gallery, {"Ann": units(1, 2)})
        clock.set("2026-01-11T11:59:00+00:00")
        assert gallery.erase_expired() == 0

        clock.set("2026-01-11T12:01:00+00:00")

        assert gallery.erase_expired() == 2


def test_two_sweeps_at_once_share_the_work(gallery: Gallery) -> None:
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


def test_searches_beside_enrolments_and_erasures_name_only_people_who_are_near(gallery: Gallery) -> None:
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


def test_a_vector_is_stored_as_it_was_given(gallery: Gallery) -> None:
    vector = l2_normalize(np.linspace(-1, 1, DIMENSION)[None])[0]
    ids = _enrol(gallery, {"Ann": vector[None]})["Ann"]

    ((face_id, stored),) = gallery.vectors_of("lab", CONTRACT, "Ann")

    assert face_id == ids[0]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, vector)


def test_a_person_whose_last_face_expires_goes_with_it_and_one_whose_last_is_erased_stays(gallery: Gallery) -> None:
    gallery.put_collection("lab", CollectionSettings("door", retention_days=10), MODEL)
    ids = _enrol(gallery, {"visitor": units(1, 2), "Ann": units(2, 1)})
    gallery.erase("lab", "Ann", ids["Ann"][0])

    assert gallery.erase_expired(datetime.now(UTC) + timedelta(days=11)) == 2

    with pytest.raises(NotFoundError):
        gallery.subject("lab", "visitor")
    assert gallery.subject("lab", "Ann").faces == []
    assert (gallery.collection("lab").subjects, gallery.collection("lab").faces) == (1, 0)


def test_people_come_in_pages_ordered_by_the_bytes_of_their_names(gallery: Gallery) -> None:
    names = ["Zoë", "anna", "Ann", "Bob", "Ölaf", "ann", "Émile", "日本"]
    _enrol(gallery, {name: units(number, 1) for number, name in enumerate(names)})

    pages, cursor = [], ""
    while cursor is not None:
        page = gallery.subjects("lab", cursor, 3)
        pages.append([each.name for each in page.subjects])
        cursor = page.next_cursor

    assert [len(page) for page in pages] == [3, 3, 2]
    assert [name for page in pages for name in page] == sorted(names, key=lambda name: name.encode())


def test_an_export_is_everything_that_is_kept_of_a_person(gallery: Gallery) -> None:
    vectors, crop = units(1, 2), bytes(range(256)) * 9
    faces = [new_face(vectors[0], 0.25, "form 7", crop), new_face(vectors[1], None)]
    ids = [face.face_id for face in gallery.enrol("lab", CONTRACT, "Ann", faces)]

    document = gallery.export("lab", "Ann", "key-1")

    assert (document.collection, document.purpose, document.model) == ("lab", SETTINGS.purpose, MODEL)
    assert [(face.face_id, face.quality, face.consent, face.has_crop) for face in document.subject.faces] == [
        (ids[0], 0.25, "form 7", True),
        (ids[1], None, None, False),
    ]
    assert document.crops == {ids[0]: crop}
    for face_id, vector in zip(ids, vectors, strict=True):
        np.testing.assert_array_equal(document.vectors[face_id], vector)
    entry = gallery.audit.page(None, 1)[0]
    assert (entry["actor"], entry["event"], entry["detail"]["subject"]["name"]) == ("key-1", "export", "Ann")


def test_the_log_tells_of_changes_and_decisions_by_names_that_go_with_the_people(gallery: Gallery) -> None:
    _enrol(gallery, {"Ann": units(1, 1)})
    gallery.note("key-1", "verify.subject", "lab", "Ann", matched=True)
    gallery.note("key-1", "verify.subject", "lab", "Nobody", matched=False)
    gallery.erase("lab", "Ann", actor="key-2")

    entries = gallery.audit.page(None, 4)

    told = [(entry["event"], entry["actor"], (entry["detail"]["subject"] or {}).get("name")) for entry in entries]
    assert told == [
        ("erase.subject", "key-2", None),
        ("verify.subject", "key-1", None),
        ("verify.subject", "key-1", None),
        ("enrol", "system", None),
    ]
    assert [entry["detail"]["subject"] is None for entry in entries] == [False, True, False, False]
    assert gallery.audit.page(entries[-1]["seq"], 1)[0]["event"] == "collection.create"


def test_an_erased_collection_is_gone_with_its_people_and_may_begin_anew(gallery: Gallery) -> None:
    ids = _enrol(gallery, {"Ann": units(1, 2), "Bob": units(2, 1)})

    assert sorted(gallery.erase("lab").face_ids) == sorted(ids["Ann"] + ids["Bob"])

    with pytest.raises(NotFoundError):
        gallery.search("lab", CONTRACT, units(1, 1)[0], 5)
    _, created = gallery.put_collection("lab", SETTINGS, MODEL)
    assert created
    assert gallery.search("lab", CONTRACT, units(1, 1)[0], 5) == ([], 0)
    assert _enrol(gallery, {"Ann": units(1, 1)})


@pytest.mark.parametrize("name", ["", "nul \0 in it", "x" * 5000, "' OR 1=1 --", "%s"])
def test_a_name_that_nobody_can_have_is_not_found_or_refused(gallery: Gallery, name: str) -> None:
    for call in (lambda: gallery.subject("lab", name), lambda: gallery.erase("lab", name)):
        with pytest.raises((NotFoundError, InvalidRequestError)):
            call()
