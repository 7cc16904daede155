"""A collection that changes its model: all of it at once, there and back, and nobody is compared across models."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from engines import Embedded, Engine, Postgres
from enrolment import MODEL, new_face, units

from service.domain import CollectionSettings, Coverage, ModelInfo, NewFace, StoredCrop
from service.errors import ContractMismatchError, GalleryUnavailableError, NotFoundError, StorageError
from service.gallery import snapshots
from service.gallery.contract import LAST, Gallery
from service.gallery.database import Database
from service.gallery.embedded import EmbeddedGallery
from service.gallery.store import FILE

OLD = MODEL
NEW = ModelInfo("better-model", "fedcba9876543210", 24)
THIRD = ModelInfo("best-model", "00ff00ff00ff00ff", OLD.dimension)
KEEPING_CROPS = CollectionSettings("door of the laboratory", store_crops=True)


def _vector(crop: bytes, model: ModelInfo) -> np.ndarray:
    """What a model makes of a crop."""
    return units(int.from_bytes(crop) ^ int(model.contract_id, 16), 1, model.dimension)[0]


def _face(number: int, model: ModelInfo = OLD) -> NewFace:
    crop = number.to_bytes(4)
    return new_face(_vector(crop, model), crop=crop)


class Network:
    """Embeds crops and remembers which."""

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self.asked: list[StoredCrop] = []

    def __call__(self, crops: Sequence[StoredCrop]) -> list[np.ndarray]:
        self.asked += crops
        return [_vector(each.crop, self.model) for each in crops]


def _cover(gallery: Gallery, model: ModelInfo, chunk: int = 7, most: int = 10**6) -> int:
    """Give every face that lacks one a vector; how many they were."""
    last = count = 0
    while crops := gallery.uncovered("lab", model.contract_id, last, min(chunk, most - count)):
        gallery.cover("lab", model, {each.face_id: _vector(each.crop, model) for each in crops})
        last, count = crops[-1].number, count + len(crops)
    return count


def _change(gallery: Gallery, model: ModelInfo) -> None:
    _cover(gallery, model)
    assert gallery.switch("lab", model, Network(model), "key-1")


def _enrol(gallery: Gallery, people: dict[str, Sequence[int]], model: ModelInfo = OLD) -> dict[str, list[str]]:
    """People with faces of these numbers; the face_ids."""
    return {
        name: [
            face.face_id
            for face in gallery.enrol("lab", model.contract_id, name, [_face(number, model) for number in numbers])
        ]
        for name, numbers in people.items()
    }


def _is_on(gallery: Gallery, model: ModelInfo, people: dict[str, Sequence[int]], others: Sequence[ModelInfo]) -> None:
    """The collection answers by one model, of exactly these people, and refuses vectors of others."""
    count = sum(len(numbers) for numbers in people.values())
    assert gallery.collection_info("lab")[1] == gallery.collection("lab").model == model
    assert (gallery.size("lab"), gallery.collection("lab").faces) == (count, count)
    assert gallery.coverage("lab", model.contract_id) == Coverage(count, 0, 0)
    for name, numbers in people.items():
        expected = [_vector(number.to_bytes(4), model) for number in numbers]
        stored = gallery.vectors_of("lab", model.contract_id, name)
        assert len(stored) == len(expected)
        for (_, vector), wanted in zip(stored, expected, strict=True):
            np.testing.assert_array_equal(vector, wanted)
        if expected:
            found, size = gallery.search("lab", model.contract_id, expected[0], 1000)
            assert (size, found[0].subject, found[0].similarity) == (count, name, pytest.approx(1, abs=1e-5))
            assert len(found) == sum(1 for each in people.values() if each)
    for other in others:
        probe = _vector(b"probe", other)
        for call in (
            lambda other=other, probe=probe: gallery.search("lab", other.contract_id, probe, 5),
            lambda other=other: gallery.vectors_of("lab", other.contract_id, next(iter(people))),
            lambda other=other: gallery.enrol("lab", other.contract_id, "Eve", [_face(1, other)]),
        ):
            with pytest.raises(ContractMismatchError) as refused:
                call()
            assert refused.value.details == {
                "collection_contract_id": model.contract_id,
                "server_contract_id": other.contract_id,
            }


@pytest.fixture
def gallery(engine: Engine) -> Iterator[Gallery]:
    """A gallery with an empty collection `lab` that keeps crops."""
    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        yield gallery


PEOPLE: dict[str, Sequence[int]] = {"Ann": [1, 2, 3], "Bob": [4], "Cid": [5, 6]}


# --- covering


def test_coverage_counts_faces_without_a_vector_and_those_that_cannot_get_one(gallery: Gallery) -> None:
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(0, 0, 0)
    _enrol(gallery, PEOPLE)
    gallery.enrol("lab", OLD.contract_id, "Dan", [new_face(units(1, 1)[0])])

    assert gallery.coverage("lab", OLD.contract_id) == Coverage(7, 0, 0)
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(7, 7, 1)

    assert _cover(gallery, NEW, most=4) == 4
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(7, 3, 1)
    assert gallery.coverage("lab", THIRD.contract_id) == Coverage(7, 7, 1)
    assert _cover(gallery, NEW) == 2
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(7, 1, 1)


def test_uncovered_faces_come_in_order_each_once_with_the_crop_that_was_stored(gallery: Gallery) -> None:
    ids = [face for faces in _enrol(gallery, PEOPLE).values() for face in faces]

    seen: list[StoredCrop] = []
    while chunk := gallery.uncovered("lab", NEW.contract_id, seen[-1].number if seen else 0, 4):
        seen += chunk

    assert [each.face_id for each in seen] == ids
    assert [int.from_bytes(each.crop) for each in seen] == [1, 2, 3, 4, 5, 6]
    assert gallery.uncovered("lab", OLD.contract_id, 0, 10) == []


def test_covering_twice_keeps_the_first_and_leaves_out_who_was_erased_or_never_was(gallery: Gallery) -> None:
    ids = _enrol(gallery, PEOPLE)
    crops = gallery.uncovered("lab", NEW.contract_id, 0, 100)
    vectors = {each.face_id: _vector(each.crop, NEW) for each in crops}
    gallery.erase("lab", "Bob")
    gallery.erase("lab", "Ann", ids["Ann"][1])

    gallery.cover("lab", NEW, {**vectors, "f" * 32: units(1, 1, NEW.dimension)[0]})
    gallery.cover("lab", NEW, {face: -vector for face, vector in vectors.items()})
    gallery.cover("lab", NEW, {})

    assert gallery.coverage("lab", NEW.contract_id) == Coverage(4, 0, 0)
    assert gallery.switch("lab", NEW, Network(NEW))
    _is_on(gallery, NEW, {"Ann": [1, 3], "Cid": [5, 6]}, [OLD])


def test_covering_changes_no_answer_of_the_model_that_is_used(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    probe = _vector(b"probe", OLD)
    before = gallery.search("lab", OLD.contract_id, probe, 10)

    _cover(gallery, NEW)
    _cover(gallery, THIRD)

    assert gallery.search("lab", OLD.contract_id, probe, 10) == before
    _is_on(gallery, OLD, PEOPLE, [NEW, THIRD])


def test_vectors_of_the_same_faces_under_two_contracts_stand_side_by_side(gallery: Gallery) -> None:
    assert len(gallery.two_vectors("lab", NEW.contract_id, 10).people) == 0
    _enrol(gallery, PEOPLE)
    assert len(gallery.two_vectors("lab", NEW.contract_id, 10).people) == 0
    _cover(gallery, NEW, chunk=5, most=5)

    both = gallery.two_vectors("lab", NEW.contract_id, 10)
    np.testing.assert_array_equal(both.old, np.stack([_vector(n.to_bytes(4), OLD) for n in range(1, 6)]))
    np.testing.assert_array_equal(both.new, np.stack([_vector(n.to_bytes(4), NEW) for n in range(1, 6)]))
    assert len(set(both.people[:3])) == 1
    assert len(set(both.people)) == 3

    some = gallery.two_vectors("lab", NEW.contract_id, 2)
    assert some.old.shape == (2, OLD.dimension)
    assert some.new.shape == (2, NEW.dimension)
    np.testing.assert_array_equal(gallery.two_vectors("lab", NEW.contract_id, 2).old, some.old)


def test_a_collection_that_is_not_there_has_no_contracts(gallery: Gallery) -> None:
    for call in (
        lambda: gallery.uid("nowhere"),
        lambda: gallery.coverage("nowhere", NEW.contract_id),
        lambda: gallery.uncovered("nowhere", NEW.contract_id, 0, 5),
        lambda: gallery.cover("nowhere", NEW, {}),
        lambda: gallery.two_vectors("nowhere", NEW.contract_id, 5),
        lambda: gallery.switch("nowhere", NEW, Network(NEW)),
        lambda: gallery.keep_contracts("nowhere", []),
    ):
        with pytest.raises(NotFoundError, match="nowhere"):
            call()


def test_a_portion_of_what_is_to_be_embedded_is_read_without_sorting_the_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Embedded(tmp_path).open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
        queries: list[tuple[str, tuple[object, ...]]] = []
        read = Database.read

        def noting(self: Database, query: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
            queries.append((query, values))
            return read(self, query, values)

        monkeypatch.setattr(Database, "read", noting)
        gallery.uncovered("lab", NEW.contract_id, 0, 2)
        monkeypatch.undo()

        ((query, values),) = [each for each in queries if "f.crop" in each[0]]
        plan = [
            row[3] for row in sqlite3.connect(tmp_path / "data" / FILE).execute(f"EXPLAIN QUERY PLAN {query}", values)
        ]
        assert plan[0].startswith("SEARCH f USING INTEGER PRIMARY KEY")
        assert not [step for step in plan if "TEMP B-TREE" in step]


def test_a_collection_is_known_by_one_name_that_another_of_its_name_does_not_get(gallery: Gallery) -> None:
    first = gallery.uid("lab")
    gallery.put_collection("lab", replace(KEEPING_CROPS, purpose="other"), OLD)
    assert gallery.uid("lab") == first

    gallery.erase("lab")
    gallery.put_collection("lab", KEEPING_CROPS, OLD)

    assert gallery.uid("lab") != first


# --- switching


@pytest.mark.parametrize("model", [NEW, THIRD], ids=["another dimension", "the same dimension"])
def test_a_switch_moves_every_answer_to_the_other_model_and_back_at_once(gallery: Gallery, model: ModelInfo) -> None:
    _enrol(gallery, PEOPLE)
    _cover(gallery, model)
    _is_on(gallery, OLD, PEOPLE, [model])
    network = Network(model)

    assert gallery.switch("lab", model, network, "key-1")

    assert network.asked == []
    _is_on(gallery, model, PEOPLE, [OLD])
    entry = gallery.audit.page(None, 1)[0]
    assert (entry["actor"], entry["event"]) == ("key-1", "collection.model")
    assert entry["detail"]["collection"] == {"uid": gallery.uid("lab"), "name": "lab"}
    assert (entry["detail"]["before"], entry["detail"]["after"]) == (OLD.contract_id, model.contract_id)

    back = Network(OLD)
    assert gallery.switch("lab", OLD, back)
    assert back.asked == []
    _is_on(gallery, OLD, PEOPLE, [model])


def test_other_collections_stay_on_their_model(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    gallery.put_collection("gate", KEEPING_CROPS, OLD)
    gallery.enrol("gate", OLD.contract_id, "Zoe", [_face(9)])

    _change(gallery, NEW)

    assert gallery.collection("gate").model == OLD
    assert gallery.search("gate", OLD.contract_id, _vector((9).to_bytes(4), OLD), 5)[0][0].subject == "Zoe"
    assert gallery.coverage("gate", NEW.contract_id) == Coverage(1, 1, 0)


def test_the_last_faces_are_embedded_while_the_model_is_changed(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    _cover(gallery, NEW, chunk=4, most=4)
    network = Network(NEW)

    assert gallery.switch("lab", NEW, network)

    assert [int.from_bytes(each.crop) for each in network.asked] == [5, 6]
    _is_on(gallery, NEW, PEOPLE, [OLD])


def test_as_many_as_may_be_waited_for_are_embedded_inside_and_one_more_changes_nothing(gallery: Gallery) -> None:
    people = {"Ann": range(1, LAST + 2)}
    _enrol(gallery, people)
    network = Network(NEW)

    assert not gallery.switch("lab", NEW, network)

    assert network.asked == []
    _is_on(gallery, OLD, people, [NEW])
    assert gallery.coverage("lab", NEW.contract_id).missing == LAST + 1
    assert gallery.audit.page(None, 1)[0]["event"] == "enrol"
    _cover(gallery, NEW, chunk=1, most=1)
    assert gallery.switch("lab", NEW, network)
    assert len(network.asked) == LAST
    _is_on(gallery, NEW, people, [OLD])


def test_a_face_without_a_crop_forbids_a_switch_until_it_is_erased(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    gallery.enrol("lab", OLD.contract_id, "Dan", [new_face(units(1, 1)[0])])
    _cover(gallery, NEW)

    assert not gallery.switch("lab", NEW, Network(NEW))

    assert gallery.collection("lab").model == OLD
    gallery.erase("lab", "Dan")
    assert gallery.switch("lab", NEW, Network(NEW))
    _is_on(gallery, NEW, PEOPLE, [OLD])


def test_an_empty_collection_changes_its_model_as_well(gallery: Gallery) -> None:
    assert gallery.switch("lab", NEW, Network(NEW))
    assert gallery.search("lab", NEW.contract_id, _vector(b"probe", NEW), 5) == ([], 0)
    _enrol(gallery, PEOPLE, NEW)
    _is_on(gallery, NEW, PEOPLE, [OLD])
    _change(gallery, OLD)
    _is_on(gallery, OLD, PEOPLE, [NEW])


def test_a_network_that_fails_changes_nothing(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    _cover(gallery, NEW, chunk=4, most=4)

    def broken(crops: Sequence[StoredCrop]) -> list[np.ndarray]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        gallery.switch("lab", NEW, broken)

    _is_on(gallery, OLD, PEOPLE, [NEW])
    with pytest.raises(ValueError, match="shorter"):
        gallery.switch("lab", NEW, lambda crops: [])
    _is_on(gallery, OLD, PEOPLE, [NEW])
    assert gallery.switch("lab", NEW, Network(NEW))
    _is_on(gallery, NEW, PEOPLE, [OLD])


def test_another_model_of_the_same_contract_needs_no_vectors(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    gallery.enrol("lab", OLD.contract_id, "Dan", [new_face(units(1, 1)[0])])  # without a crop
    other = replace(OLD, id="the same network, compressed")

    assert gallery.switch("lab", other, Network(other))

    assert gallery.collection("lab").model == other
    assert gallery.size("lab") == 7
    assert gallery.search("lab", OLD.contract_id, _vector((4).to_bytes(4), OLD), 1)[0][0].subject == "Bob"


def test_who_was_enrolled_after_a_switch_is_there_after_the_way_back(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    _change(gallery, NEW)
    _enrol(gallery, {"Dan": [7, 8], "Bob": [9]}, NEW)
    everybody = {**PEOPLE, "Bob": [4, 9], "Dan": [7, 8]}
    _is_on(gallery, NEW, everybody, [OLD])
    assert gallery.coverage("lab", OLD.contract_id) == Coverage(9, 3, 0)
    assert _cover(gallery, OLD, chunk=1, most=1) == 1
    network = Network(OLD)

    assert gallery.switch("lab", OLD, network)

    assert [int.from_bytes(each.crop) for each in network.asked] == [8, 9]
    _is_on(gallery, OLD, everybody, [NEW])
    assert gallery.switch("lab", NEW, Network(NEW))
    _is_on(gallery, NEW, everybody, [OLD])


def test_three_models_one_after_another(gallery: Gallery) -> None:
    people: dict[str, Sequence[int]] = dict(PEOPLE)
    _enrol(gallery, PEOPLE)
    for number, model in enumerate([NEW, THIRD, OLD, THIRD, NEW, OLD]):
        _change(gallery, model)
        people[f"person {number}"] = [100 + number]
        _enrol(gallery, {f"person {number}": [100 + number]}, model)
        _is_on(gallery, model, people, [each for each in (OLD, NEW, THIRD) if each != model])


# --- erasing


def test_a_face_or_person_that_is_erased_is_gone_under_every_contract(gallery: Gallery) -> None:
    ids = _enrol(gallery, PEOPLE)
    _change(gallery, NEW)
    more = _enrol(gallery, {"Dan": [7]}, NEW)
    _cover(gallery, OLD)
    _cover(gallery, THIRD)

    gallery.erase("lab", "Ann", ids["Ann"][0])
    gallery.erase("lab", "Cid")
    gallery.erase("lab", "Dan", more["Dan"][0])

    left = {"Ann": [2, 3], "Bob": [4], "Dan": []}
    for model, others in ((NEW, [OLD, THIRD]), (OLD, [NEW, THIRD]), (THIRD, [OLD, NEW])):
        assert gallery.switch("lab", model, Network(model))
        _is_on(gallery, model, left, others)


def test_who_expires_is_gone_under_every_contract(gallery: Gallery) -> None:
    gallery.put_collection("lab", replace(KEEPING_CROPS, retention_days=10), OLD)
    _enrol(gallery, PEOPLE)
    _change(gallery, NEW)
    _enrol(gallery, {"Dan": [7]}, NEW)

    assert gallery.erase_expired(datetime.now(UTC) + timedelta(days=11)) == 7

    assert gallery.size("lab") == 0
    assert gallery.search("lab", NEW.contract_id, _vector(b"probe", NEW), 5) == ([], 0)
    assert gallery.switch("lab", OLD, Network(OLD))
    assert gallery.search("lab", OLD.contract_id, _vector(b"probe", OLD), 5) == ([], 0)
    _enrol(gallery, PEOPLE)
    _is_on(gallery, OLD, PEOPLE, [NEW])


def test_an_erased_collection_begins_anew_with_any_model(gallery: Gallery) -> None:
    ids = _enrol(gallery, PEOPLE)
    _change(gallery, NEW)
    more = _enrol(gallery, {"Dan": [7]}, NEW)

    assert sorted(gallery.erase("lab").face_ids) == sorted(
        face for each in (ids, more) for f in each.values() for face in f
    )

    with pytest.raises(NotFoundError):
        gallery.coverage("lab", NEW.contract_id)
    gallery.put_collection("lab", KEEPING_CROPS, THIRD)
    _enrol(gallery, {"Ann": [1]}, THIRD)
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(1, 1, 0)
    _change(gallery, OLD)
    _is_on(gallery, OLD, {"Ann": [1]}, [THIRD])


def test_no_vector_of_anybody_who_was_erased_is_left_in_the_tables(engine: Engine) -> None:
    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        ids = _enrol(gallery, PEOPLE)
        _cover(gallery, NEW)
        _change(gallery, THIRD)
        assert _rows_of_vectors(engine, gallery) == 18
        gallery.erase("lab", "Ann", ids["Ann"][0])
        assert _rows_of_vectors(engine, gallery) == 15
        gallery.erase("lab", "Ann")
        assert _rows_of_vectors(engine, gallery) == 9
        gallery.erase("lab")
        assert _rows_of_vectors(engine, gallery) == 0


@pytest.mark.parametrize("contract", [OLD.contract_id, THIRD.contract_id], ids=["enrolled with", "made since"])
def test_a_check_reads_the_vectors_of_other_models_too(engine: Engine, contract: str) -> None:
    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
        _cover(gallery, THIRD)
        _change(gallery, NEW)
        assert list(gallery._records.check()) == [("lab", 6)]  # type: ignore[attr-defined]

        _swap_two_vectors(engine, gallery, contract)

        with pytest.raises(StorageError):
            list(gallery._records.check())  # type: ignore[attr-defined]


def _swap_two_vectors(engine: Engine, gallery: Gallery, contract: str) -> None:
    """What somebody could do who may write the file and has no key."""
    first = contract == OLD.contract_id
    if isinstance(engine, Postgres):
        place = engine.execute(f"SELECT collection, place FROM facesphere.contracts WHERE contract_id = '{contract}'")[
            0
        ]
        table = "facesphere.faces_{}".format(*place) if first else "facesphere.vectors_{}_{}".format(*place)
        engine.execute(f"UPDATE {table} SET vector = (SELECT vector FROM {table} ORDER BY id DESC LIMIT 1)")
        return
    table, where = ("faces", "") if first else ("vectors", f"WHERE contract_id = '{contract}'")
    database = gallery._database  # type: ignore[attr-defined]
    with database.transaction():
        database.write(
            f"UPDATE {table} SET vector = (SELECT vector FROM {table} {where} ORDER BY rowid DESC LIMIT 1) {where}"
        )


def _rows_of_vectors(engine: Engine, gallery: Gallery) -> int:
    """Vectors that are kept under any contract."""
    if isinstance(engine, Postgres):
        tables = engine.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND (relname LIKE 'vectors%' OR relname LIKE 'faces%')"
            " AND relnamespace = 'facesphere'::regnamespace"
        )
        return sum(int(str(engine.execute(f"SELECT count(vector) FROM {name}")[0][0])) for (name,) in tables)
    database = gallery._database  # type: ignore[attr-defined]
    return int(database.one("SELECT (SELECT count(*) FROM faces) + (SELECT count(*) FROM vectors)")[0])


def test_an_export_tells_the_vectors_of_the_model_that_is_used(gallery: Gallery) -> None:
    ids = _enrol(gallery, PEOPLE)
    _change(gallery, NEW)
    ids["Ann"] += _enrol(gallery, {"Ann": [7]}, NEW)["Ann"]

    for model in (NEW, OLD):
        _change(gallery, model)
        other = OLD if model == NEW else NEW
        document = gallery.export("lab", "Ann")
        assert {contract: set(each) for contract, each in document.others.items()} == {
            other.contract_id: {
                face for number, face in zip([1, 2, 3, 7], ids["Ann"], strict=True) if number < 7 or model == OLD
            }
        }
        np.testing.assert_array_equal(
            document.others[other.contract_id][ids["Ann"][0]], _vector((1).to_bytes(4), other)
        )
        assert (document.model, [face.face_id for face in document.subject.faces]) == (model, ids["Ann"])
        assert list(document.vectors) == ids["Ann"]
        for number, face in zip([1, 2, 3, 7], ids["Ann"], strict=True):
            np.testing.assert_array_equal(document.vectors[face], _vector(number.to_bytes(4), model))
            assert document.crops[face] == number.to_bytes(4)


# --- forgetting contracts


def test_contracts_that_are_not_kept_are_forgotten_and_what_a_face_was_enrolled_with_stays(gallery: Gallery) -> None:
    _enrol(gallery, PEOPLE)
    _cover(gallery, THIRD)
    _change(gallery, NEW)
    _enrol(gallery, {"Dan": [7]}, NEW)
    _cover(gallery, OLD)
    _cover(gallery, THIRD)

    gallery.keep_contracts("lab", [THIRD.contract_id])

    assert gallery.coverage("lab", THIRD.contract_id) == Coverage(7, 0, 0)
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(7, 0, 0)
    assert gallery.coverage("lab", OLD.contract_id) == Coverage(7, 1, 0)  # all but Dan were enrolled with it
    gallery.keep_contracts("lab", [])
    gallery.keep_contracts("lab", [])
    assert gallery.coverage("lab", THIRD.contract_id) == Coverage(7, 7, 0)
    everybody = {**PEOPLE, "Dan": [7]}
    _is_on(gallery, NEW, everybody, [OLD, THIRD])
    assert gallery.switch("lab", OLD, Network(OLD))
    gallery.keep_contracts("lab", [])
    assert gallery.coverage("lab", NEW.contract_id) == Coverage(7, 6, 0)  # Dan was enrolled with it
    _is_on(gallery, OLD, everybody, [NEW])
    _change(gallery, NEW)
    _change(gallery, THIRD)
    _is_on(gallery, THIRD, everybody, [OLD, NEW])


# --- reopening


@pytest.mark.parametrize("snapshot", [False, True], ids=["without snapshots", "with snapshots"])
def test_a_gallery_that_is_opened_again_is_where_it_was(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, snapshot: bool
) -> None:
    if snapshot:
        monkeypatch.setattr(snapshots, "FROM_FACES", 1)
    people: dict[str, Sequence[int]] = dict(PEOPLE)

    def cover_some(gallery: Gallery) -> None:
        _cover(gallery, NEW, chunk=4, most=4)

    def switch_to(model: ModelInfo) -> Callable[[Gallery], None]:
        return lambda gallery: _change(gallery, model)

    def enrol_more(gallery: Gallery) -> None:
        people["Dan"] = [7, 8]
        _enrol(gallery, {"Dan": [7, 8]}, gallery.collection("lab").model)

    def erase_one(gallery: Gallery) -> None:
        del people["Bob"]
        gallery.erase("lab", "Bob")

    def forget(gallery: Gallery) -> None:
        gallery.keep_contracts("lab", [])

    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
    model = OLD
    for step, becomes in (
        (cover_some, OLD),
        (switch_to(NEW), NEW),
        (enrol_more, NEW),
        (erase_one, NEW),
        (switch_to(THIRD), THIRD),
        (switch_to(OLD), OLD),
        (forget, OLD),
        (switch_to(NEW), NEW),
    ):
        for crash in (False, True):
            gallery = engine.open()
            try:
                _is_on(gallery, model, people, [each for each in (OLD, NEW, THIRD) if each != model])
                if crash:
                    step(gallery)
                    model = becomes
                    gallery.tidy()
                    gallery = engine.crash(gallery)
                    _is_on(gallery, model, people, [each for each in (OLD, NEW, THIRD) if each != model])
            finally:
                gallery.close()


def test_a_snapshot_of_the_model_before_is_not_taken_for_one_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had come back from a copy of the folder."""
    monkeypatch.setattr(snapshots, "FROM_FACES", 1)
    engine = Embedded(tmp_path)
    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
    (file,) = (tmp_path / "data" / "index").iterdir()
    kept = file.read_bytes()
    with closing(engine.open()) as gallery:
        _change(gallery, THIRD)
        assert not file.exists()
    file.write_bytes(kept)

    with closing(engine.open()) as gallery:
        _is_on(gallery, THIRD, PEOPLE, [OLD])


