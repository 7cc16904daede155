"""The teacher's embeddings of every photo, or of every view of it, computed once and cached beside the aligned set."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.bundle import load
from models.preprocess import l2_normalize
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from training.config import ConfigError, Distil, TrainConfig
from training.data.aligned import AlignedSet
from training.data.augment import resize
from training.data.loader import view

Vectors = NDArray[np.float32]
_CHUNK = 8
# Rows between two notes of how far the work is: a run that is stopped loses this much of it.
_NOTE_EVERY = 512


class Teacher:
    """A bundle that embeds crops of an aligned set, as the service would."""

    def __init__(self, bundle: Path, threads: int = 1) -> None:
        loaded = load(bundle)
        self.manifest = loaded.manifest
        if self.manifest.kind != "embedder":
            raise ConfigError(f"{bundle} is a {self.manifest.kind}, not an embedder, and cannot teach")
        self._embedder = Embedder(
            Session(loaded.model_path, SessionOptions("auto", threads, self.manifest.precision)), self.manifest
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its crops."""
        return self.manifest.input.height, self.manifest.input.width

    def embed(self, crops: list[NDArray[np.uint8]], mirror: bool) -> Vectors:
        """Unit vectors (n, D) of crops, those of crop and mirror image averaged with `mirror`."""
        vectors = self._embedder.embed(crops)
        if not mirror:
            return vectors
        return l2_normalize(vectors + self._embedder.embed([np.ascontiguousarray(crop[:, ::-1]) for crop in crops]))


def teacher_targets(data: AlignedSet, config: TrainConfig, cache: Path, threads: int) -> Vectors:
    """Unit vectors (views, N, D), memory-mapped; one view, of the photo as it is, where config.distil.views is 0.

    Args:
        data: the training set.
        config: with `distil`; a view depends on its seed and augmentation.
        cache: folder for the file; a half-finished one is gone on with. A second process waits for the first.
        threads: of the teacher.

    Raises:
        ConfigError: the teacher was made for other crops, or the folder cannot be written.
    """
    distil = config.distil
    if distil is None:
        raise ConfigError("there is no teacher")
    teacher = Teacher(distil.bundle)
    check_template(teacher, data)
    views = max(1, distil.views)
    dimension = teacher.manifest.dimension or 0
    path = cache / f"teacher-{_key(data, config, distil, teacher)}.npy"
    shape = (views, len(data.labels), dimension)
    note = path.with_suffix(".done")
    try:
        with _locked(path.with_suffix(".lock")):
            done = _done(path, note, shape)
            if done < views * shape[1]:
                _fill(_opened(path, done, shape), done, note, teacher, data, config, threads)
        return np.asarray(np.load(path, mmap_mode="r"))
    except OSError as error:
        raise ConfigError(f"cannot keep the teacher's vectors in {cache}: {error.strerror or error}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: a second one would begin the file anew under the first one's feet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path, done: int, shape: tuple[int, int, int]) -> Vectors:
    """The file, memory-mapped; a new one with all its room on the disk, as a disk that is full kills who writes."""
    array = np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def check_template(teacher: Teacher, data: AlignedSet) -> None:
    """A network sees what it was trained on only in crops of its own template.

    Raises:
        ConfigError: the set's is another.
    """
    manifest = teacher.manifest
    if data.template != manifest.template:
        raise ConfigError(
            f"teacher {manifest.id} was made for crops of the template {manifest.template}, "
            f"{data.source} was cut for {data.template}"
        )


def _key(data: AlignedSet, config: TrainConfig, distil: Distil, teacher: Teacher) -> str:
    views = {"seed": config.seed, "augment": config.augment.model_dump(mode="json")} if distil.views else {}
    meaning = {"data": data.digest, "teacher": teacher.manifest.contract_id, "views": distil.views, **views}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]


def _done(path: Path, note: Path, shape: tuple[int, int, int]) -> int:
    """How many rows of an earlier run are there."""
    try:
        if np.load(path, mmap_mode="r").shape != shape:
            return 0
        done = int(note.read_text())
    except (OSError, ValueError, EOFError):
        return 0
    return done if 0 <= done <= shape[0] * shape[1] else 0


def _fill(
    array: Vectors, done: int, note: Path, teacher: Teacher, data: AlignedSet, config: TrainConfig, threads: int
) -> None:
    rows = array.reshape(-1, array.shape[-1])
    views = config.distil.views if config.distil else 0

    def embed(first: int) -> tuple[int, Vectors]:
        places = range(first, min(first + _CHUNK, len(rows)))
        crops = [_crop(data, config, teacher.size, views, *divmod(place, array.shape[1])) for place in places]
        return first, teacher.embed(crops, mirror=not views)

    with tqdm(total=len(rows), initial=done, desc="teacher", unit="photo", disable=None) as bar:
        for first, vectors in _ordered(embed, range(done, len(rows), _CHUNK), threads):
            rows[first : first + len(vectors)] = vectors
            bar.update(len(vectors))
            if (first // _CHUNK) % (_NOTE_EVERY // _CHUNK) == 0:
                _take_note(array, note, first + len(vectors))
    _take_note(array, note, len(rows))


def _take_note(array: Vectors, note: Path, done: int) -> None:
    if isinstance(array, np.memmap):
        array.flush()  # what the note promises must be in the file
    note.write_text(str(done))


def _crop(
    data: AlignedSet, config: TrainConfig, size: tuple[int, int], views: int, number: int, index: int
) -> NDArray[np.uint8]:
    crop = data.crops[index]
    if views:
        # The same random numbers as the student's view, at the teacher's size.
        crop = view(crop, size, config.augment, config.seed, index, number)
    return np.ascontiguousarray(resize(crop, size))


def _ordered(
    function: Callable[[int], tuple[int, Vectors]], items: range, threads: int
) -> Iterator[tuple[int, Vectors]]:
    """Map on threads, in order, a few rounds ahead at most."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), 16 * threads):
            yield from pool.map(function, items[start : start + 16 * threads])
