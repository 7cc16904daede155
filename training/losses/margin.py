"""psi, the angular margin that L-Softmax and A-Softmax share, and the annealing that makes it trainable.

    psi(t) = (-1)^k cos(m t) - 2k   for t in [k pi / m, (k + 1) pi / m], k = 0 .. m - 1

(Liu et al., ICML 2016, eq. 6; Liu et al., CVPR 2017, eq. 7). It falls monotonically from 1 at t = 0 to 1 - 2m at t = pi
and is continuous at every breakpoint; m = 1 gives cos t.

With c = cos t, cos(m t) is the Chebyshev polynomial T_m(c), and k follows from comparing c with cos(k pi / m). So no
arc cosine is needed, whose gradient is infinite at |c| = 1. The slope is d psi / dc = (-1)^k m U_{m-1}(c): m^2 at
t = 0, and zero at each inner breakpoint. For even m the breakpoint t = pi / 2 is just where features of random weights
lie, which is why training starts with a large share of the plain cosine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 1000


@dataclass(frozen=True, slots=True)
class Annealing:
    """lambda(it) = max(minimum, base * (1 + gamma * it) ** -power), it counted from 1.

    The target logit is (psi + lambda cos t) / (1 + lambda): lambda -> infinity is plain softmax.
    """

    base: float = 1000.0
    gamma: float = 0.12
    power: float = 1.0
    minimum: float = 5.0

    def __post_init__(self) -> None:
        if not all(0 <= number < math.inf for number in (self.base, self.gamma, self.power, self.minimum)):
            raise ValueError("base, gamma, power and minimum of an annealing must be finite and not negative")

    @staticmethod
    def of(value: "Annealing | Sequence[float] | Mapping[str, float] | None") -> "Annealing | None":
        """An annealing out of its four numbers in order, or by name; None stays None, and means lambda = 0.

        Raises:
            ValueError: a name that is none of the four, more numbers than four, or what is no number or negative.
        """
        if value is None or isinstance(value, Annealing):
            return value
        try:
            return Annealing(**value) if isinstance(value, Mapping) else Annealing(*value)
        except TypeError:
            raise ValueError(f"annealing is base, gamma, power and minimum, as numbers; got {value!r}") from None

    def at(self, iteration: int) -> float:
        """lambda of an iteration."""
        return max(self.minimum, self.base * math.pow(1 + self.gamma * iteration, -self.power))


def check_margin(margin: int) -> int:
    """The margin, if it is an integer from 1 to 1000: psi is worked out in as many steps.

    Raises:
        ValueError: it is not.
    """
    if isinstance(margin, bool) or not isinstance(margin, int) or not 1 <= margin <= _MOST:
        raise ValueError(f"margin must be an integer from 1 to {_MOST}, got {margin!r}")
    return margin


def psi(cosine: Tensor, margin: int) -> Tensor:
    """psi as a function of cos t.

    Args:
        cosine: any shape, values in [-1, 1]; one that rounding puts outside goes on with the outer piece's polynomial,
            where a clamp would lose its gradient.
        margin: m >= 1.

    Returns:
        The same shape; differentiable, with a finite gradient everywhere.
    """
    breakpoints = [math.cos(k * math.pi / margin) for k in range(1, margin)]
    with torch.no_grad():  # which piece: a constant as far as the gradient goes
        piece = torch.zeros_like(cosine)
        for value in breakpoints:
            piece += cosine < value
        sign = 1 - 2 * (piece % 2)
    return sign * chebyshev(cosine, margin) - 2 * piece


def chebyshev(cosine: Tensor, degree: int) -> Tensor:
    """T_m(c) = cos(m arccos c), by T_m = 2 c T_{m-1} - T_{m-2}."""
    before, current = torch.ones_like(cosine), cosine
    for _ in range(degree - 1):
        before, current = current, 2 * cosine * current - before
    return current