def test_a_snapshot_stays_when_only_the_name_of_the_model_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "FROM_FACES", 1)
    engine, renamed = Embedded(tmp_path), replace(OLD, id="the same network, compressed")
    with closing(engine.open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
        gallery.tidy()
        (file,) = (tmp_path / "data" / "index").iterdir()
        assert isinstance(gallery, EmbeddedGallery)

        with gallery._snapshots._turn:  # while one is being written: it is not waited for, and not given up
            assert gallery.switch("lab", renamed, Network(renamed))

        assert file.exists()
    with closing(engine.open()) as gallery:
        _is_on(gallery, renamed, PEOPLE, [NEW])


def test_an_index_that_is_dropped_while_the_model_is_being_changed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Embedded(tmp_path).open()) as gallery:
        assert isinstance(gallery, EmbeddedGallery)
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
        _cover(gallery, NEW)
        make = gallery._index_other
        turns = iter([lambda: gallery.keep_contracts("lab", [])])

        def make_and_lose(collection: str, model: ModelInfo) -> None:
            make(collection, model)
            next(turns, lambda: None)()

        monkeypatch.setattr(gallery, "_index_other", make_and_lose)

        assert gallery.switch("lab", NEW, Network(NEW))

        _is_on(gallery, NEW, PEOPLE, [OLD])


