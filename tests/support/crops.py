"""A small set of people that can be told apart: a pattern each, with noise."""

import numpy as np

from training.data.aligned import AlignedSet


def people_set(
    people: int = 12, images: int = 6, size: int = 16, channels: int = 3, noise: float = 30.0, seed: int = 0
) -> AlignedSet:
    """Crops (people * images, size, size, channels); photos are named "person-03/2"."""
    rng = np.random.default_rng(seed)
    # Coarse patterns: noise of single pixels would be averaged away by the first pooling.
    coarse = rng.normal(127, 50, (people, 4, 4, channels))
    patterns = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    crops = patterns[:, None] + rng.normal(0, noise, (people, images, size, size, channels))
    names = [f"person-{number:02d}" for number in range(people)]
    return AlignedSet.of(
        np.clip(crops, 0, 255).astype(np.uint8).reshape(-1, size, size, channels),
        [name for name in names for _ in range(images)],
        [f"{name}/{number}" for name in names for number in range(images)],
        source="patterns",
    )
