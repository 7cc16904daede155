"""Five landmarks to a crop: the only similarity transform in the house.

Training, evaluation and serving all cut their crops here, so a network never sees in production what it did not see
in training.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidImageError
from models.image import Pixels

Points = NDArray[np.float64]

# Eye, eye, nose, mouth corner, mouth corner, image-left first, in pixels of a crop 112 high. The 96 wide template is
# SphereFace's (Liu et al., CVPR 2017); the square one, used by ArcFace and SFace, is the same moved 8 pixels right.
_SPHEREFACE = (
    (30.2946, 51.6963),
    (65.5318, 51.5014),
    (48.0252, 71.7366),
    (33.5493, 92.3655),
    (62.7299, 92.2041),
)
_TEMPLATES = {
    "sphereface": (_SPHEREFACE, 96, 112),
    "arcface": (tuple((x + 8.0, y) for x, y in _SPHEREFACE), 112, 112),
}
TEMPLATE_NAMES = tuple(_TEMPLATES)
# Under this scale bilinear sampling skips source pixels; the photo is first reduced by averaging.
_REDUCE_BELOW = 0.5


@dataclass(frozen=True, slots=True)
class Template:
    """Where the five landmarks lie in a crop of `width` x `height` pixels."""

    name: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.name not in _TEMPLATES:
            raise ValueError(f"unknown alignment template {self.name!r}; known: {', '.join(TEMPLATE_NAMES)}")
        _, width, height = _TEMPLATES[self.name]
        if self.width * height != self.height * width:
            raise ValueError(f"template {self.name} has the shape {width}:{height}, not {self.width}:{self.height}")

    @property
    def points(self) -> Points:
        """Landmarks in crop pixels, float64 (5, 2), read-only."""
        return _points(self.name, self.height)


@lru_cache
def _points(name: str, crop_height: int) -> Points:
    points, _, height = _TEMPLATES[name]
    scaled: Points = np.asarray(points, dtype=np.float64) * (crop_height / height)
    scaled.setflags(write=False)
    return scaled


def of_shape(width: int, height: int) -> Template:
    """The template that a crop of this many pixels was cut by: each has a shape of its own.

    Raises:
        InvalidImageError: none has that shape.
    """
    for name, (_, wide, high) in _TEMPLATES.items():
        if width * high == height * wide:
            return Template(name, width, height)
    raise InvalidImageError(f"a crop of {width} x {height} pixels is of no template")


def similarity_transform(source: Points, target: Points) -> Points:
    """Least-squares similarity (rotation, uniform scale, translation; never a mirror image) of source onto target.

    Closed form on complex numbers; in two dimensions equal to Umeyama (IEEE PAMI 13(4), 1991) without reflection.

    Args:
        source: points (N, 2), N >= 2.
        target: points (N, 2).

    Returns:
        float64 (2, 3) matrix M with target ~ M[:, :2] @ source + M[:, 2].

    Raises:
        ValueError: points that coincide or are not finite.
    """
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("landmarks must be finite")
    s = source[:, 0] + 1j * source[:, 1]
    t = target[:, 0] + 1j * target[:, 1]
    centred = s - s.mean()
    spread = float(np.vdot(centred, centred).real)
    if spread < 1e-9:
        raise ValueError("landmarks coincide")
    a = np.vdot(centred, t - t.mean()) / spread
    b = t.mean() - a * s.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: Pixels, landmarks: Points, template: Template) -> Pixels:
    """Cut a face out of a photo so that its landmarks lie on the template.

    Args:
        image: uint8 (H, W, 3).
        landmarks: (5, 2) in pixels of `image`, image-left eye first.
        template: where they go.

    Returns:
        uint8 (template.height, template.width, 3); what lies outside the photo is black.

    Raises:
        ValueError: landmarks that coincide or are not finite.
    """
    matrix = similarity_transform(np.asarray(landmarks, dtype=np.float64), template.points)
    patch, matrix = _source_patch(image, matrix, template)
    crop: Pixels = cv2.warpAffine(patch, matrix, (template.width, template.height), flags=cv2.INTER_LINEAR)
    return crop


def _source_patch(image: Pixels, matrix: Points, template: Template) -> tuple[Pixels, Points]:
    """The part of the photo that the crop needs, reduced by a whole factor where the crop is much smaller."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    factor = int(1 / scale) if scale < _REDUCE_BELOW else 1
    x1, y1, x2, y2 = _footprint(matrix, template, margin=2 * factor)
    x1, y1 = max(x1, 0), max(y1, 0)
    x2, y2 = min(x2, image.shape[1]), min(y2, image.shape[0])
    if x2 - x1 < factor or y2 - y1 < factor:  # the crop lies outside the photo: black, but still a crop
        return np.zeros((1, 1, 3), np.uint8), np.array([[1.0, 0, -9], [0, 1, -9]])
    # Whole blocks of factor x factor pixels, so that one reduced pixel is the mean of exactly one block.
    x2, y2 = x1 + (x2 - x1) // factor * factor, y1 + (y2 - y1) // factor * factor
    patch = image[y1:y2, x1:x2]
    if factor > 1:
        size = (patch.shape[1] // factor, patch.shape[0] // factor)
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    # A reduced pixel u has its centre at x = factor * u + (factor - 1) / 2 + x1 of the photo.
    to_photo = np.array([[factor, 0, x1 + (factor - 1) / 2], [0, factor, y1 + (factor - 1) / 2], [0, 0, 1]])
    return patch, matrix @ to_photo


def _footprint(matrix: Points, template: Template, margin: int) -> tuple[int, int, int, int]:
    corners = np.array([[0, 0], [template.width, 0], [0, template.height], [template.width, template.height]])
    inverse = np.linalg.inv(matrix[:, :2])
    photo = (corners - matrix[:, 2]) @ inverse.T
    low, high = np.floor(photo.min(axis=0)) - margin, np.ceil(photo.max(axis=0)) + margin
    bound = 1e8  # far outside any photo, and still a safe integer
    low, high = np.clip(low, -bound, bound), np.clip(high, -bound, bound)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
