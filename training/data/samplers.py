"""Which photos make up which batch: a pure function of seed and step, so that a position in it is one number.

Nothing is carried from step to step: a run that is resumed, or that has another number of ranks reading with it, sees
the same photos at the same step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.data.people import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Picked:
    """One rank's photos of a step: `photos` (n,), and the epoch, which is also the number of the view, of each."""

    photos: Indices
    epochs: Indices


class ShuffledBatches:
    """Every photo once an epoch, in an order of the epoch's own; batches run on across the end of an epoch.

    With `cap`, at most that many photos of a person, drawn anew for each epoch: a person of whom there are hundreds
    would otherwise decide what the network learns.
    """

    def __init__(
        self,
        labels: NDArray[np.int32],
        batch: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        cap: int | None = None,
    ) -> None:
        if not len(labels):
            raise DataError("no photos to train on")
        self.batch, self.seed, self.rank, self.ranks = batch, seed, rank, ranks
        self._photos = len(labels)
        self._labels = None if cap is None else labels
        self._cap = cap or 0
        self.count = photos_an_epoch(labels, cap)
        self._orders: dict[int, Indices] = {}

    def at(self, step: int) -> Picked:
        """The photos of a step, counted from 0."""
        places = (step * self.ranks + self.rank) * self.batch + np.arange(self.batch, dtype=np.int64)
        epochs, offsets = np.divmod(places, self.count)
        photos = np.array([self._epoch(int(e))[o] for e, o in zip(epochs, offsets, strict=True)])
        return Picked(photos, epochs)

    def _epoch(self, epoch: int) -> Indices:
        if epoch not in self._orders:
            for old in [number for number in self._orders if number < epoch - 1]:
                del self._orders[old]
            order = _order(self.seed, epoch, self._photos)
            self._orders[epoch] = order if self._labels is None else order[_place(self._labels[order]) < self._cap]
        return self._orders[epoch]


class PeopleBatches:
    """P people with K photos each, as FaceNet's mining needs (Schroff et al., CVPR 2015, section 3.2).

    People come in turn, in an order of each round's own; photos of a person are drawn without replacement as long as
    there are enough. The epoch of a photo is its step, so that a repeated photo is augmented anew.

    Raises:
        DataError: fewer than P people have two photos.
    """

    def __init__(
        self, labels: NDArray[np.int32], people: int, images: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange(int(labels.max(initial=-1)) + 2))
        groups = [order[a:b] for a, b in pairwise(starts)]
        self.groups = [group for group in groups if len(group) >= 2]
        if len(self.groups) < people * ranks:
            raise DataError(
                f"{len(self.groups)} people have two or more photos; batches of {people} people on {ranks} "
                f"device(s) need {people * ranks}"
            )
        self.people, self.images, self.seed, self.rank, self.ranks = people, images, seed, rank, ranks

    def at(self, step: int) -> Picked:
        """The photos of a step, counted from 0: all of one person side by side."""
        # A round gives whole steps only, so that no person comes twice in one step.
        per_round = len(self.groups) // (self.people * self.ranks)
        turn, place = divmod(step, per_round)
        first = (place * self.ranks + self.rank) * self.people
        chosen = _order(self.seed, turn, len(self.groups))[first : first + self.people]
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        photos = np.concatenate([self._draw(self.groups[person], rng) for person in chosen])
        # Twice the same photo in one batch must not look the same.
        return Picked(photos, step * self.images + np.tile(np.arange(self.images), self.people))

    def _draw(self, group: Indices, rng: np.random.Generator) -> Indices:
        rounds = -(-self.images // len(group))
        return np.concatenate([rng.permutation(group) for _ in range(rounds)])[: self.images]


Batches = ShuffledBatches | PeopleBatches


def steps_from(batches: Batches, first: int, end: int) -> Iterator[Picked]:
    """The batches of the steps first .. end - 1."""
    return (batches.at(step) for step in range(first, end))


def photos_an_epoch(labels: NDArray[np.int32], cap: int | None) -> int:
    """How many photos an epoch of ShuffledBatches has, `cap` of a person at most."""
    return len(labels) if cap is None else int(np.minimum(np.bincount(labels), cap).sum())


def _place(labels: NDArray[np.int32]) -> Indices:
    """For each photo, how many of the same person come before it."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - starts
    return place


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Indices:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)
