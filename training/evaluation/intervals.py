"""How sure a measured rate is."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training import calibrate
from training.calibrate import Pairs
from training.embeddings import EmbeddedSet

# Standard normal deviate of a two-sided 95 % interval.
Z95 = 1.959963984540054


def wilson(successes: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a share (Wilson, JASA 22, 1927); right for independent trials, also near 0 and 1.

    Args:
        successes: 0 <= successes <= total.
        total: at least 1.
        z: normal deviate; the default gives 95 %.
    """
    share = successes / total
    spread = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula is exact, but not its rounding.
    return (0.0 if successes == 0 else max(centre - half, 0.0)), (
        1.0 if successes == total else min(centre + half, 1.0)
    )


def rule_of_three(total: int) -> float:
    """Upper 95 % bound of a rate that `total` independent trials have not once shown (Hanley and Lippman-Hand, 1983).

    The smallest rate that so many trials can say anything about: (1 - 3/N)^N is close to 5 %.
    """
    return min(3 / total, 1.0)


def bootstrap_over_people(
    data: EmbeddedSet, pairs: Pairs, rates: Sequence[float], rounds: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """95 % intervals of the TAR at each false-match rate, (R, 2), with the people drawn anew in each round.

    The rounds are those of the calibration (training/calibrate.py): pairs that share a person are not independent.

    Args:
        data: the set.
        pairs: all of its pairs.
        rates: false-match rates that the pairs can state.
        rounds: of the bootstrap.
        seed: of the bootstrap.
    """
    if not rates:
        return np.empty((0, 2))
    low, high = np.nanquantile(bootstrap_tars(data, pairs, rates, rounds, seed), [0.025, 0.975], axis=0)
    return np.stack([low, high], axis=1)


def bootstrap_tars(
    data: EmbeddedSet, pairs: Pairs, rates: Sequence[float], rounds: int, seed: int = 0
) -> NDArray[np.float64]:
    """TAR at each false-match rate in each round, (rounds, R); NaN where nobody drawn has two photos.

    A round draws the same people for the same seed and number of people: two models can be compared round by round.
    Arguments are those of `bootstrap_over_people`.
    """
    # A round needs only as many of the highest impostors as its weights can use up; this many are hardly ever all used.
    most = 100 + 20 * math.ceil(max(rates) * pairs.impostor_count)
    kept = replace(pairs, top_impostors=pairs.top_impostors[:most], top_people=pairs.top_people[:most])
    drawn = [
        calibrate._bootstrap(data, kept, list(rates), np.random.default_rng([seed, number]))[1]
        for number in range(rounds)
    ]
    return np.stack(drawn)
