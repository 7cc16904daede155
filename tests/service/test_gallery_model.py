"""Any history of calls against a model of a few dictionaries: same answers, before and after a restart."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import Embedded, Engine, Postgres
from enrolment import DIMENSION, MODEL, new_face, units
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from postgres_server import Cluster

from service.domain import CollectionSettings, Coverage, ModelInfo, NewFace
from service.errors import ContractMismatchError, NotFoundError
from service.gallery import snapshots

COLLECTIONS = st.sampled_from(["lab", "gate"])
PEOPLE = st.sampled_from(["Ann", "Bob", "Cid", "Zoë"])
MODELS = {
    model.id: model for model in (MODEL, ModelInfo("wide", "1" * 16, 24), ModelInfo("same size", "2" * 16, DIMENSION))
}
VECTORS = {name: units(5 + place, 60, model.dimension) for place, (name, model) in enumerate(MODELS.items())}
NAMES = st.sampled_from(sorted(MODELS))


class GalleryModel(RuleBasedStateMachine):
    """`people`: by collection and name, face_id to the number of a photo, of which each model makes a vector. `models`:
    which one a collection is on; `covered`: by collection and model, which faces have a vector; `enrolled`: the model
    that a face was enrolled with."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.people: dict[str, dict[str, dict[str, int]]] = {}
        self.models: dict[str, ModelInfo] = {}
        self.covered: dict[str, dict[str, set[str]]] = {}
        self.enrolled: dict[str, str] = {}

    def engine_in(self, folder: Path) -> Engine:
        """A place for an empty gallery."""
        return Embedded(folder)

    @initialize()
    def begin(self) -> None:
        self.threshold, snapshots.FROM_FACES = snapshots.FROM_FACES, 1
        self.engine = self.engine_in(Path(self.folder.name))
        self.gallery = self.engine.open()

    def teardown(self) -> None:
        if hasattr(self, "gallery"):
            self.gallery.close()
            snapshots.FROM_FACES = self.threshold
            self.engine.remove()
        self.folder.cleanup()

    @rule(name=COLLECTIONS, purpose=st.sampled_from(["door", "till"]))
    def put(self, name: str, purpose: str) -> None:
        settings = CollectionSettings(purpose, store_crops=True)
        _, created = self.gallery.put_collection(name, settings, MODEL)
        assert created == (name not in self.people)
        if created:
            self.people[name], self.models[name], self.covered[name] = {}, MODEL, {each: set() for each in MODELS}

    @rule(name=COLLECTIONS, person=PEOPLE, chosen=st.lists(st.integers(0, 59), min_size=1, max_size=3), named=NAMES)
    def enrol(self, name: str, person: str, chosen: list[int], named: str) -> None:
        model = self.models.get(name, MODEL)
        if name not in self.people:
            with pytest.raises(NotFoundError):
                self.gallery.enrol(name, model.contract_id, person, _faces(chosen, model))
            return
        if model.id != named:
            with pytest.raises(ContractMismatchError):
                self.gallery.enrol(name, MODELS[named].contract_id, person, _faces(chosen, MODELS[named]))
        stored = self.gallery.enrol(name, model.contract_id, person, _faces(chosen, model))
        new = {face.face_id: number for face, number in zip(stored, chosen, strict=True)}
        self.people[name].setdefault(person, {}).update(new)
        self.covered[name][model.id] |= set(new)
        self.enrolled |= dict.fromkeys(new, model.id)

    @precondition(lambda self: self.people)
    @rule(name=COLLECTIONS, named=NAMES, limit=st.integers(1, 8))
    def cover(self, name: str, named: str, limit: int) -> None:
        if name in self.people:
            crops = self.gallery.uncovered(name, MODELS[named].contract_id, 0, limit)
            assert len(crops) == min(limit, len(self._faces_of(name)) - len(self._covered(name, named)))
            self.gallery.cover(name, MODELS[named], {each.face_id: VECTORS[named][each.crop[0]] for each in crops})
            self.covered[name][named] |= {each.face_id for each in crops}

    @precondition(lambda self: self.people)
    @rule(name=COLLECTIONS, named=NAMES)
    def switch(self, name: str, named: str) -> None:
        if name in self.people:
            model = MODELS[named]
            assert self.gallery.switch(name, model, lambda crops: [VECTORS[named][each.crop[0]] for each in crops])
            self.models[name] = model
            self.covered[name][named] |= set(self._faces_of(name))

    @precondition(lambda self: self.people)
    @rule(name=COLLECTIONS, kept=st.sets(NAMES, max_size=2))
    def keep_contracts(self, name: str, kept: set[str]) -> None:
        if name in self.people:
            self.gallery.keep_contracts(name, [MODELS[each].contract_id for each in kept])
            for model, faces in self.covered[name].items():
                if model not in {*kept, self.models[name].id}:
                    faces &= {face for face, by in self.enrolled.items() if by == model}

    @rule(name=COLLECTIONS, person=PEOPLE)
    def erase_person(self, name: str, person: str) -> None:
        self._erase(self.people.get(name, {}), person, name, person)

    @rule(name=COLLECTIONS)
    def erase_collection(self, name: str) -> None:
        self._erase(self.people, name, name)

    @rule(name=COLLECTIONS, person=PEOPLE, place=st.integers(0, 5))
    def erase_face(self, name: str, person: str, place: int) -> None:
        faces = self.people.get(name, {}).get(person, {})
        face_id = sorted(faces)[place % len(faces)] if faces else "f" * 32
        self._erase(faces, face_id, name, person, face_id)

    def _erase(self, among: dict[str, Any], key: str, *names: str) -> None:
        if key in among:
            self.gallery.erase(*names)
            del among[key]
        else:
            with pytest.raises(NotFoundError):
                self.gallery.erase(*names)

    @precondition(lambda self: self.people)
    @rule(probe=st.integers(0, 59), limit=st.integers(1, 5))
    def search(self, probe: int, limit: int) -> None:
        for name, people in self.people.items():
            model, vectors = self.models[name], VECTORS[self.models[name].id]
            found, size = self.gallery.search(name, model.contract_id, vectors[probe], limit)
            best = {
                person: max(float(vectors[number] @ vectors[probe]) for number in faces.values())
                for person, faces in people.items()
                if faces
            }
            assert size == sum(len(faces) for faces in people.values())
            assert [match.similarity for match in found] == pytest.approx(sorted(best.values())[::-1][:limit], abs=1e-5)
            for match in found:
                assert match.similarity == pytest.approx(best[match.subject], abs=1e-5)
                assert match.face_id in people[match.subject]

    @rule()
    def tidy(self) -> None:
        self.gallery.tidy()

    @rule()
    def restart(self) -> None:
        self.gallery.close()
        self.gallery = self.engine.open()

    @rule()
    def crash(self) -> None:
        self.gallery = self.engine.crash(self.gallery)

    @invariant()
    def the_records_are_those_of_the_model(self) -> None:
        if not hasattr(self, "gallery"):
            return
        assert [each.name for each in self.gallery.collections()] == sorted(self.people)
        for name, people in self.people.items():
            assert {each.name: each.faces for each in self.gallery.subjects(name, "", 100).subjects} == {
                person: len(faces) for person, faces in people.items()
            }
            model = self.models[name]
            assert self.gallery.collection(name).model == model
            for each in MODELS.values():
                faces, covered = len(self._faces_of(name)), len(self._covered(name, each.id))
                assert self.gallery.coverage(name, each.contract_id) == Coverage(faces, faces - covered, 0)
            with suppress(NotFoundError):
                for face_id, vector in self.gallery.vectors_of(name, model.contract_id, "Ann"):
                    np.testing.assert_array_equal(vector, VECTORS[model.id][people["Ann"][face_id]])

    def _faces_of(self, name: str) -> list[str]:
        return [face for faces in self.people[name].values() for face in faces]

    def _covered(self, name: str, model: str) -> set[str]:
        return self.covered[name][model] & set(self._faces_of(name))


def _faces(chosen: list[int], model: ModelInfo) -> list[NewFace]:
    return [new_face(VECTORS[model.id][number], crop=bytes([number])) for number in chosen]


def _histories(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_any_history_of_calls_gives_the_answers_of_the_model() -> None:
    run_state_machine_as_test(GalleryModel, settings=_histories(25))


@pytest.mark.parametrize("examples", [12, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_the_same_histories_of_calls_give_them_in_postgresql(cluster: Cluster, examples: int) -> None:
    class PostgresModel(GalleryModel):
        def engine_in(self, folder: Path) -> Engine:
            return Postgres(folder, cluster)

    run_state_machine_as_test(PostgresModel, settings=_histories(examples))