def test_an_index_that_is_being_made_is_given_up_when_the_program_is_to_end(tmp_path: Path) -> None:
    with closing(Embedded(tmp_path).open()) as gallery:
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
        _cover(gallery, NEW)

        gallery.give_up()

        with pytest.raises(GalleryUnavailableError):
            gallery.switch("lab", NEW, Network(NEW))
        _is_on(gallery, OLD, PEOPLE, [NEW])


def test_faces_covered_while_their_index_is_being_made_are_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Embedded(tmp_path).open()) as gallery:
        assert isinstance(gallery, EmbeddedGallery)
        gallery.put_collection("lab", KEEPING_CROPS, OLD)
        _enrol(gallery, PEOPLE)
        crops = gallery.uncovered("lab", NEW.contract_id, 0, 100)
        gallery.cover("lab", NEW, {crops[-1].face_id: _vector(crops[-1].crop, NEW)})
        read = gallery._records.vectors_under

        def read_and_cover(collection: str, model: ModelInfo, after: int, limit: int) -> object:
            if after:
                gallery._records.cover("lab", NEW, {each.face_id: _vector(each.crop, NEW) for each in crops})
            return read(collection, model, after, limit)

        monkeypatch.setattr(gallery._records, "vectors_under", read_and_cover)

        assert gallery.switch("lab", NEW, Network(NEW))

        _is_on(gallery, NEW, PEOPLE, [OLD])


