"""Photos that tests use: some that packages ship, and those beside the project where they are there."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


def astronaut() -> NDArray[np.uint8]:
    """A photo of one person facing the camera, 512 x 512 RGB, that scikit-image ships."""
    return np.asarray(skimage.data.astronaut())


def hopper() -> NDArray[np.uint8]:
    """A photo of another person facing the camera, 512 wide and 600 high, RGB, that matplotlib ships."""
    return np.asarray(Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB"))


def group() -> NDArray[np.uint8]:
    """Both of them side by side, 512 pixels high."""
    other = Image.fromarray(hopper()).resize((437, 512))
    return np.concatenate([astronaut(), np.asarray(other)], axis=1)


def encode(image: NDArray[np.uint8], form: str = "PNG", **options: object) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def shared(name: str) -> Path:
    """A file or folder of the development data; the test is skipped where it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the development data {name} are not on this machine")
    return path
