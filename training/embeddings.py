"""A labelled set of photos to embeddings, through the very code that the service runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import FaceError
from models.preprocess import Vectors
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from training.data.faces import Choice, choose, face_finder, ordered
from training.data.people import DataError, Photo, read_people

__all__ = ["Choice", "EmbeddedSet", "SetEmbedder"]


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
        detector_bundle = registry.resolve("detector", detector)
        bundle = registry.resolve("embedder", model)
        self.detector_id = detector_bundle.manifest.id
        self.manifest = bundle.manifest
        self._embedder = Embedder(
            Session(bundle.model_path, SessionOptions("auto", 1, bundle.manifest.precision)), bundle.manifest
        )
        self._finder = face_finder(detector_bundle, self._embedder.template)
        self._choice = choice

    def embed_people(self, path: Path, threads: int, progress: Callable[[int], None]) -> EmbeddedSet:
        """Embed the chosen face of every photo under `path`.

        Raises:
            DataError: not a set of photos, or fewer than two people with a face.
        """
        rows: list[tuple[str, str, Vectors, float]] = []
        failed: list[str] = []
        for photo, result in ordered(self._embed, read_people(path), threads):
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
        chosen = choose(found, self._choice)
        return self._embedder.embed([chosen.crop])[0], chosen.face.quality
