"""What changes for enrolled people when their collection gets another model: same nearest neighbour, same decisions?"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Vectors
from service.domain import TwoVectors

SAMPLE = 1000  # faces: half a million pairs


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two models on the same faces.

    faces: compared. rank1_overlap: share of faces whose nearest other face is of the same person under both; None with
    fewer than two faces. pairs: of faces, each with each. flipped_to_match, flipped_to_non_match: pairs that one model
    tells apart and the other does not, each at its own threshold; of_one_person: those of them that are of one person.
    None where a model has no calibration.
    """

    faces: int
    rank1_overlap: float | None
    pairs: int
    flipped_to_match: int | None = None
    flipped_to_match_of_one_person: int | None = None
    flipped_to_non_match: int | None = None
    flipped_to_non_match_of_one_person: int | None = None

    def document(self) -> dict[str, object]:
        """As it is written down."""
        return asdict(self)


def agreement(vectors: TwoVectors, thresholds: tuple[float, float] | None) -> Agreement:
    """Compare two models on faces of one collection.

    Args:
        vectors: of N faces.
        thresholds: the cosines at which the old and the new model tell people apart, if they have any.
    """
    count = len(vectors.people)
    if count < 2:
        return Agreement(count, None, 0)
    _, people = np.unique(np.asarray(vectors.people), return_inverse=True)
    old, new = vectors.old @ vectors.old.T, vectors.new @ vectors.new.T
    overlap = float((people[_nearest(old)] == people[_nearest(new)]).mean())
    pairs = count * (count - 1) // 2
    if thresholds is None:
        return Agreement(count, overlap, pairs)
    above = np.triu_indices(count, 1)
    one_person = (people[:, None] == people[None])[above]
    before, after = thresholds
    matched, matches = old[above] >= before, new[above] >= after
    gained, lost = ~matched & matches, matched & ~matches
    flips = (gained, gained & one_person, lost, lost & one_person)
    return Agreement(count, overlap, pairs, *(int(each.sum()) for each in flips))


def _nearest(similarities: Vectors) -> NDArray[np.intp]:
    others = similarities.copy()
    np.fill_diagonal(others, -np.inf)
    nearest: NDArray[np.intp] = others.argmax(axis=1)
    return nearest
