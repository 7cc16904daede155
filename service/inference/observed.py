"""Detector, finder and embedder that say how long they took, and of how much."""

from collections.abc import Callable, Sequence

from models.alignment import Template
from models.bundle import InputSpec
from models.image import ImageLimits, Pixels, Reduced
from models.runtime import Session
from service.domain import CroppedFace, CroppedPhoto, Vector
from service.inference.detector import Detections, Detector
from service.inference.finder import FaceFinder
from service.metrics import Metrics


class ObservedDetector(Detector):
    """A detector whose work is the stage `detect`."""

    def __init__(self, session: Session, spec: InputSpec, metrics: Metrics) -> None:
        super().__init__(session, spec)
        self._metrics = metrics

    def detect(self, image: Pixels) -> Detections:
        """As Detector.detect."""
        with self._metrics.stage("detect"):
            return super().detect(image)


class ObservedFinder(FaceFinder):
    """A finder whose work is the stage `photo`, with `decode`, `detect` and `align` in it; it counts faces."""

    def __init__(self, detector: Detector, template: Template, limits: ImageLimits, metrics: Metrics) -> None:
        super().__init__(detector, template, limits)
        self._metrics = metrics

    def find(self, data: bytes) -> CroppedPhoto:
        """As FaceFinder.find."""
        with self._metrics.stage("photo"):
            photo = super().find(data)
        self._metrics.faces.observe(len(photo.faces))
        return photo

    def _decode(self, data: bytes) -> Reduced:
        with self._metrics.stage("decode"):
            return super()._decode(data)

    def _decode_whole(self, data: bytes) -> Reduced:
        with self._metrics.stage("decode"):
            return super()._decode_whole(data)

    def _align(self, photo: Reduced, detections: Detections) -> list[CroppedFace]:
        with self._metrics.stage("align"):
            return super()._align(photo, detections)


def observed_embed(
    embed: Callable[[list[Pixels]], Sequence[Vector]], model_id: str, metrics: Metrics
) -> Callable[[list[Pixels]], Sequence[Vector]]:
    """The same function; each run of it is the stage `embed`, and its size is noted."""

    def observed(crops: list[Pixels]) -> Sequence[Vector]:
        with metrics.run(model_id, len(crops)):
            return embed(crops)

    return observed
