"""What is asked of the server, whichever protocol carries it: one class a call, with the type of its answer."""

import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from facesphere_client.errors import ImageFileError
from facesphere_client.values import (
    Collection,
    EmbeddedFace,
    EmbeddedPhoto,
    Enrolment,
    Identification,
    Job,
    ModelDetail,
    Photo,
    Receipt,
    Subject,
    SubjectPage,
    Vector,
    Verification,
)

T = TypeVar("T")
Select = Literal["all", "largest"]
ImageFile = bytes | str | os.PathLike[str]  # the bytes of an image file, or where it lies


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A vector that the caller kept, with the contract it was made under; None: the server is trusted to be on it."""

    values: Vector
    contract_id: str | None = None


Probe = bytes | Embedding
ProbeLike = ImageFile | Embedding | EmbeddedFace | NDArray[np.floating]


def read_image(image: ImageFile) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageFileError: it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise ImageFileError(f"cannot read {os.fspath(image)}: {error.strerror}") from error


def read_probe(probe: ProbeLike) -> Probe:
    """An image's bytes, or an embedding.

    Raises:
        ImageFileError: a file cannot be read.
        ValueError: an array that is no vector.
    """
    if isinstance(probe, EmbeddedFace):
        return Embedding(probe.embedding, probe.contract_id)
    if isinstance(probe, np.ndarray):
        return Embedding(_vector(probe))
    if isinstance(probe, Embedding):
        return Embedding(_vector(probe.values), probe.contract_id)
    return read_image(probe)


def new_key() -> str:
    """An idempotency key that nobody else has."""
    return uuid.uuid4().hex


def keys_of_items(key: str | None) -> Callable[[str], str]:
    """Idempotency keys of items by their ids: the same ones each time where there is a key, and else never again."""
    if key is None:
        return lambda _: new_key()
    return lambda item: hashlib.sha256(f"{key} {item}".encode()).hexdigest()


def _vector(values: NDArray[np.floating]) -> Vector:
    vector = np.asarray(values, np.float32)
    if vector.ndim != 1:
        raise ValueError(f"an embedding has one dimension, got an array of shape {vector.shape}")
    return vector


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """Something to ask for."""

    @property
    def repeatable(self) -> bool:
        """Whether asking twice is the same as asking once."""
        return True


@dataclass(frozen=True, slots=True)
class Once(Call[T]):
    """Something that is another thing the second time."""

    @property
    def repeatable(self) -> bool:
        """It is not."""
        return False


@dataclass(frozen=True, slots=True)
class Ready(Call[bool]):
    """Is it serving?"""


@dataclass(frozen=True, slots=True)
class Detect(Call[Photo]):
    """Faces of a photo."""

    image: bytes


@dataclass(frozen=True, slots=True)
class Embed(Call[EmbeddedPhoto]):
    """Faces and their vectors."""

    image: bytes
    faces: Select = "all"
    aligned: bool = False


def embedding(faces: Select, aligned: bool) -> Callable[[bytes], Embed]:
    """What makes a call of an image, for many of them."""
    return lambda image: Embed(image, faces, aligned)


@dataclass(frozen=True, slots=True)
class Verify(Call[Verification]):
    """Are two probes one person?"""

    a: Probe
    b: Probe
    target_fmr: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class ListCollections(Call[tuple[Collection, ...]]):
    """All that the key is for."""


@dataclass(frozen=True, slots=True)
class PutCollection(Call[Collection]):
    """Create, or change settings."""

    name: str
    purpose: str
    retention_days: int | None = None
    store_crops: bool = False
    target_fmr: float | None = None
    require_consent: bool = False


@dataclass(frozen=True, slots=True)
class GetCollection(Call[Collection]):
    """One collection."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteCollection(Once[Receipt]):
    """Erase a collection. Repeated it would be answered by not_found, and the receipt be lost."""

    name: str


@dataclass(frozen=True, slots=True)
class Enrol(Call[Enrolment]):
    """Enrol a person, all of the probes that can be taken at once. Under a key it stores nothing twice."""

    collection: str
    subject: str
    probes: Sequence[Probe]
    consent: str | None = None
    idempotency_key: str | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it has a key."""
        return self.idempotency_key is not None


def enrolling(collection: str, subject: str, consent: str | None, key: str) -> Callable[[bytes], Enrol]:
    """The same of an enrolment."""
    return lambda image: Enrol(collection, subject, (image,), consent, key)


@dataclass(frozen=True, slots=True)
class GetSubject(Call[Subject]):
    """An enrolled person."""

    collection: str
    subject: str


@dataclass(frozen=True, slots=True)
class ListSubjects(Call[SubjectPage]):
    """A page of people."""

    collection: str
    cursor: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class DeleteSubject(Once[Receipt]):
    """Erase a person."""

    collection: str
    subject: str


@dataclass(frozen=True, slots=True)
class DeleteFace(Once[Receipt]):
    """Erase one face."""

    collection: str
    subject: str
    face_id: str


@dataclass(frozen=True, slots=True)
class Identify(Call[tuple[Identification, ...]]):
    """Who is this? One answer a face."""

    collection: str
    probe: Probe
    limit: int = 5
    target_fpir: float | None = None
    threshold: float | None = None
    faces: Select = "largest"


@dataclass(frozen=True, slots=True)
class VerifySubject(Call[Verification]):
    """Is this the enrolled person?"""

    collection: str
    subject: str
    probe: Probe
    target_fmr: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class ListModels(Call[tuple[ModelDetail, ...]]):
    """The models of the registry."""


@dataclass(frozen=True, slots=True)
class ActivateModel(Once[Job]):
    """Serve a model. Repeated it would be a job more."""

    model_id: str


@dataclass(frozen=True, slots=True)
class RollBackModel(Once[Job]):
    """Serve the model before. Repeated it would go back twice."""


@dataclass(frozen=True, slots=True)
class GetJob(Call[Job]):
    """How far a job is."""

    job_id: str


@dataclass(frozen=True, slots=True)
class ListJobs(Call[tuple[Job, ...]]):
    """The newest jobs."""

    limit: int = 20
