"""What share of the faces that matter an approximate search finds, by new photos of enrolled people, as it were.

A probe is a face of somebody who is there, as it might be on another photo: as near to those who are most like it as
it is to them, and turned in a direction of its own. What counts is found among the ten nearest, as far as they are
nearer than a stranger gets by chance; with people of a few faces most of the ten are strangers, who matter to nobody.
"""

from collections.abc import Callable

import numpy as np

from models.preprocess import Vectors
from service.domain import Vector
from service.gallery.index import ExactIndex, Found

NEAREST = 10
_PROBES = 200
_STRANGERS = 1000
_ALONE = 0.55  # how near a new photo is to a face that nobody else is like
_ONE_IN = 1000  # searches in which a stranger is by chance nearer than what counts
Search = Callable[[Vector, int], Found]


class Sample:
    """Probes, and what exact search finds that is near to them."""

    def __init__(self, index: ExactIndex, seed: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        faces, strangers = (index.vectors_of(index.some_rows(count, rng))[1] for count in (_PROBES, _STRANGERS))
        self._asked: list[tuple[Vector, set[int]]] = []
        if len(faces):
            floor = _by_chance(faces, strangers, len(index))
            probes = _seen_again(index, faces, floor, rng)
            for probe, found in zip(probes, index.search_all(probes, NEAREST), strict=True):
                self._asked.append((probe, {row for row, cosine in found if cosine >= floor}))

    def recall(self, search: Search) -> float:
        """The share of it that a search finds; 1 where nothing is near to anything."""
        near = sum(len(wanted) for _, wanted in self._asked)
        found = sum(len(wanted & {row for row, _ in search(probe, NEAREST)}) for probe, wanted in self._asked)
        return found / near if near else 1.0


def _by_chance(some: Vectors, others: Vectors, count: int) -> float:
    """A cosine that the nearest of so many strangers hardly ever exceeds, if theirs are normal."""
    cosines = (some @ others.T).ravel()
    low, middle, high = np.quantile(cosines, (0.1587, 0.5, 0.8413))
    # A normal tail is exp(-t^2 / 2) / (t sqrt(2 pi)) beyond t, which is to be one in `rare`.
    rare = 2 * np.log(count * _ONE_IN)
    return float(middle + (high - low) / 2 * np.sqrt(max(rare - np.log(2 * np.pi * rare), 1)))


def _seen_again(index: ExactIndex, faces: Vectors, floor: float, rng: np.random.Generator) -> Vectors:
    noise = rng.normal(size=faces.shape).astype(np.float32)
    probes = np.empty_like(faces)
    for place, (face, like) in enumerate(zip(faces, index.search_all(faces, NEAREST + 1), strict=True)):
        mates = index.vectors_of([row for row, cosine in like[1:] if cosine >= floor])[1]  # the first is the face
        towards = mates.sum(axis=0) if len(mates) else face
        towards = towards / np.sqrt(towards @ towards)
        nearness = min(float(face @ towards), 1) if len(mates) else _ALONE
        aside = noise[place] - (noise[place] @ towards) * towards
        probes[place] = nearness * towards + np.sqrt(1 - nearness**2) * aside / np.sqrt(aside @ aside)
    return probes
