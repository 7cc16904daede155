"""Detector, finder and embedder that say how long they took, and of how much."""

from collections.abc import Callable, Sequence

from models.alignment import Template
from models.bundle import InputSpec
from models.image import ImageLimits, Pixels
from models.runtime import Session
from service.domain import CroppedPhoto, Vector
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
    """A finder whose work, decoding to crops, is the stage `photo`; it counts the faces of each."""

    def __init__(self, detector: Detector, template: Template, limits: ImageLimits, metrics: Metrics) -> None:
        super().__init__(detector, template, limits)
        self._metrics = metrics

    def find(self, data: bytes) -> CroppedPhoto:
        """As FaceFinder.find."""
        with self._metrics.stage("photo"):
            photo = super().find(data)
        self._metrics.faces.observe(len(photo.faces))
        return photo


def observed_embed(
    embed: Callable[[list[Pixels]], Sequence[Vector]], metrics: Metrics
) -> Callable[[list[Pixels]], Sequence[Vector]]:
    """The same function; each run of it is the stage `embed`, and its size is noted."""

    def observed(crops: list[Pixels]) -> Sequence[Vector]:
        metrics.batch.observe(len(crops))
        with metrics.stage("embed"):
            return embed(crops)

    return observed
