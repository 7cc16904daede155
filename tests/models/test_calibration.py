"""Thresholds at a stated false-match rate."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.calibration import Calibration, Logistic, Tail
from models.errors import CalibrationError

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
THRESHOLDS = (0.12, 0.23, 0.31, 0.38)
# A tail that starts where counting ends.
TAIL = {"fmr": 1e-3, "threshold": 0.31, "scale": 0.031, "shape": -0.02}


def _points(rates: tuple[float, ...] = RATES, thresholds: tuple[float, ...] = THRESHOLDS) -> list[dict[str, float]]:
    fixed = {"tar": 0.9, "tar_low": 0.85, "tar_high": 0.95}
    return [
        {"fmr": fmr, "threshold": t, "threshold_low": t - 0.01, "threshold_high": t + 0.01, **fixed}
        for fmr, t in zip(rates, thresholds, strict=True)
    ]


def _calibration(**changes: Any) -> Calibration:
    fields = {
        "data": "made up",
        "people": 100,
        "images": 300,
        "genuine_pairs": 300,
        "impostor_pairs": 40000,
        "points": _points(),
        "logistic": {"slope": 20.0, "intercept": -6.0},
        "tail": TAIL,
    }
    return Calibration.model_validate({**fields, **changes})


@pytest.mark.parametrize(("fmr", "threshold"), list(zip(RATES, THRESHOLDS, strict=True)))
def test_a_measured_rate_gives_its_own_threshold(fmr: float, threshold: float) -> None:
    found = _calibration().threshold_at(fmr)
    assert found.value == pytest.approx(threshold, abs=1e-12)
    assert found.target_fmr == fmr
    assert not found.extrapolated


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("index", range(3))
def test_between_two_rates_the_threshold_is_linear_in_the_logarithm_of_the_rate(index: int, share: float) -> None:
    exponent = math.log10(RATES[index]) * (1 - share) + math.log10(RATES[index + 1]) * share
    expected = THRESHOLDS[index] * (1 - share) + THRESHOLDS[index + 1] * share
    assert _calibration().threshold_at(10**exponent).value == pytest.approx(expected, abs=1e-9)


def test_counts_of_scores_are_optional_and_come_in_pairs_of_one_length() -> None:
    assert _calibration().scores is None
    assert _calibration(scores={"genuine": [0, 3], "impostor": [9, 1]}).scores is not None
    for genuine, impostor in (([0, 3], [9]), ([0, -3], [9, 1]), ([1], [1])):
        with pytest.raises(ValidationError):
            _calibration(scores={"genuine": genuine, "impostor": impostor})


def test_a_stricter_rate_never_gives_a_lower_threshold() -> None:
    values = [_calibration().threshold_at(float(fmr)).value for fmr in np.geomspace(1e-1, 1e-4, 200)]
    assert values == sorted(values)


@pytest.mark.parametrize("fmr", [0.2, 0.1000001, 0.9e-4, 1e-9, 0.0, -1.0, 1.0, math.nan, math.inf])
def test_a_rate_outside_what_was_measured_is_refused_with_the_range(fmr: float) -> None:
    with pytest.raises(CalibrationError, match="outside") as caught:
        _calibration().threshold_at(fmr)
    assert caught.value.details == {"minimum": 1e-4, "maximum": 1e-1}


@pytest.mark.parametrize("fpir", [0.001, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("size", [1, 2, 7, 50, 1000, 10**6, 10**9])
def test_the_gallery_threshold_is_for_the_rate_of_independent_comparisons(fpir: float, size: int) -> None:
    found = _calibration().threshold_for_gallery(fpir, size)
    fmr = 1 - (1 - np.longdouble(fpir)) ** (1 / np.longdouble(size))
    expected = min(float(fmr), RATES[0])
    assert found.target_fmr == pytest.approx(expected, rel=1e-8)
    assert found.extrapolated == (expected < RATES[-1])
    if not found.extrapolated:
        assert found.value == pytest.approx(_calibration().threshold_at(found.target_fmr).value, abs=1e-9)


def test_a_gallery_of_one_face_is_a_verification() -> None:
    found = _calibration().threshold_for_gallery(0.01, 1)
    assert found.value == pytest.approx(_calibration().threshold_at(0.01).value)


def test_an_empty_gallery_is_treated_as_one_of_one_face() -> None:
    assert _calibration().threshold_for_gallery(0.01, 0) == _calibration().threshold_for_gallery(0.01, 1)


def test_a_larger_gallery_never_gets_a_lower_threshold() -> None:
    sizes = np.unique(np.geomspace(1, 1e12, 400).astype(int)).tolist()
    values = [_calibration().threshold_for_gallery(0.01, size).value for size in sizes]
    assert values == sorted(values)
    assert values[-1] > values[0]
    assert max(values) <= 1


def test_a_stricter_fpir_never_gets_a_lower_threshold() -> None:
    values = [_calibration().threshold_for_gallery(float(fpir), 100).value for fpir in np.geomspace(0.5, 1e-6, 100)]
    assert values == sorted(values)


def test_the_fitted_tail_takes_over_without_a_jump() -> None:
    calibration = _calibration()
    sizes = range(90, 115)  # an FMR of 1e-4 lies between
    found = [calibration.threshold_for_gallery(0.01, size) for size in sizes]
    assert {item.extrapolated for item in found} == {True, False}
    steps = np.diff([item.value for item in found])
    assert (steps >= 0).all()
    assert steps.max() < 0.005


def test_a_tail_that_starts_too_low_does_not_undercut_what_was_measured() -> None:
    low = _calibration(tail={**TAIL, "threshold": 0.1})
    assert low.threshold_for_gallery(0.01, 200).value == THRESHOLDS[-1]


def test_without_a_tail_a_rate_under_the_measured_range_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"needs an FMR under 0\.0001"):
        _calibration(tail=None).threshold_for_gallery(0.01, 1000)
    assert not _calibration(tail=None).threshold_for_gallery(0.01, 50).extrapolated


@pytest.mark.parametrize("shape", [-0.3, -1e-12, 0.0, 1e-12, 0.2])
@pytest.mark.parametrize("fmr", [1e-3, 1e-5, 1e-8])
def test_the_tail_is_the_inverse_of_the_pareto_formula(shape: float, fmr: float) -> None:
    tail = Tail(fmr=1e-3, threshold=0.0, scale=0.02, shape=shape)  # low, so that the bound of 1 is not met
    excess = tail.threshold_at(fmr) / 0.02
    back = math.exp(-excess) if abs(shape) < 1e-9 else (1 + shape * excess) ** (-1 / shape)
    assert 1e-3 * back == pytest.approx(fmr, rel=1e-6)


def test_the_tail_is_continuous_in_its_shape_at_zero() -> None:
    values = [Tail(fmr=1e-3, threshold=0.3, scale=0.02, shape=s).threshold_at(1e-7) for s in (-2e-9, 0.0, 2e-9)]
    assert max(values) - min(values) < 1e-8


def test_a_cosine_threshold_never_exceeds_one() -> None:
    assert Tail(fmr=1e-3, threshold=0.9, scale=0.5, shape=0.5).threshold_at(1e-12) == 1.0


def test_the_tail_agrees_with_a_sample_it_describes() -> None:
    """Draw a million impostor similarities with an exponential tail; the threshold must cut off the stated share."""
    rng = np.random.default_rng(11)
    sample = 0.3 + rng.exponential(0.03, 1_000_000)
    threshold = Tail(fmr=0.5, threshold=0.3 + 0.03 * math.log(2), scale=0.03, shape=0.0).threshold_at(1e-3)
    assert (sample >= threshold).mean() == pytest.approx(1e-3, rel=0.15)


@pytest.mark.parametrize("similarity", [-1.0, -0.2, 0.0, 0.3, 0.31, 0.8, 1.0])
def test_the_probability_is_the_logistic_of_the_similarity(similarity: float) -> None:
    expected = 1 / (1 + np.exp(-np.float64(20 * similarity - 6)))
    assert _calibration().probability(similarity) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("slope", "intercept"), [(20.0, -6.0), (1e5, -3e4), (1e-3, 0.0), (1.0, 1e9), (1.0, -1e9)])
def test_the_probability_rises_from_zero_to_one_and_never_leaves_them(slope: float, intercept: float) -> None:
    calibration = _calibration(logistic={"slope": slope, "intercept": intercept})
    values = [calibration.probability(float(s)) for s in np.linspace(-1, 1, 201)]
    assert values == sorted(values)
    assert values[0] >= 0
    assert values[-1] <= 1


@pytest.mark.parametrize(
    ("rates", "thresholds"),
    [
        ((1e-2, 1e-1), (0.2, 0.3)),
        ((1e-1, 1e-2), (0.3, 0.2)),
        ((1e-1, 1e-1), (0.2, 0.3)),
        ((1e-1, 1e-3, 1e-2), (0.1, 0.2, 0.3)),
        ((1e-1,), (0.1,)),
        ((), ()),
        ((0.6, 1e-2), (0.1, 0.2)),
        ((1e-1, 0.0), (0.1, 0.2)),
        ((1e-1, 1e-2), (0.1, 1.1)),
    ],
    ids=["rates rise", "thresholds fall", "a rate twice", "out of order", "one", "none", "over half", "zero", "over 1"],
)
def test_operating_points_that_do_not_go_from_lax_to_strict_are_refused(
    rates: tuple[float, ...], thresholds: tuple[float, ...]
) -> None:
    with pytest.raises(ValidationError):
        _calibration(points=_points(rates, thresholds))


def test_two_rates_may_share_a_threshold() -> None:
    found = _calibration(points=_points((1e-1, 1e-2), (0.3, 0.3))).threshold_at(0.05)
    assert found.value == pytest.approx(0.3)


@pytest.mark.parametrize("slope", [0.0, -1.0, math.inf, math.nan])
def test_a_probability_that_does_not_rise_is_refused(slope: float) -> None:
    with pytest.raises(ValidationError):
        Logistic(slope=slope, intercept=0)
