"""Any history of calls against a model of three dictionaries: same answers, before and after a restart."""

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

from service.domain import CollectionSettings
from service.errors import NotFoundError
from service.gallery import snapshots

COLLECTIONS = st.sampled_from(["lab", "gate"])
PEOPLE = st.sampled_from(["Ann", "Bob", "Cid", "Zoë"])
VECTORS = units(5, 60)


class GalleryModel(RuleBasedStateMachine):
    """`people`: by collection and name, face_id to vector."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.people: dict[str, dict[str, dict[str, np.ndarray]]] = {}

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
        _, created = self.gallery.put_collection(name, CollectionSettings(purpose), MODEL)
        assert created == (name not in self.people)
        self.people.setdefault(name, {})

    @rule(name=COLLECTIONS, person=PEOPLE, chosen=st.lists(st.integers(0, 59), min_size=1, max_size=3))
    def enrol(self, name: str, person: str, chosen: list[int]) -> None:
        faces = [new_face(VECTORS[number]) for number in chosen]
        if name not in self.people:
            with pytest.raises(NotFoundError):
                self.gallery.enrol(name, MODEL.contract_id, person, faces)
            return
        stored = self.gallery.enrol(name, MODEL.contract_id, person, faces)
        new = {face.face_id: VECTORS[number] for face, number in zip(stored, chosen, strict=True)}
        self.people[name].setdefault(person, {}).update(new)

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
            found, size = self.gallery.search(name, MODEL.contract_id, VECTORS[probe], limit)
            best = {
                person: max(float(vector @ VECTORS[probe]) for vector in faces.values())
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
        with suppress(NotFoundError):
            for face_id, vector in self.gallery.vectors_of("lab", MODEL.contract_id, "Ann"):
                np.testing.assert_array_equal(vector, self.people["lab"]["Ann"][face_id])
                assert vector.shape == (DIMENSION,)


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


@pytest.mark.parametrize("examples", [25, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_the_same_histories_of_calls_give_them_in_postgresql(cluster: Cluster, examples: int) -> None:
    class PostgresModel(GalleryModel):
        def engine_in(self, folder: Path) -> Engine:
            return Postgres(folder, cluster)

    run_state_machine_as_test(PostgresModel, settings=_histories(examples))
