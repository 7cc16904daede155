"""Crops that are aligned already to embeddings, through the embedder that the service runs."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, Manifest
from models.errors import FaceError
from models.image import ImageLimits, Pixels
from models.preprocess import Vectors
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from service.inference.finder import whole
from training.data.aligned import AlignedSet
from training.data.augment import resize
from training.data.errors import DataError
from training.embeddings import EmbeddedSet

_BATCH = 32
Step = Callable[[int], None]


def embed_aligned(bundle: Bundle, data: AlignedSet, threads: int, step: Step) -> EmbeddedSet:
    """Embed every crop of a set.

    Args:
        bundle: the embedder.
        data: crops of its size, or of another size in the same shape, which are then scaled.
        threads: of the network; 0 takes all cores.
        step: is told how many more are done.

    Raises:
        DataError: crops of another template, shape or number of channels, or fewer than two people.
    """
    check_crops(bundle.manifest, data)
    if len(data.people) < 2:
        raise DataError(f"{data.source or 'the set'} has faces of {len(data.people)} people; at least two are needed")
    return labelled(embed_crops(bundle, data, threads, step), data)


def embed_crops(bundle: Bundle, data: AlignedSet, threads: int, step: Step) -> Vectors:
    """The vectors alone, (N, D), of however many people.

    Raises:
        DataError: crops of another template, shape or number of channels.
    """
    check_crops(bundle.manifest, data)
    spec = bundle.manifest.input
    sized = (resize(np.asarray(crop), (spec.height, spec.width)) for crop in data.crops)
    return _embed(bundle, sized, data.photos, threads, step)


def labelled(vectors: Vectors, data: AlignedSet) -> EmbeddedSet:
    """Vectors of a set's crops (N, D) with its people."""
    return EmbeddedSet(
        vectors=vectors,
        people=data.labels,
        quality=np.full(len(data), np.nan, np.float32),
        names=data.people,
        photos=data.photos,
        failed=(),
    )


def embed_files(bundle: Bundle, photos: Sequence[bytes], path: Path, threads: int, step: Step) -> Vectors:
    """Embed image files that are aligned crops, (N, D).

    Raises:
        DataError: one is no image, or has not the shape of the model's template.
    """
    template = bundle.manifest.alignment

    def crops() -> Iterator[Pixels]:
        for number, photo in enumerate(photos):
            try:
                yield whole(photo, template, ImageLimits()).faces[0].crop
            except FaceError as error:
                raise DataError(f"{path}, photo {number}: {error.message}") from error

    return _embed(bundle, crops(), [f"photo {number}" for number in range(len(photos))], threads, step)


def check_crops(manifest: Manifest, data: AlignedSet) -> None:
    """The crops are what the model is fed.

    Raises:
        DataError: another template, shape or number of channels.
    """
    height, width, channels = data.crops.shape[1:]
    spec = manifest.input
    if channels != 3:
        raise DataError(f"model {manifest.id} is fed RGB crops, these have {channels} channel")
    if data.template is not None and data.template != manifest.template:
        raise DataError(f"model {manifest.id} is fed crops of template {manifest.template}, these are {data.template}")
    if height * spec.width != width * spec.height:
        raise DataError(
            f"model {manifest.id} is fed crops of {spec.height} x {spec.width}, these are {height} x {width}"
        )


def _embed(bundle: Bundle, crops: Iterator[Pixels], names: Sequence[str], threads: int, step: Step) -> Vectors:
    embedder = Embedder(
        Session(bundle.model_path, SessionOptions("auto", threads, bundle.manifest.precision)), bundle.manifest
    )
    parts: list[NDArray[np.float32]] = []
    done = 0
    while batch := list(itertools.islice(crops, _BATCH)):
        try:
            parts.append(embedder.embed(batch))
        except ValueError as error:
            raise DataError(f"a crop between {names[done]!r} and {names[done + len(batch) - 1]!r}: {error}") from error
        done += len(batch)
        step(len(batch))
    return np.concatenate(parts)