# --- several threads


def test_answers_beside_switches_are_of_the_model_that_was_asked_for_and_nobody_is_lost(gallery: Gallery) -> None:
    """Between two models of different dimension, back and forth, with people who come, go and are looked for."""
    models = (OLD, NEW)
    numbers = {f"person {number}": number for number in range(1, 31)}
    _enrol(gallery, {name: [number] for name, number in numbers.items()})
    stop, lock = threading.Event(), threading.Lock()
    errors: list[BaseException] = []
    answers = {model.contract_id: 0 for model in models}
    refused = [0]

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
                stop.set()

        return threading.Thread(target=run)

    def switch() -> None:
        try:
            for turn in range(100):
                model = models[(turn + 1) % 2]
                while not stop.is_set() and not gallery.switch("lab", model, Network(model)):
                    _cover(gallery, model, chunk=50)
                if turn % 10 == 9:
                    gallery.keep_contracts("lab", [])
                if stop.is_set():
                    return
        finally:
            stop.set()

    def search(worker: int) -> None:
        turn = worker
        while not stop.is_set():
            turn += 1
            model, number = models[turn % 2], 1 + turn % 20
            try:
                probe = _vector(number.to_bytes(4), model)
                found, _ = gallery.search("lab", model.contract_id, probe, 10)
                own = gallery.vectors_of("lab", model.contract_id, f"person {number}")
            except ContractMismatchError:
                refused[0] += 1
                continue
            answers[model.contract_id] += 1
            assert found[0].subject == f"person {number}"
            for match in found:
                expected = float(_vector(_number(match.subject).to_bytes(4), model) @ probe)
                assert match.similarity == pytest.approx(expected, abs=1e-5)
            np.testing.assert_array_equal(own[0][1], probe)

    def _number(subject: str) -> int:
        return int(subject.split()[1])

    def enrol(worker: int) -> None:
        number, turn = 1000 * worker, 0
        while not stop.is_set():
            turn += 1
            model = models[turn % 2]
            try:
                gallery.enrol("lab", model.contract_id, f"person {number}", [_face(number, model)])
            except ContractMismatchError:
                continue
            with lock:
                numbers[f"person {number}"] = number
            number += 1
            if turn % 5 == 0:
                gallery.erase("lab", f"person {number - 1}")
                with lock:
                    del numbers[f"person {number - 1}"]

    threads = [guarded(switch), *(guarded(lambda w=w: search(w)) for w in range(2))]
    threads += [guarded(lambda w=w: enrol(w)) for w in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert min(answers.values()) > 0
    people = {name: [number] for name, number in numbers.items()}
    for model, other in (models, models[::-1]):
        _change(gallery, model)
        found, size = gallery.search("lab", model.contract_id, _vector(b"probe", model), len(people) + 10)
        assert {match.subject for match in found} == set(people)
        assert size == len(people)
        for name, (number,) in people.items():
            ((_, vector),) = gallery.vectors_of("lab", model.contract_id, name)
            np.testing.assert_array_equal(vector, _vector(number.to_bytes(4), model))
        with pytest.raises(ContractMismatchError):
            gallery.search("lab", other.contract_id, _vector(b"probe", other), 1)
