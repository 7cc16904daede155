"""Rates of error by group: what one threshold for all means for each value of an attribute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training import calibrate
from training.embeddings import EmbeddedSet
from training.evaluation.intervals import wilson


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Errors within one group at the overall threshold, with Wilson's 95 % intervals; None where there are no pairs.

    Pairs of two people count where both are of the group, pairs of one person where both photos are.
    """

    attribute: str
    value: str
    photos: int
    genuine_pairs: int
    impostor_pairs: int
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    fnmr: float | None
    fnmr_low: float | None
    fnmr_high: float | None

    @property
    def tar(self) -> float | None:
        """1 - FNMR."""
        return None if self.fnmr is None else 1 - self.fnmr


def group_rows(data: EmbeddedSet, groups: Mapping[str, Sequence[str]], threshold: float) -> tuple[GroupRow, ...]:
    """Each value of each attribute of a set, all pairs within it.

    Args:
        data: the set, N photos.
        groups: N values an attribute.
        threshold: similarity from which on a pair matches: that of all photos together.
    """
    return tuple(
        _of_set(data, name, value, np.array([other == value for other in values], np.bool_), threshold)
        for name, values in groups.items()
        for value in sorted(set(values))
    )


def group_rows_of_pairs(
    scores: NDArray[np.floating], same: NDArray[np.bool_], groups: Sequence[str], threshold: float
) -> tuple[GroupRow, ...]:
    """Each group of listed pairs (P,); the number of photos is not known and 0."""
    rows = []
    for value in sorted(set(groups)):
        mask = np.array([other == value for other in groups], np.bool_)
        genuine, impostor = scores[mask & same], scores[mask & ~same]
        matches = int((impostor >= threshold).sum())
        rows.append(_row("group", value, 0, (len(genuine), int((genuine < threshold).sum())), (len(impostor), matches)))
    return tuple(rows)


def _of_set(data: EmbeddedSet, name: str, value: str, mask: NDArray[np.bool_], threshold: float) -> GroupRow:
    part = replace(data, vectors=data.vectors[mask], people=data.people[mask])
    genuine = impostor = misses = matches = 0
    for scores, first, second in calibrate._blocks(part):
        same, reached = first == second, scores >= threshold
        genuine += int(same.sum())
        impostor += int((~same).sum())
        misses += int((same & ~reached).sum())
        matches += int((~same & reached).sum())
    return _row(name, value, int(mask.sum()), (genuine, misses), (impostor, matches))


def _row(name: str, value: str, photos: int, genuine: tuple[int, int], impostor: tuple[int, int]) -> GroupRow:
    return GroupRow(
        name, value, photos, genuine[0], impostor[0], *_share(impostor[1], impostor[0]), *_share(genuine[1], genuine[0])
    )


def _share(errors: int, total: int) -> tuple[float, float, float] | tuple[None, None, None]:
    return (errors / total, *wilson(errors, total)) if total else (None, None, None)
