"""A labelled set of photos to embeddings, through the very code that the service runs."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import FaceError
from models.image import ImageLimits
from models.preprocess import Vectors
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.domain import CroppedFace, CroppedPhoto
from service.inference.detector import Detector
from service.inference.embedder import Embedder
from service.inference.finder import FaceFinder
from training.data.people import DataError, Photo, read_people

# Which face of a photo stands for its label. The service takes the largest. In LFW the labelled person is the one in
# the middle, and now and then somebody behind them is larger.
Choice = Literal["largest", "central"]


@dataclass(frozen=True, slots=True)
class EmbeddedSet:
    """N photos in which a face was found, and the names of those in which none was.

    vectors (N, D) of unit length; people (N,) indices into `names`; quality (N,).
    """

    vectors: Vectors
    people: NDArray[np.int32]
    quality: NDArray[np.float32]
    names: tuple[str, ...]
    photos: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def failure_to_enrol(self) -> float:
        """Share of photos without a usable face (ISO/IEC 19795-1)."""
        return len(self.failed) / (len(self.photos) + len(self.failed))


class SetEmbedder:
    """The networks of a registry, set up as the service sets them up."""

    def __init__(self, registry: Registry, model: str | None, detector: str | None, choice: Choice) -> None:
        options = SessionOptions("auto", threads=1)
        detector_bundle = registry.resolve("detector", detector)
        bundle = registry.resolve("embedder", model)
        self.detector_id = detector_bundle.manifest.id
        self.manifest = bundle.manifest
        self._embedder = Embedder(Session(bundle.model_path, options), bundle.manifest)
        network = Detector(Session(detector_bundle.model_path, options), detector_bundle.manifest.input)
        self._finder = FaceFinder(network, self._embedder.template, ImageLimits())
        self._choice = choice

    def embed_people(self, path: Path, threads: int, progress: Callable[[int], None]) -> EmbeddedSet:
        """Embed the chosen face of every photo under `path`.

        Raises:
            DataError: not a set of photos, or fewer than two people with a face.
        """
        rows: list[tuple[str, str, Vectors, float]] = []
        failed: list[str] = []
        for photo, result in _ordered(self._embed, read_people(path), threads):
            if result is None:
                failed.append(photo.name)
            else:
                rows.append((photo.person, photo.name, *result))
            progress(1)
        names = sorted({person for person, *_ in rows})
        if len(names) < 2:
            raise DataError(f"{path} has faces of {len(names)} people; at least two are needed")
        index = {name: number for number, name in enumerate(names)}
        return EmbeddedSet(
            vectors=np.stack([vector for *_, vector, _ in rows]),
            people=np.array([index[person] for person, *_ in rows], np.int32),
            quality=np.array([quality for *_, quality in rows], np.float32),
            names=tuple(names),
            photos=tuple(name for _, name, *_ in rows),
            failed=tuple(failed),
        )

    def _embed(self, photo: Photo) -> tuple[Vectors, float] | None:
        try:
            found = self._finder.find(photo.data)
        except FaceError:
            return None
        if not found.faces:
            return None
        chosen = found.faces[0] if self._choice == "largest" else _central(found)
        return self._embedder.embed([chosen.crop])[0], chosen.face.quality


def _central(photo: CroppedPhoto) -> CroppedFace:
    def distance(item: CroppedFace) -> float:
        x1, y1, x2, y2 = item.face.bbox
        return float(np.hypot((x1 + x2 - photo.width) / 2, (y1 + y2 - photo.height) / 2))

    return min(photo.faces, key=distance)


def _ordered(
    function: Callable[[Photo], tuple[Vectors, float] | None], photos: Iterator[Photo], threads: int
) -> Iterator[tuple[Photo, tuple[Vectors, float] | None]]:
    """Map on threads, in order, with only a few photos read ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Photo, Future[tuple[Vectors, float] | None]]] = deque()
        for photo in photos:
            waiting.append((photo, pool.submit(function, photo)))
            if len(waiting) >= 8 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
