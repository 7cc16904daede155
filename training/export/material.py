"""Labelled crops for an export: some to choose 8-bit ranges from, those of other people to measure on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.bundle import InputSpec
from models.image import Pixels
from training.data.aligned import AlignedSet, Crops, split_people
from training.data.augment import resize
from training.export.errors import ExportError
from training.export.measure import Labels

# More photos move no range and no rate that the gates look at, and each network has to embed them all.
CALIBRATION_CROPS = 256
MEASURED_CROPS = 2000
_CALIBRATION_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Material:
    """Crops in the size of the network's input: `calibration` (M, H, W, 3); `crops` (N, H, W, 3) with `labels` (N,).

    `others` are the people who are not measured on, in whatever size they came.
    """

    calibration: Crops
    crops: Crops
    labels: Labels
    description: str
    others: AlignedSet


def material(data: AlignedSet, spec: InputSpec, template: str, held_out: Sequence[str] = ()) -> Material:
    """Divide a set by people. Those of `held_out` are measured on, where they are all in it; else four fifths are.

    Args:
        data: aligned to the same template, in any size.
        spec: the network's input.
        template: what the network's crops are aligned to.
        held_out: people that the network was not trained on.

    Raises:
        ExportError: the set is aligned to something else, or is not in colour.
        DataError: too few people to divide.
    """
    if data.template != template:
        raise ExportError(f"{data.source} is aligned to {data.template or 'nothing'}, the network to {template}")
    if data.crops.shape[3] != 3:
        raise ExportError(f"{data.source} is not in colour")
    ranges, measured, unseen = _divide(data, held_out)
    measured = _first_people(measured, MEASURED_CROPS)
    rows = np.linspace(0, len(ranges) - 1, min(len(ranges), CALIBRATION_CROPS)).astype(np.int64)
    size = (spec.height, spec.width)
    return Material(
        calibration=_resized(ranges.crops[rows], size),
        crops=_resized(measured.crops, size),
        labels=measured.labels,
        description=f"{len(measured)} photos of {len(measured.people)} people of {data.source}"
        + (", held out from training" if unseen else "; the network may have been trained on them"),
        others=ranges,
    )


def _divide(data: AlignedSet, held_out: Sequence[str]) -> tuple[AlignedSet, AlignedSet, bool]:
    """For the ranges, to measure on, and whether the latter are known to be unseen."""
    kept = np.isin(np.asarray(data.people, np.object_), np.asarray(held_out, np.object_))
    if held_out and kept.sum() == len(set(held_out)) and not kept.all():
        mask = kept[data.labels]
        return data.subset(~mask), data.subset(mask), True
    measured, ranges = split_people(data, _CALIBRATION_SHARE, "export")
    return ranges, measured, False


def _first_people(data: AlignedSet, limit: int) -> AlignedSet:
    people = max(2, int((np.cumsum(data.counts) <= limit).sum()))
    return data if people >= len(data.people) else data.subset(data.labels < people)


class Resized(Sequence[Pixels]):
    """Crops in another size, each made when it is asked for: a large set does not fit into memory twice."""

    def __init__(self, crops: Crops, size: tuple[int, int]) -> None:
        self._crops = crops
        self._size = size

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: Any) -> Any:
        """One crop, or a list of them for a slice."""
        if isinstance(index, slice):
            return [resize(np.asarray(crop), self._size) for crop in self._crops[index]]
        return resize(np.asarray(self._crops[index]), self._size)


def _resized(crops: Crops, size: tuple[int, int]) -> Crops:
    return np.stack([resize(np.asarray(crop), size) for crop in crops])
