"""Intervals, ROC, EER, AUC and TAR at false-match rates against brute force in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from training.calibrate import Pairs, compare_all
from training.data.errors import DataError
from training.evaluation import roc
from training.evaluation.intervals import bootstrap_over_people, rule_of_three, wilson

Floats = NDArray[np.float64]


def _labelled(seed: int, people: int = 30, photos: int = 4, noise: float = 1.0) -> tuple[NDArray[np.float32], Floats]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), photos)
    vectors = rng.normal(size=(people, 16))[labels] + noise * rng.normal(size=(len(labels), 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def _listed(seed: int, count: int = 400, steps: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    same = rng.random(count) < 0.4
    scores = np.clip(rng.normal(np.where(same, 0.5, 0.2), 0.15), -1, 1)
    return (np.round(scores * steps) / steps if steps else scores).astype(np.float32), same


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (1, 10), (7, 10), (10, 10), (3, 1000), (499, 500)])
def test_wilson_s_interval_is_that_of_scipy(successes: int, total: int) -> None:
    oracle = binomtest(successes, total).proportion_ci(0.95, method="wilson")

    assert wilson(successes, total) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.97])
def test_wilson_s_interval_holds_the_true_share_in_about_95_of_100_cases(share: float) -> None:
    drawn = np.random.default_rng(0).binomial(200, share, size=2000)
    held = [low <= share <= high for low, high in (wilson(int(successes), 200) for successes in drawn)]

    assert 0.92 <= np.mean(held) <= 0.985


@pytest.mark.parametrize("total", [50, 1000, 10**6])
def test_a_rate_of_3_in_n_shows_no_error_in_n_trials_five_times_in_a_hundred(total: int) -> None:
    assert (1 - rule_of_three(total)) ** total == pytest.approx(0.05, abs=0.006)


def test_rates_at_a_threshold_are_counted() -> None:
    scores, same = _listed(0, steps=50)
    pairs = roc.of_scores(scores, same)
    thresholds = np.unique(scores)

    fmr, fnmr = roc.fmr_at(pairs, thresholds), roc.fnmr_at(pairs, thresholds)

    assert fmr == pytest.approx([np.mean(scores[~same] >= threshold) for threshold in thresholds])
    assert fnmr == pytest.approx([np.mean(scores[same] < threshold) for threshold in thresholds])


def test_where_only_the_highest_impostors_are_kept_the_others_are_judged_by_the_sample() -> None:
    rng = np.random.default_rng(1)
    impostor = -np.sort(-rng.normal(0.1, 0.2, 20_000).astype(np.float32))
    none = np.zeros(0, np.int32)
    pairs = Pairs(impostor[:100], none, impostor[:3000], none, len(impostor), rng.permutation(impostor)[:5000])
    thresholds = np.linspace(-0.5, 0.9, 200)

    error = roc.fmr_at(pairs, thresholds) - [np.mean(impostor >= threshold) for threshold in thresholds]

    high = thresholds >= impostor[2999]
    assert np.abs(error[high]).max() < 1e-12
    assert np.abs(error[~high]).max() < 0.02


@pytest.mark.parametrize("steps", [0, 20])
def test_the_curve_goes_from_all_accepted_to_none_on_points_that_are_counted(steps: int) -> None:
    scores, same = _listed(2, steps=steps)

    found = roc.curve(roc.of_scores(scores, same))

    assert (found.fmr[0], found.fnmr[0]) == (1, 0)
    assert (found.fmr[-1], found.fnmr[-1]) == (0, 1)
    assert (np.diff(found.fmr) <= 0).all()
    assert (np.diff(found.fnmr) >= 0).all()
    assert found.fmr == pytest.approx([np.mean(scores[~same] >= threshold) for threshold in found.thresholds])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [0, 30])
def test_the_equal_error_rate_lies_between_the_two_rates_next_to_it(seed: int, steps: int) -> None:
    scores, same = _listed(seed, steps=steps)
    thresholds = np.append(np.unique(scores.astype(np.float64)), 2)
    fmr = np.array([np.mean(scores[~same] >= threshold) for threshold in thresholds])
    fnmr = np.array([np.mean(scores[same] < threshold) for threshold in thresholds])
    place = int(np.argmax(fmr <= fnmr))

    rate, threshold = roc.equal_error_rate(roc.of_scores(scores, same))

    low, high = max(fnmr[place - 1], fmr[place]), min(fmr[place - 1], fnmr[place])
    assert min(low, high) - 1e-9 <= rate <= max(low, high) + 1e-9
    assert thresholds[place - 1] <= threshold <= thresholds[place]


def test_the_equal_error_rate_is_zero_where_all_are_told_apart_and_one_half_where_none_is() -> None:
    apart = roc.of_scores(np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, True, False, False]))
    alike = roc.of_scores(np.full(4, 0.5), np.array([True, True, False, False]))

    assert roc.equal_error_rate(apart)[0] == pytest.approx(0)
    assert roc.equal_error_rate(alike)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [0, 10])
def test_the_area_counts_how_often_a_genuine_pair_is_the_more_similar(steps: int) -> None:
    scores, same = _listed(3, steps=steps)
    genuine, impostor = scores[same][:, None], scores[~same][None]

    area = roc.area_under_roc(roc.of_scores(scores, same))

    assert area == pytest.approx(np.mean((genuine > impostor) + 0.5 * (genuine == impostor)), abs=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.03, 0.01])
def test_tar_at_a_rate_is_that_of_the_lowest_threshold_that_few_enough_impostors_reach(rate: float) -> None:
    vectors, labels = _labelled(0)
    i, j = np.triu_indices(len(labels), k=1)
    scores = (vectors[i] * vectors[j]).sum(axis=1, dtype=np.float32)
    same = labels[i] == labels[j]
    # One more accepted impostor would be too many.
    allowed = int(np.floor(rate * (~same).sum() + 1e-9))
    lowest = np.sort(scores[~same])[::-1][allowed]

    point = roc.tar_at(vectors, labels, [rate])[rate]

    assert point.threshold == pytest.approx(lowest, abs=1e-6)
    assert point.tar == pytest.approx(np.mean(scores[same] > lowest), abs=1e-3)
    assert point.tar is not None
    assert point.tar_low is not None
    assert point.tar_high is not None
    assert point.tar_low < point.tar < point.tar_high
    assert point.interval == "Wilson"


def test_a_rate_that_the_pairs_cannot_state_gets_a_bound_and_no_number() -> None:
    vectors, labels = _labelled(1, people=20, photos=2)

    found = roc.tar_at(vectors, labels, [1e-1, 3 / 760, 1e-3])

    assert [point.measurable for point in found.values()] == [True, True, False]
    assert found[1e-3].tar is None
    assert found[1e-3].threshold is None
    assert "not measurable" in found[1e-3].note
    assert "760 impostor pairs" in found[1e-3].note
    assert "at most 3/N = 3.9e-03" in found[1e-3].note
    assert "only 3 false matches" in found[3 / 760].note


def test_the_bootstrap_is_wider_than_wilson_s_interval_where_few_people_make_many_pairs() -> None:
    vectors, labels = _labelled(2, people=12, photos=12, noise=1.5)
    data = roc.embedded_set(vectors, labels)
    pairs = compare_all(data)

    ((low, high),) = bootstrap_over_people(data, pairs, [0.01], rounds=100)

    point = roc.tar_points(pairs, [0.01], {0.01: (low, high)})[0]
    alone = roc.tar_points(pairs, [0.01])[0]
    assert point.interval == "bootstrap over people"
    assert point.tar == alone.tar
    assert alone.tar_low is not None
    assert alone.tar_high is not None
    assert high - low > 1.5 * (alone.tar_high - alone.tar_low)
    assert np.array_equal(bootstrap_over_people(data, pairs, [0.01], rounds=100), [[low, high]])


def test_without_one_error_the_bootstrap_says_nothing_and_wilson_s_interval_stands() -> None:
    scores = np.concatenate([np.full(50, 0.9), np.linspace(-0.2, 0.3, 100)]).astype(np.float32)
    pairs = roc.of_scores(scores, np.arange(150) < 50)

    point = roc.tar_points(pairs, [0.1], {0.1: (1.0, 1.0)})[0]

    assert (point.tar, point.interval) == (1, "Wilson")
    assert (point.tar_low, point.tar_high) == wilson(50, 50)


def test_without_rates_nothing_is_drawn() -> None:
    data = roc.embedded_set(*_labelled(3, people=4, photos=2))

    assert bootstrap_over_people(data, compare_all(data), []).shape == (0, 2)


def test_one_kind_of_pairs_alone_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="2 genuine and 0 impostor pairs: both kinds are needed"):
        roc.of_scores(np.zeros(2), np.array([True, True]))
    with pytest.raises(DataError, match="not finite"):
        roc.of_scores(np.array([0.0, np.inf]), np.array([True, False]))
