"""How fit a face is for recognition, 0..1, from four things that can be measured without a further network.

    quality = (size * sharpness * pose * exposure) ** (1/4)

    size       distance between the eyes in the photo / 35 pixels, at most 1 (at 35 the crop of 112 is not enlarged)
    sharpness  variance of the Laplacian of the grey crop / (itself + 100)
    pose       yaw * pitch from the landmarks, after the roll is turned out:
               yaw   = 1 - |nose between the eyes, off the middle| / (half the distance between the eyes)
               pitch = 1 - |nose between eyes and mouth, off the middle| / (half the distance from eyes to mouth)
    exposure   min(1, contrast / 30) * (1 - share of clipped pixels), contrast = standard deviation of grey,
               clipped = darker than 8 or brighter than 247

The geometric mean lets one bad factor pull the score down; each factor is 1 for a large, sharp, frontal, well lit face.
"""

import math
from collections.abc import Sequence

import cv2

from models.alignment import Points
from models.image import Pixels

_FULL_EYE_DISTANCE = 35.0
_SHARPNESS_KNEE = 100.0
_FULL_CONTRAST = 30.0
_DARK, _BRIGHT = 8, 247


def quality(landmarks: Points, crop: Pixels) -> float:
    """Fitness of a face for recognition.

    Args:
        landmarks: (5, 2) in pixels of the photo.
        crop: the aligned crop, uint8 RGB.

    Returns:
        0..1 by the formula in this module's docstring.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    points = [complex(x, y) for x, y in landmarks.tolist()]
    factors = (_size(points), _sharpness(grey), _pose(points), _exposure(grey))
    return float(math.prod(factors) ** 0.25)


def _size(points: Sequence[complex]) -> float:
    return min(abs(points[1] - points[0]) / _FULL_EYE_DISTANCE, 1.0)


def _sharpness(grey: Pixels) -> float:
    variance = _deviation(cv2.Laplacian(grey, cv2.CV_32F)) ** 2
    return variance / (variance + _SHARPNESS_KNEE)


def _pose(points: Sequence[complex]) -> float:
    eyes = points[1] - points[0]
    if abs(eyes) < 1e-6:
        return 0.0
    middle, along = (points[0] + points[1]) / 2, eyes / abs(eyes)
    nose, left, right = ((each - middle) / along for each in points[2:])  # roll turned out, origin between the eyes
    half_eyes = abs(eyes) / 2
    half_height = max((left.imag + right.imag) / 4, 1e-6)
    yaw = 1 - min(abs(nose.real) / half_eyes, 1.0)
    pitch = 1 - min(abs(nose.imag - half_height) / half_height, 1.0)
    return yaw * pitch


def _exposure(grey: Pixels) -> float:
    clipped = 1 - cv2.countNonZero(cv2.inRange(grey, _DARK, _BRIGHT)) / grey.size
    return min(_deviation(grey) / _FULL_CONTRAST, 1.0) * (1 - clipped)


def _deviation(values: Pixels | cv2.typing.MatLike) -> float:
    """The standard deviation; OpenCV's is quicker than NumPy's for so few values."""
    return float(cv2.meanStdDev(values)[1][0, 0])
