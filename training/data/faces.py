"""A photo's face as an aligned crop, through the very code that the service runs."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from models.alignment import Template
from models.bundle import Bundle
from models.errors import FaceError
from models.image import ImageLimits, Pixels
from models.runtime import Session, SessionOptions
from service.domain import CroppedFace, CroppedPhoto
from service.inference.detector import Detector
from service.inference.finder import FaceFinder, whole
from training.data.people import Photo

# Which face of a photo stands for its label. The service takes the largest. In LFW the labelled person is the one in
# the middle, and now and then somebody behind them is larger.
Choice = Literal["largest", "central"]
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a photo has no crop: a stable code and one sentence."""

    code: str
    message: str


class DetectingCutter:
    """Finds the chosen face. May be called from several threads."""

    def __init__(self, detector: Bundle, template: Template, choice: Choice, min_face: int = 0) -> None:
        self._finder = face_finder(detector, template)
        self._choice = choice
        self._min_face = min_face

    def __call__(self, photo: Photo) -> Pixels | Skipped:
        """The crop, uint8 (height, width, 3) RGB, or why there is none."""
        try:
            found = self._finder.find(photo.data)
        except FaceError as error:
            return Skipped(error.code, error.message)
        if not found.faces:
            return Skipped("no_face", "no face was found")
        chosen = choose(found, self._choice)
        x1, y1, x2, y2 = chosen.face.bbox
        if min(x2 - x1, y2 - y1) < self._min_face:
            return Skipped("too_small", f"the face has {x2 - x1:.0f} x {y2 - y1:.0f} pixels")
        return chosen.crop


class WholeCutter:
    """Takes an image for the crop that it is already. May be called from several threads."""

    def __init__(self, template: Template) -> None:
        self._template = template

    def __call__(self, photo: Photo) -> Pixels | Skipped:
        """The crop, uint8 (height, width, 3) RGB, or why there is none."""
        try:
            return whole(photo.data, self._template, ImageLimits()).faces[0].crop
        except FaceError as error:
            return Skipped(error.code, error.message)


def face_finder(detector: Bundle, template: Template) -> FaceFinder:
    """The service's finder, for one thread a photo; on the processor, as there, for the same crops."""
    session = Session(detector.model_path, SessionOptions("cpu", threads=1))
    return FaceFinder(Detector(session, detector.manifest.input), template, ImageLimits())


def choose(photo: CroppedPhoto, choice: Choice) -> CroppedFace:
    """The face that stands for the label of a photo with at least one."""

    def distance(item: CroppedFace) -> float:
        x1, y1, x2, y2 = item.face.bbox
        return float(np.hypot((x1 + x2 - photo.width) / 2, (y1 + y2 - photo.height) / 2))

    return photo.faces[0] if choice == "largest" else min(photo.faces, key=distance)


def ordered(function: Callable[[Photo], R], photos: Iterator[Photo], threads: int) -> Iterator[tuple[Photo, R]]:
    """Map on threads, in order, with only a few photos read ahead. Where reading fails, what was read is done first."""
    waiting: deque[tuple[Photo, Future[R]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for photo in photos:
                waiting.append((photo, pool.submit(function, photo)))
                if len(waiting) >= 8 * threads:
                    yield _result(waiting)
        except FaceError:
            while waiting:
                yield _result(waiting)
            raise
        while waiting:
            yield _result(waiting)


def _result(waiting: deque[tuple[Photo, Future[R]]]) -> tuple[Photo, R]:
    photo, future = waiting.popleft()
    return photo, future.result()
