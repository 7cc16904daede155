"""Augmentation of one aligned crop, with its own random generator: what a photo becomes does not depend on the others.

Strengths are standard deviations and probabilities of training.config.Augment. Order: low resolution, geometry, flip,
blur, colour, JPEG, occlusion: roughly that of how a photo is taken, stored and spoilt.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from training.config import Augment

Crop = NDArray[np.uint8]


def augment(crop: Crop, size: tuple[int, int], settings: Augment, rng: np.random.Generator) -> Crop:
    """An augmented copy.

    Args:
        crop: uint8 (h, w, channels).
        size: height and width of the result.
        settings: what may happen.
        rng: decides what does.

    Returns:
        uint8 (size[0], size[1], channels), C-contiguous.
    """
    image = crop
    if _happens(settings.low_resolution, rng):
        image = _low_resolution(image, rng)
    image = _geometry(image, size, settings, rng)
    if _happens(settings.flip, rng):
        image = image[:, ::-1]
    if _happens(settings.blur, rng):
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6) * size[0] / 112)
    image = _colour(image, settings, rng)
    if _happens(settings.jpeg, rng):
        image = _jpeg(image, rng)
    if _happens(settings.occlude, rng):
        image = _occlude(image, rng)
    return np.ascontiguousarray(image).reshape(*size, crop.shape[2])


def resize(crop: Crop, size: tuple[int, int]) -> Crop:
    """The crop in another size, not augmented: averaging when smaller, bilinear when larger."""
    if crop.shape[:2] == size:
        return crop
    how = cv2.INTER_AREA if crop.shape[0] > size[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(crop, (size[1], size[0]), interpolation=how), np.uint8).reshape(*size, crop.shape[2])


def _happens(probability: float, rng: np.random.Generator) -> bool:
    return probability > 0 and rng.random() < probability


def _low_resolution(image: Crop, rng: np.random.Generator) -> Crop:
    height, width = image.shape[:2]
    share = rng.uniform(0.25, 0.8)
    small = cv2.resize(
        image, (max(4, round(width * share)), max(4, round(height * share))), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _geometry(image: Crop, size: tuple[int, int], settings: Augment, rng: np.random.Generator) -> Crop:
    if not (settings.rotate or settings.scale or settings.shift):
        return resize(image.reshape(*image.shape[:2], -1), size)
    height, width = image.shape[:2]
    zoom = size[0] / height
    if zoom < 0.75:  # warpAffine samples four pixels, however many there are: average them first
        image, zoom = resize(image.reshape(height, width, -1), size), 1.0
        height, width = size
    scale = zoom * np.exp(rng.normal(0, settings.scale))
    angle = np.deg2rad(rng.normal(0, settings.rotate))
    across, down = rng.normal(0, settings.shift, 2) * size[1]
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    # The middle of the crop goes to the middle of the result, moved by the shift.
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array(
        [
            [a, -b, (size[1] - 1) / 2 + across - a * x + b * y],
            [b, a, (size[0] - 1) / 2 + down - b * x - a * y],
        ]
    )
    warped = cv2.warpAffine(image, matrix, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _colour(image: Crop, settings: Augment, rng: np.random.Generator) -> Crop:
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 3 and _happens(settings.gray, rng):
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if not (settings.brightness or settings.contrast or settings.colour):
        return image
    gain = np.full(channels, np.exp(rng.normal(0, settings.contrast)))
    if settings.colour:
        gain = gain * np.exp(rng.normal(0, settings.colour, channels))
    # Contrast around middle grey; a look-up table costs a tenth of arithmetic on the pixels.
    levels = np.arange(256)[:, None]
    table = (levels - 127.5) * gain + 127.5 + rng.normal(0, settings.brightness * 127.5)
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8).reshape(256, 1, channels)
    return np.asarray(cv2.LUT(image, table if channels == 3 else table[..., 0]), np.uint8)


def _jpeg(image: Crop, rng: np.random.Generator) -> Crop:
    stored, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
    if not stored:  # cannot happen for uint8 with one or three channels
        return image
    gray = image.ndim == 2 or image.shape[2] == 1
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR), np.uint8)


def _occlude(image: Crop, rng: np.random.Generator) -> Crop:
    """A block of one colour over up to a third of each side (Zhong et al., Random Erasing, AAAI 2020)."""
    image = np.array(image)
    height, width = image.shape[:2]
    h, w = (int(rng.integers(max(1, side // 12), max(2, side // 3) + 1)) for side in (height, width))
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    image[y : y + h, x : x + w] = rng.integers(0, 256, image.shape[2] if image.ndim == 3 else None)
    return image
