"""An image file to aligned crops: the one code path in serving, evaluation and training."""

import cv2
import numpy as np

from models.alignment import Template, align, of_shape
from models.image import ImageLimits, Pixels, decode
from service.domain import CroppedFace, CroppedPhoto, Face
from service.errors import InvalidRequestError
from service.inference.detector import Detections, Detector
from service.inference.quality import quality


class FaceFinder:
    """Decodes, detects, aligns. May be called from several threads."""

    def __init__(self, detector: Detector, template: Template, limits: ImageLimits) -> None:
        self._detector = detector
        self._template = template
        self._limits = limits

    def find(self, data: bytes) -> CroppedPhoto:
        """The faces of a photo, largest box first.

        Raises:
            FaceError: the bytes are no acceptable image.
        """
        image = decode(data, self._limits)
        detections = self._detector.detect(image)
        found = [self._cut(image, detections, index) for index in range(len(detections))]
        found.sort(key=lambda item: item.face.area, reverse=True)
        return CroppedPhoto(image.shape[1], image.shape[0], found)

    def whole(self, data: bytes) -> CroppedPhoto:
        """An image that is an aligned crop already, scaled to the model's size.

        Raises:
            InvalidRequestError: it has not the shape of the template.
            FaceError: the bytes are no acceptable image.
        """
        return whole(data, self._template, self._limits)

    def stored(self, data: bytes) -> Pixels:
        """A crop that was stored, for this model; one that was cut by another template is moved.

        Raises:
            FaceError: the bytes are no crop of any template.
        """
        image = decode(data, self._limits)
        height, width = image.shape[:2]
        if image.shape[:2] == (self._template.height, self._template.width):
            return image
        return align(image, of_shape(width, height).points, self._template)

    def _cut(self, image: Pixels, detections: Detections, index: int) -> CroppedFace:
        landmarks = detections.landmarks[index].astype(np.float64)
        x1, y1, x2, y2 = detections.boxes[index].tolist()
        crop = align(image, landmarks, self._template)
        return _cropped((x1, y1, x2, y2), landmarks, float(detections.scores[index]), crop)


def whole(data: bytes, template: Template, limits: ImageLimits) -> CroppedPhoto:
    """FaceFinder.whole, for those who have no detector.

    Raises:
        InvalidRequestError: it has not the shape of the template.
        FaceError: the bytes are no acceptable image.
    """
    image = decode(data, limits)
    height, width = image.shape[:2]
    if width * template.height != height * template.width:
        raise InvalidRequestError(
            f"an aligned crop must have the shape {template.width}:{template.height}, this is {width} x {height}"
        )
    crop = image
    if width != template.width:
        how = cv2.INTER_AREA if width > template.width else cv2.INTER_LINEAR
        crop = cv2.resize(image, (template.width, template.height), interpolation=how)
    landmarks = template.points * (width / template.width)
    box = (0.0, 0.0, float(width), float(height))
    return CroppedPhoto(width, height, [_cropped(box, landmarks, 1.0, crop)])


def _cropped(box: tuple[float, float, float, float], landmarks: np.ndarray, score: float, crop: Pixels) -> CroppedFace:
    points = tuple((x, y) for x, y in landmarks.tolist())
    return CroppedFace(Face(box, points, score, quality(landmarks, crop)), crop)
