"""A cosine into a decision: threshold at a stated false-match rate, probability, open-set threshold by gallery size.

A threshold alone says nothing; "0.36" is lax for one model and strict for another. A calibration states, for one
contract, how often two different people reach a similarity. It is fitted by `facesphere-train calibrate` and travels
in the bundle's manifest. FMR, FNMR, FPIR as in ISO/IEC 19795-1.
"""

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import CalibrationError

# No fitted tail says anything about rarer events, and the arithmetic ends not far below.
SMALLEST_FMR = 1e-18


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OperatingPoint(_Frozen):
    """The smallest cosine at which at most `fmr` of the impostor pairs match, with its 95 % interval.

    `tar` is the share of genuine pairs that match there. Both intervals are bootstrapped over people, since pairs
    that share a person are not independent.
    """

    fmr: float = Field(gt=0, le=0.5)
    threshold: float = Field(ge=-1, le=1)
    threshold_low: float
    threshold_high: float
    tar: float = Field(ge=0, le=1)
    tar_low: float
    tar_high: float


class Logistic(_Frozen):
    """P(same person | similarity) = 1 / (1 + exp(-(slope * similarity + intercept))), at equal prior odds."""

    slope: float = Field(gt=0)
    intercept: float


class Tail(_Frozen):
    """Generalised Pareto tail of the impostor similarities over `threshold`, for rates too small to count.

    FMR(t) = fmr * (1 + shape * (t - threshold) / scale) ** (-1 / shape). Hosking and Wallis, Technometrics 29(3), 1987.
    """

    fmr: float = Field(gt=0, le=0.5)
    threshold: float
    scale: float = Field(gt=0)
    shape: float

    def threshold_at(self, fmr: float) -> float:
        """The threshold that the fitted tail gives for a rate below `self.fmr`."""
        ratio = math.log(self.fmr / fmr)
        grown = ratio if abs(self.shape) < 1e-9 else math.expm1(self.shape * ratio) / self.shape
        return min(self.threshold + self.scale * grown, 1.0)


class ScoreCounts(_Frozen):
    """How many pairs have which similarity, in equally wide steps over -1..1: what histograms are drawn from."""

    genuine: tuple[int, ...] = Field(min_length=2, max_length=1000)
    impostor: tuple[int, ...]

    @model_validator(mode="after")
    def _same_steps(self) -> "ScoreCounts":
        if len(self.genuine) != len(self.impostor) or min(*self.genuine, *self.impostor) < 0:
            raise ValueError("genuine and impostor pairs are counted in the same steps")
        return self


class Threshold(_Frozen):
    """A cosine threshold (inclusive) and the rate it stands for."""

    value: float
    target_fmr: float
    extrapolated: bool = False


class Calibration(_Frozen):
    """What was measured, on how much, and the curves fitted to it."""

    data: str
    people: int = Field(ge=2)
    images: int = Field(ge=2)
    genuine_pairs: int = Field(ge=1)
    impostor_pairs: int = Field(ge=1)
    detector: str = ""
    points: tuple[OperatingPoint, ...] = Field(min_length=2)
    logistic: Logistic
    tail: Tail | None = None
    scores: ScoreCounts | None = None  # of bundles calibrated since they are kept

    @model_validator(mode="after")
    def _stricter_is_higher(self) -> "Calibration":
        rates = [point.fmr for point in self.points]
        thresholds = [point.threshold for point in self.points]
        if rates != sorted(set(rates), reverse=True) or thresholds != sorted(thresholds):
            raise ValueError("operating points must go from lax to strict: falling FMR, rising threshold")
        return self

    @property
    def fmr_range(self) -> tuple[float, float]:
        """Smallest and largest rate that was measured."""
        return self.points[-1].fmr, self.points[0].fmr

    def covers(self, fmr: float) -> bool:
        """Whether a threshold at that rate was measured."""
        low, high = self.fmr_range
        return low <= fmr <= high

    def threshold_at(self, fmr: float) -> Threshold:
        """Threshold for a false-match rate within the measured range.

        Between two measured rates the threshold is interpolated over log10(FMR).

        Raises:
            CalibrationError: outside the range; the data cannot vouch for such a rate.
        """
        low, high = self.fmr_range
        if not low <= fmr <= high:
            raise CalibrationError(
                f"target_fmr {fmr:g} is outside what this model is calibrated for, {low:g} to {high:g}",
                minimum=low,
                maximum=high,
            )
        return Threshold(value=self._interpolate(fmr), target_fmr=fmr)

    def threshold_for_gallery(self, fpir: float, gallery_size: int) -> Threshold:
        """Threshold at which a stranger is named with probability `fpir` in a gallery of that many faces.

        Comparisons are taken as independent: FPIR = 1 - (1 - FMR)^N, so FMR = 1 - (1 - FPIR)^(1/N). Rates under the
        measured range come from the fitted tail and are marked as extrapolated.

        Raises:
            CalibrationError: the rate is under the measured range and no tail was fitted, or under any that a tail
                can be trusted with.
        """
        fmr = -math.expm1(math.log1p(-fpir) / max(gallery_size, 1))
        low, high = self.fmr_range
        if fmr >= low:
            return Threshold(value=self._interpolate(min(fmr, high)), target_fmr=min(fmr, high))
        if fmr < SMALLEST_FMR:
            raise CalibrationError(f"an FPIR of {fpir:g} over {gallery_size} faces is smaller than can be stated")
        if self.tail is None:
            raise CalibrationError(f"an FPIR of {fpir:g} over {gallery_size} faces needs an FMR under {low:g}")
        value = max(self.tail.threshold_at(fmr), self.points[-1].threshold)
        return Threshold(value=value, target_fmr=fmr, extrapolated=True)

    def probability(self, similarity: float) -> float:
        """P(same person) at equal prior odds, 0..1."""
        z = self.logistic.slope * similarity + self.logistic.intercept
        return 1 / (1 + math.exp(-max(min(z, 700.0), -700.0)))

    def _interpolate(self, fmr: float) -> float:
        rates = [math.log10(point.fmr) for point in reversed(self.points)]
        thresholds = [point.threshold for point in reversed(self.points)]
        return float(np.interp(math.log10(fmr), rates, thresholds))
