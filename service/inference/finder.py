"""An image file to aligned crops: the one code path in serving, evaluation and training."""

import cv2
import numpy as np

from models.alignment import Template, align, of_shape
from models.image import ImageLimits, Pixels, Reduced, decode, decode_reduced
from service.domain import CroppedFace, CroppedPhoto, Face
from service.errors import InvalidRequestError
from service.inference.detector import Detections, Detector
from service.inference.quality import quality

# What the detector looks at first: a JPEG of twice that or more is decoded at a fraction of its size, and faces that
# are still large enough in it are cut out of it.
_FIRST_LOOK = 640


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
        photo = self._decode(data)
        detections = self._detector.detect(photo.pixels)
        if not (photo.is_whole or self._is_enough(detections)):
            photo = self._decode_whole(data)
            detections = self._detector.detect(photo.pixels)
        found = self._align(photo, detections)
        found.sort(key=lambda item: item.face.area, reverse=True)
        return CroppedPhoto(photo.width, photo.height, found)

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
        image = decode(data, ImageLimits())  # not what callers send: a limit on that is none on what was stored
        height, width = image.shape[:2]
        if image.shape[:2] == (self._template.height, self._template.width):
            return image
        return align(image, of_shape(width, height).points, self._template)

    def _decode(self, data: bytes) -> Reduced:
        return decode_reduced(data, _FIRST_LOOK, self._limits)

    def _decode_whole(self, data: bytes) -> Reduced:
        image = decode(data, self._limits)
        return Reduced(image, image.shape[1], image.shape[0])

    def _align(self, photo: Reduced, detections: Detections) -> list[CroppedFace]:
        return [self._cut(photo, detections, index) for index in range(len(detections))]

    def _is_enough(self, detections: Detections) -> bool:
        """Whether no crop would be enlarged, so that more pixels of the photo would only be averaged away."""
        target = self._template.points
        eyes = np.linalg.norm(detections.landmarks[:, 1] - detections.landmarks[:, 0], axis=1)
        return len(detections) > 0 and float(eyes.min()) >= float(np.linalg.norm(target[1] - target[0]))

    def _cut(self, photo: Reduced, detections: Detections, index: int) -> CroppedFace:
        landmarks = detections.landmarks[index].astype(np.float64)
        crop = align(photo.pixels, landmarks, self._template)
        height, width = photo.pixels.shape[:2]
        ratio = np.array([photo.width / width, photo.height / height])
        x1, y1, x2, y2 = (detections.boxes[index] * np.tile(ratio, 2)).tolist()
        return _cropped((x1, y1, x2, y2), landmarks * ratio, float(detections.scores[index]), crop)


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
