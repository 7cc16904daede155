"""The application layer for photos: detect, embed, verify. Both adapters call it; nothing below knows a protocol."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.bundle import Manifest
from models.calibration import Calibration
from models.errors import FaceError
from models.image import Pixels
from models.preprocess import l2_normalize
from service.domain import (
    Criterion,
    CroppedPhoto,
    EmbeddedFace,
    EmbeddedPhoto,
    EmbeddedProbe,
    Face,
    ModelInfo,
    Photo,
    Probe,
    Select,
    Vector,
    Verification,
)
from service.errors import ContractMismatchError, FaceNotFoundError, InvalidRequestError
from service.inference.batcher import Batcher
from service.inference.finder import FaceFinder
from service.inference.pipeline import in_two_stages
from service.inference.pool import Pool
from service.inference.urgency import Urgency, in_bulk
from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Decision:
    """A threshold and the rate it was chosen for, if it was chosen by a rate."""

    threshold: float
    target_fmr: float | None


class Faces:
    """Detect, embed and verify with one detector and one embedder."""

    def __init__(
        self,
        finder: FaceFinder,
        manifest: Manifest,
        batcher: Batcher[Pixels, Vector],
        pool: Pool,
        default_target_fmr: float,
        metrics: Metrics | None = None,
    ) -> None:
        self._finder = finder
        self._batcher = batcher
        self._pool = pool
        self._default_target_fmr = default_target_fmr
        self._metrics = metrics or Metrics()
        self.calibration = manifest.calibration
        self.model = ModelInfo(manifest.id, manifest.contract_id, manifest.dimension or 0)

    def check_room(self, within_s: float) -> None:
        """Whether a photo that came now, and is of no use to anybody after so many seconds, would be let in.

        Raises:
            OverloadedError: it would be refused, and why.
        """
        self._pool.check_room(within_s)

    async def detect(self, data: bytes) -> Photo:
        """Faces of a photo, largest first; none is an answer, not an error.

        Raises:
            FaceError: the bytes are no acceptable image, or the server is overloaded.
        """
        photo = await self._pool.run(self._finder.find, data)
        return Photo(photo.width, photo.height, [item.face for item in photo.faces])

    async def embed(self, data: bytes, select: Select = "all", aligned: bool = False) -> EmbeddedPhoto:
        """Faces of a photo with their embeddings.

        Args:
            data: the image file.
            select: every face, or the one with the largest box.
            aligned: the image is a crop already; it is scaled to the model's size and not searched.

        Raises:
            FaceError: the bytes are no acceptable image, or the server is overloaded.
        """
        cut = partial(self._finder.whole if aligned else self._finder.find, data)
        count = 1 if select == "largest" else None

        def crops(photo: CroppedPhoto) -> list[Pixels]:
            return [each.crop for each in photo.faces[:count]]

        photo, vectors = await asyncio.wrap_future(in_two_stages(self._pool, cut, crops, self._batcher))
        found = zip(photo.faces[:count], vectors, strict=True)
        faces = [EmbeddedFace(each.face, each.crop, vector) for each, vector in found]
        return EmbeddedPhoto(photo.width, photo.height, faces)

    async def embed_batch(self, images: Sequence[bytes], select: Select = "all") -> list[EmbeddedPhoto | FaceError]:
        """One answer an image, in order; an image that fails does not fail the others."""
        with in_bulk():
            return await asyncio.gather(*(self._embed_or_error(data, select) for data in images))

    async def embed_probe(self, probe: Probe) -> EmbeddedProbe:
        """A probe as a unit vector: the largest face of its image, or the embedding that was sent.

        Raises:
            FaceNotFoundError: no face in the image.
            InvalidRequestError: an embedding of the wrong length, zero or not finite.
            ContractMismatchError: an embedding made by another model.
        """
        if probe.image is None:
            return EmbeddedProbe(self._checked_embedding(probe), None)
        photo = await self.embed(probe.image, "largest")
        if not photo.faces:
            raise FaceNotFoundError("there is no face in the image")
        return EmbeddedProbe(photo.faces[0].embedding, photo.faces[0].face)

    async def verify(self, a: Probe, b: Probe, criterion: Criterion) -> Verification:
        """Are two probes one person?

        Raises:
            FaceNotFoundError: `details["image"]` says in which of the two.
            FaceError: as `embed_probe` and `decide`.
        """
        decision = self.decide(criterion)
        first, second = await asyncio.gather(self._named_probe("a", a), self._named_probe("b", b))
        return self.compare(first, second.embedding, decision, second.face)

    def decide(self, criterion: Criterion, default_target_fmr: float | None = None) -> Decision:
        """The threshold of a criterion.

        Raises:
            InvalidRequestError: a rate was asked for and the model has no calibration.
            CalibrationError: the rate is outside what the calibration covers.
        """
        if criterion.threshold is not None:
            return Decision(criterion.threshold, None)
        rate = criterion.target_fmr or default_target_fmr or self._default_target_fmr
        return Decision(self.need_calibration().threshold_at(rate).value, rate)

    def need_calibration(self) -> Calibration:
        """The model's calibration.

        Raises:
            InvalidRequestError: it has none.
        """
        if self.calibration is None:
            raise InvalidRequestError(f"model {self.model.id} has no calibration: state a threshold instead of a rate")
        return self.calibration

    def probability(self, similarity: float) -> float | None:
        """P(same person) at equal prior odds, or None without a calibration."""
        return self.calibration.probability(similarity) if self.calibration else None

    def compare(self, a: EmbeddedProbe, b: Vector, decision: Decision, b_face: Face | None) -> Verification:
        """The decision on two unit vectors."""
        similarity = cosine(a.embedding, b)
        self._metrics.decided("verify", similarity, similarity >= decision.threshold)
        return Verification(
            matched=similarity >= decision.threshold,
            similarity=similarity,
            angle_degrees=angle_degrees(similarity),
            threshold=decision.threshold,
            target_fmr=decision.target_fmr,
            probability=self.probability(similarity),
            a=a.face,
            b=b_face,
            model=self.model,
        )

    def embed_stored(self, crops: Sequence[bytes], bulk: bool = True) -> list[Vector]:
        """Vectors of crops (PNG) that were stored with faces; blocks, and is for threads of their own.

        With `bulk` all other work goes first.

        Raises:
            FaceError: one is no image, or the server is stopping.
        """
        futures = self._batcher.submit([self._finder.stored(each) for each in crops], Urgency(bulk))
        return [future.result() for future in futures]

    async def _embed_or_error(self, data: bytes, select: Select) -> EmbeddedPhoto | FaceError:
        try:
            return await self.embed(data, select)
        except FaceError as error:
            return error

    async def _named_probe(self, name: str, probe: Probe) -> EmbeddedProbe:
        try:
            return await self.embed_probe(probe)
        except FaceError as error:
            error.message = f"{name}: {error.message}"
            error.details["image"] = name
            raise

    def _checked_embedding(self, probe: Probe) -> Vector:
        if probe.contract_id is not None and probe.contract_id != self.model.contract_id:
            raise ContractMismatchError(
                f"the embedding was made under contract {probe.contract_id}, this model has {self.model.contract_id}"
            )
        values = np.asarray(probe.embedding, dtype=np.float64)
        if values.shape != (self.model.dimension,):
            raise InvalidRequestError(f"an embedding has {self.model.dimension} values, this has {values.size}")
        try:
            vector: Vector = l2_normalize(values[None])[0]
        except ValueError as error:
            raise InvalidRequestError("the embedding is zero or not finite") from error
        return vector


def embed_function(embed: Callable[[Sequence[Pixels]], Vector]) -> Callable[[list[Pixels]], list[Vector]]:
    """An embedder's `embed` in the form that a batcher runs: a list in, a list out."""
    return lambda crops: list(embed(crops))


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two unit vectors, -1..1; summed in float64 so that the order of summation does not show."""
    return max(-1.0, min(1.0, float(np.dot(a.astype(np.float64), b.astype(np.float64)))))


def angle_degrees(similarity: float) -> float:
    """Angle between two unit vectors, 0..180 degrees."""
    return math.degrees(math.acos(max(-1.0, min(1.0, similarity))))
