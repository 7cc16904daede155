"""The event loop goes on turning while photos are decoded, searched, aligned and embedded."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from models.image import ImageLimits, Pixels
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.domain import Vector
from service.faces import Faces
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import Crew
from service.inference.detector import Detector
from service.inference.embedder import Embedder
from service.inference.finder import FaceFinder
from service.inference.pool import PhotoPool

WAIT_S = 20
TURNS = 50


class Probe:
    """Counts the turns of the loop, and makes work wait until it has seen some."""

    def __init__(self) -> None:
        self.turns = 0
        self.calls: list[str] = []
        self._turned = threading.Condition()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            with self._turned:
                self.turns += 1
                self._turned.notify_all()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which then takes until the loop has turned; for ever, if it is the loop that runs it."""

        def slow(*args: Any) -> Any:
            result = function(*args)
            self.calls.append(name)
            with self._turned:
                enough = self.turns + TURNS
                assert self._turned.wait_for(lambda: self.turns >= enough, WAIT_S), f"{name} blocks the loop"
            return result

        return slow


def test_the_loop_turns_during_every_stage_of_every_photo(registry: Registry, face_photo: bytes) -> None:
    bundles = registry.resolve("detector"), registry.resolve("embedder")
    detector = Detector(Session(bundles[0].model_path, SessionOptions("cpu")), bundles[0].manifest.input)
    embedder = Embedder(Session(bundles[1].model_path, SessionOptions("cpu")), bundles[1].manifest)
    finder, probe, crew = FaceFinder(detector, embedder.template, ImageLimits()), Probe(), Crew("work", 2)
    finder.find = probe.around("find", finder.find)  # type: ignore[method-assign]

    def embed(crops: list[Pixels]) -> list[Vector]:
        return list(embedder.embed(crops))

    batcher: Batcher[Pixels, Vector] = Batcher("embed", probe.around("embed", embed), BatcherOptions(), crew)
    faces = Faces(finder, bundles[1].manifest, batcher, PhotoPool(crew, 100, batcher.cost_s), 1e-3)

    async def scenario() -> int:
        turning = asyncio.ensure_future(probe.run())
        photos = await asyncio.gather(*(faces.embed(face_photo) for _ in range(4)))
        batch = await faces.embed_batch([face_photo, face_photo])
        turning.cancel()
        return sum(len(photo.faces) for photo in photos) + len(batch)

    assert asyncio.run(scenario()) == 6
    assert probe.calls.count("find") == 6
    assert "embed" in probe.calls
    crew.close()
