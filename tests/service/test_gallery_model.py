"""Any history of calls against a model of three dictionaries: same answers, before and after a restart."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolment import DIMENSION, MODEL, new_face, units
from galleries import keys_of, open_gallery
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.domain import CollectionSettings
from service.errors import NotFoundError
from service.gallery import snapshots
from service.gallery.embedded import EmbeddedGallery

COLLECTIONS = st.sampled_from(["lab", "gate"])
PEOPLE = st.sampled_from(["Ann", "Bob", "Cid", "Zoë"])
VECTORS = units(5, 60)


class GalleryModel(RuleBasedStateMachine):
    """`people`: by collection and name, face_id to vector."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.people: dict[str, dict[str, dict[str, np.ndarray]]] = {}

    @initialize()
    def begin(self) -> None:
        self.threshold, snapshots.FROM_FACES = snapshots.FROM_FACES, 1
        self.path = Path(self.folder.name) / "data"
        self.gallery = open_gallery(self.path)

    def teardown(self) -> None:
        if hasattr(self, "gallery"):
            self.gallery.close()
            snapshots.FROM_FACES = self.threshold
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
    def write_snapshots(self) -> None:
        self.gallery.write_snapshots()

    @rule()
    def restart(self) -> None:
        self.gallery.close()
        self.gallery = open_gallery(self.path)

    @rule()
    def kill(self) -> None:
        """The files as they are now, opened by another program, without a word of goodbye from this one."""
        self.gallery._lock_file.close()
        self.gallery = EmbeddedGallery(self.path, keys_of(self.path))

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


GalleryModel.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
test_any_history_of_calls_gives_the_answers_of_the_model = GalleryModel.TestCase
