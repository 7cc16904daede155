"""Several photos in one run of the detector: each gets what it would have got alone."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from live_server import wait_until
from photos import astronaut

from models.bundle import Bundle
from models.preprocess import Vectors
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.crew import Crew
from service.inference.detector import Detector
from service.inference.looks import SharedLooks

WAIT_S = 60


class Watched(Session):
    """A session that remembers the shapes that it ran, and can be held."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle.model_path, SessionOptions("cpu", free_batch=True))
        self.shapes: list[tuple[int, ...]] = []
        self.begun = threading.Semaphore(0)
        self.may_run = threading.Event()
        self.may_run.set()

    def run(self, batch: Vectors) -> dict[str, Vectors]:
        self.begun.release()
        assert self.may_run.wait(WAIT_S)
        self.shapes.append(batch.shape)
        return super().run(batch)


@pytest.fixture(scope="module")
def bundle(registry: Registry) -> Bundle:
    return registry.resolve("detector")


@pytest.fixture
def crew() -> Iterator[Crew]:
    threads = Crew("network", 1)
    yield threads
    threads.close()


def _photos() -> list[Vectors]:
    rng = np.random.default_rng(3)
    shapes = [(64, 96), (96, 64), (64, 96), (32, 32), (64, 96)]
    return [rng.uniform(0, 255, (1, 3, *shape)).astype(np.float32) for shape in shapes]


def test_a_graph_that_takes_one_photo_takes_several_and_finds_the_same(bundle: Bundle) -> None:
    alone = Session(bundle.model_path, SessionOptions("cpu"))
    together = Session(bundle.model_path, SessionOptions("cpu", free_batch=True))
    assert (alone.fixed_batch, together.fixed_batch) == (1, None)
    photos = [photo for photo in _photos() if photo.shape == (1, 3, 64, 96)]
    found = together.run(np.concatenate(photos))
    for number, photo in enumerate(photos):
        for name, values in alone.run(photo).items():
            np.testing.assert_allclose(found[name][number : number + 1], values, rtol=1e-4, atol=1e-5)


def test_photos_that_wait_are_run_together_by_shape_and_each_gets_its_own(bundle: Bundle, crew: Crew) -> None:
    session, alone = Watched(bundle), Session(bundle.model_path, SessionOptions("cpu"))
    looks = SharedLooks(session, crew, max_batch=8)
    session.may_run.clear()
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(looks.run, _photos()[3])
        assert session.begun.acquire(timeout=WAIT_S)
        others = [threads.submit(looks.run, photo) for photo in _photos()]
        wait_until(lambda: looks.waiting == len(others))
        session.may_run.set()
        found = [each.result(WAIT_S) for each in others]
        first.result(WAIT_S)
    assert session.shapes[0] == (1, 3, 32, 32)
    assert sorted(session.shapes[1:]) == [(1, 3, 32, 32), (1, 3, 96, 64), (3, 3, 64, 96)]
    for photo, ours in zip(_photos(), found, strict=True):
        for name, values in alone.run(photo).items():
            np.testing.assert_allclose(ours[name], values, rtol=1e-4, atol=1e-5)


def test_a_photo_that_fails_fails_alone(bundle: Bundle, crew: Crew) -> None:
    looks = SharedLooks(Session(bundle.model_path, SessionOptions("cpu", free_batch=True)), crew, max_batch=8)
    good, bad = _photos()[0], np.zeros((1, 4, 64, 96), np.float32)
    with ThreadPoolExecutor(6) as threads:
        found = [threads.submit(looks.run, photo) for photo in (good, bad, good, bad, good)]
        assert [each.exception(WAIT_S) is not None for each in found] == [False, True, False, True, False]


def test_a_detector_finds_the_same_faces_whoever_runs_its_network(bundle: Bundle, crew: Crew) -> None:
    photos = [astronaut(), astronaut()[:400], np.tile(astronaut(), (2, 2, 1))]
    spec = bundle.manifest.input
    alone = Detector(Session(bundle.model_path, SessionOptions("cpu")), spec)
    shared = Detector(session := Watched(bundle), spec)
    shared.run_by(SharedLooks(session, crew, max_batch=8).run)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(shared.detect, photos * 2))
    for photo, ours in zip(photos * 2, found, strict=True):
        theirs = alone.detect(photo)
        assert len(ours) == len(theirs) >= 1
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.05)
        np.testing.assert_allclose(ours.landmarks, theirs.landmarks, atol=0.05)


def test_a_detector_that_looks_at_squares_finds_the_same_faces(bundle: Bundle, crew: Crew) -> None:
    # A face that ends where the photo does is seen a little otherwise with more black beside it.
    photos = [(astronaut(), 0.05), (np.tile(astronaut(), (2, 2, 1)), 0.05), (astronaut()[30:200, 150:320], 0.6)]
    spec = bundle.manifest.input
    alone = Detector(Session(bundle.model_path, SessionOptions("cpu")), spec)
    session = Watched(bundle)
    session.device = "cuda"
    squares = Detector(session, spec)
    squares.run_by(SharedLooks(session, crew, max_batch=8).run)
    for photo, pixels in photos:
        ours, theirs = squares.detect(photo), alone.detect(photo)
        assert len(ours) == len(theirs) >= 1
        np.testing.assert_allclose(ours.landmarks, theirs.landmarks, atol=pixels)
    assert {shape[2:] for shape in session.shapes} == {(320, 320), (640, 640)}


def test_what_is_warmed_is_all_that_a_device_is_ever_given(bundle: Bundle, crew: Crew) -> None:
    session = Watched(bundle)
    session.device = "cuda"
    looks = SharedLooks(session, crew, max_batch=8)
    looks.warm_up((64, 96))
    warmed = set(session.shapes)
    assert warmed == {(size, 3, side, side) for size in (1, 4, 8) for side in (64, 96)}
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda side: looks.run(np.zeros((1, 3, side, side), np.float32)), (64, 96) * 20))
    assert set(session.shapes) <= warmed


def test_photos_that_are_large_go_one_by_one(bundle: Bundle, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Watched(bundle)
    large = np.zeros((1, 3, 96, 96), np.float32)
    monkeypatch.setattr("service.inference.looks._MOST_BYTES", large.nbytes)
    looks = SharedLooks(session, crew, max_batch=8)
    session.may_run.clear()
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(looks.run, large)
        assert session.begun.acquire(timeout=WAIT_S)  # before the others come: it might be taken with one of them
        others = [threads.submit(looks.run, large) for _ in range(5)]
        wait_until(lambda: looks.waiting == len(others))
        session.may_run.set()
        assert all(each.result(WAIT_S) for each in (first, *others))
    assert session.shapes == [(1, 3, 96, 96)] * 6
