"""Similarities to a calibration, against brute force, closed forms and an independent optimiser, in float64."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from models.calibration import Calibration, Tail
from training import calibrate
from training.calibrate import MIN_ERRORS, _points, compare_all, fit, fit_logistic, fit_tail, threshold_at
from training.data.people import DataError
from training.embeddings import EmbeddedSet

Floats = NDArray[np.float64]
DIMENSION = 32


def _labelled(vectors: Floats, people: NDArray[np.int_]) -> EmbeddedSet:
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return EmbeddedSet(
        vectors=unit,
        people=people.astype(np.int32),
        quality=np.ones(len(people), np.float32),
        names=tuple(f"person {number}" for number in range(people.max() + 1)),
        photos=tuple(f"photo {number}" for number in range(len(people))),
        failed=(),
    )


def _people(seed: int, counts: list[int], noise: float = 0.6) -> EmbeddedSet:
    """People evenly over the sphere, their photos scattered around them.

    A photo is evenly spread over the sphere too, and independent of every other person, so the rate at which two
    people reach a similarity is known exactly: `_false_match_rate`.
    """
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(len(counts)), counts)
    centres = rng.normal(size=(len(counts), DIMENSION))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    return _labelled(centres[people] + noise * rng.normal(size=(len(people), DIMENSION)) / DIMENSION**0.5, people)


def _false_match_rate(cosine: float) -> float:
    """P(inner product of two independent even unit vectors >= cosine): (1 + x) / 2 has a beta distribution."""
    half = (DIMENSION - 1) / 2
    return float(stats.beta(half, half).sf((1 + cosine) / 2))


def _cosine_at(rate: float) -> float:
    half = (DIMENSION - 1) / 2
    return float(2 * stats.beta(half, half).isf(rate) - 1)


def _brute_force(data: EmbeddedSet) -> tuple[Floats, list[int], Floats, list[frozenset[int]]]:
    """Genuine similarities with their person, impostor similarities with their people, pair by pair."""
    genuine, genuine_people, impostor, impostor_people = [], [], [], []
    for i in range(len(data.vectors)):
        for j in range(i + 1, len(data.vectors)):
            score = float(np.dot(data.vectors[i].astype(np.float64), data.vectors[j].astype(np.float64)))
            a, b = int(data.people[i]), int(data.people[j])
            if a == b:
                genuine.append(score)
                genuine_people.append(a)
            else:
                impostor.append(score)
                impostor_people.append(frozenset((a, b)))
    return np.array(genuine), genuine_people, np.array(impostor), impostor_people


def _measured_rate(data: EmbeddedSet, threshold: float) -> float:
    scores = data.vectors.astype(np.float64) @ data.vectors.T.astype(np.float64)
    apart = np.triu(data.people[:, None] != data.people[None, :])
    return float((scores[apart] >= threshold).mean())


def _assert_same_pairs(
    scores: NDArray[np.float32], people: list[object], expected: Floats, owners: list[object]
) -> None:
    """The same similarities with the same people, in whatever order; rounding may swap neighbours."""
    np.testing.assert_allclose(np.sort(scores), np.sort(expected), atol=1e-6)
    nearest = np.argsort(expected, kind="stable")
    found = np.argsort(scores, kind="stable")
    gaps = np.diff(expected[nearest])
    clear = np.concatenate([[True], gaps > 1e-5]) & np.concatenate([gaps > 1e-5, [True]])
    assert clear.mean() > 0.5
    for index in np.flatnonzero(clear):
        assert people[found[index]] == owners[nearest[index]]


# Comparing.


def test_every_pair_is_compared_once_and_keeps_its_people() -> None:
    data = _people(0, [1, 4, 2, 7, 3, 1, 5])
    genuine, genuine_people, impostor, impostor_people = _brute_force(data)

    pairs = compare_all(data)

    assert pairs.impostor_count == len(impostor) == len(pairs.top_impostors)
    _assert_same_pairs(pairs.genuine, [int(each) for each in pairs.genuine_people], genuine, list(genuine_people))
    tops = [frozenset(each) for each in pairs.top_people.tolist()]
    _assert_same_pairs(pairs.top_impostors, list(tops), impostor, list(impostor_people))
    np.testing.assert_allclose(np.sort(pairs.impostor_sample), np.sort(impostor), atol=1e-6)


def test_similarities_are_counted_in_steps_of_two_hundredths() -> None:
    data = _people(0, [1, 4, 2, 7, 3, 1, 5])
    genuine, _, impostor, _ = _brute_force(data)
    edges = np.linspace(-1, 1, 101)
    clear = min(np.abs(np.subtract.outer(np.concatenate([genuine, impostor]), edges)).min(axis=1))
    assert clear > 1e-6  # rounding moves none of them over an edge

    counts = compare_all(data).counts

    assert counts is not None
    assert list(counts.genuine) == [int(((genuine >= a) & (genuine < b)).sum()) for a, b in itertools.pairwise(edges)]
    assert list(counts.impostor) == [
        int(((impostor >= a) & (impostor < b)).sum()) for a, b in itertools.pairwise(edges)
    ]


def test_impostors_come_highest_first() -> None:
    pairs = compare_all(_people(1, [3] * 20))

    assert (np.diff(pairs.top_impostors) <= 0).all()


def test_photos_in_any_order_are_compared_alike() -> None:
    data = _people(2, [4] * 30)
    order = np.random.default_rng(3).permutation(len(data.people))
    shuffled = _labelled(data.vectors[order].astype(np.float64), data.people[order])

    straight, mixed = compare_all(data), compare_all(shuffled)

    assert mixed.impostor_count == straight.impostor_count
    np.testing.assert_allclose(np.sort(mixed.genuine), np.sort(straight.genuine), atol=1e-6)
    np.testing.assert_allclose(mixed.top_impostors, straight.top_impostors, atol=1e-6)


def test_of_a_large_set_the_highest_impostors_are_all_kept_and_the_rest_only_counted() -> None:
    """More than one block of rows, and enough pairs that only the top is kept."""
    data = _people(4, [6] * 250)
    scores = data.vectors.astype(np.float64) @ data.vectors.T.astype(np.float64)
    same = data.people[:, None] == data.people[None, :]
    upper = np.triu(np.ones(scores.shape, bool), k=1)
    impostor = -np.sort(-scores[upper & ~same])

    pairs = compare_all(data)

    assert pairs.impostor_count == len(impostor) == 250 * 249 // 2 * 36
    kept = len(pairs.top_impostors)
    assert 0.1 * len(impostor) + 1 < kept < 0.25 * len(impostor)
    np.testing.assert_allclose(pairs.top_impostors, impostor[:kept], atol=1e-6)
    np.testing.assert_allclose(np.sort(pairs.genuine), np.sort(scores[upper & same]), atol=1e-6)
    again = np.einsum("nd,nd->n", *(_centres(data)[pairs.top_people[:, side]] for side in (0, 1)))
    assert np.corrcoef(again, pairs.top_impostors)[0, 1] > 0.3  # the people are those of the pair


def _centres(data: EmbeddedSet) -> Floats:
    return np.stack([data.vectors[data.people == number].mean(axis=0) for number in range(len(data.names))])


def test_the_sample_of_impostors_is_distributed_as_all_of_them() -> None:
    data = _people(5, [4] * 300)
    pairs = compare_all(data)

    assert len(pairs.impostor_sample) < pairs.impostor_count / 2
    sample = pairs.impostor_sample.astype(np.float64)
    for rate in (0.5, 0.1, 0.01):
        assert (sample >= _cosine_at(rate)).mean() == pytest.approx(_measured_rate(data, _cosine_at(rate)), rel=0.05)


def test_the_sample_of_impostors_is_even_where_people_differ() -> None:
    """The second half of the people resemble one another; all of them come late in the comparison."""
    data = _people(24, [4] * 300)
    late = (data.people >= 150)[:, None]
    data = _labelled(data.vectors + np.where(late, 3 * np.eye(DIMENSION)[0], 0).astype(np.float64), data.people)
    scores = data.vectors.astype(np.float64) @ data.vectors.T.astype(np.float64)
    impostor = scores[np.triu(data.people[:, None] != data.people[None, :])]

    sample = compare_all(data).impostor_sample

    assert len(sample) < len(impostor) / 2
    assert (sample > 0.6).mean() == pytest.approx((impostor > 0.6).mean(), abs=0.01)
    assert 0.2 < (impostor > 0.6).mean() < 0.3


# Thresholds.


@pytest.mark.parametrize("count", [10, 137, 1000])
@pytest.mark.parametrize("rate", [0.5, 0.1, 0.05, 0.001])
def test_the_threshold_is_the_smallest_that_at_most_that_share_of_impostors_reach(count: int, rate: float) -> None:
    scores = np.random.default_rng(count).normal(0.1, 0.1, count).astype(np.float32)
    descending = -np.sort(-scores)

    threshold = threshold_at(descending, count, rate)

    assert (scores >= threshold).sum() <= rate * count + 1e-9
    one_step_lower = np.nextafter(np.float32(threshold), np.float32(-2))
    assert (scores >= one_step_lower).sum() > rate * count


def test_equal_similarities_are_let_in_or_kept_out_together() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32)

    assert 0.5 < threshold_at(scores, 10, 0.2) < 0.5001
    assert 0.1 < threshold_at(scores, 10, 0.4) < 0.1001


@pytest.mark.parametrize(
    ("rate", "count", "allowed"), [(0.29, 100, 29), (0.57, 100, 57), (1.1, 10, 11), (1e-3, 9000, 9)]
)
def test_a_share_that_floating_point_puts_just_under_a_whole_pair_counts_as_that_pair(
    rate: float, count: int, allowed: int
) -> None:
    scores = np.linspace(0.9, 0.1, count + 12).astype(np.float32)

    assert (scores >= threshold_at(scores, count, rate)).sum() == allowed


def test_at_each_stated_rate_the_fitted_data_have_at_most_that_rate_and_hardly_less() -> None:
    data = _people(6, [3] * 60)
    calibration = fit(data, "synthetic", rounds=20)
    impostor = compare_all(data).top_impostors

    for point in calibration.points:
        measured = (impostor >= point.threshold).mean()
        assert measured <= point.fmr
        assert measured > point.fmr - 2 / calibration.impostor_pairs


def test_only_rates_that_enough_impostor_pairs_stand_behind_are_stated() -> None:
    data = _people(7, [3] * 60)

    calibration = fit(data, "synthetic", rounds=20)

    low, high = calibration.fmr_range
    assert high == 0.1
    assert low * calibration.impostor_pairs >= MIN_ERRORS
    assert low / 2.5 * calibration.impostor_pairs < MIN_ERRORS  # the next stricter rate would have had too few


def test_thresholds_hold_for_people_who_were_not_there() -> None:
    fitted = fit(_people(8, [5] * 200), "one half", rounds=20)
    others = _people(9, [5] * 200)

    for point in fitted.points:
        assert _false_match_rate(point.threshold) == pytest.approx(point.fmr, rel=0.03 + 3 * point.fmr**-0.5 / 700)
        if point.fmr >= 1e-3:
            assert _measured_rate(others, point.threshold) == pytest.approx(point.fmr, rel=0.25)


def test_the_tar_is_the_share_of_genuine_pairs_that_reach_the_threshold() -> None:
    data = _people(10, [4] * 60, noise=1.5)
    genuine, *_ = _brute_force(data)

    points = fit(data, "synthetic", rounds=20).points

    assert 0.05 < points[-1].tar < points[0].tar < 1
    for point in points:
        assert point.tar == pytest.approx((genuine >= point.threshold).mean(), abs=1.5 / len(genuine))


# Intervals.


def test_each_interval_contains_its_point_and_has_a_width() -> None:
    for point in fit(_people(11, [3] * 80, noise=1.5), "synthetic", rounds=50).points:
        assert point.threshold_low <= point.threshold <= point.threshold_high
        assert point.tar_low <= point.tar <= point.tar_high
        assert point.threshold_high - point.threshold_low > 1e-4
        assert point.tar_high - point.tar_low > 1e-4


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    data = _people(12, [3] * 60)

    assert fit(data, "synthetic", rounds=20, seed=5) == fit(data, "synthetic", rounds=20, seed=5)
    assert fit(data, "synthetic", rounds=20, seed=5).points != fit(data, "synthetic", rounds=20, seed=6).points


def test_intervals_are_those_of_people_drawn_anew_with_all_of_their_pairs() -> None:
    """Each round written out as a list of pairs, in which a pair stands as often as both of its people were drawn."""
    counts = [3, 5, 2, 4, 6, 1, 3, 5, 4, 2, 6, 3, 5, 4, 2, 4, 3, 5]
    data = _people(25, counts, noise=1.2)
    pairs, rate, rounds = compare_all(data), 0.1, 20
    thresholds, tars = [], []
    for number in range(rounds):
        drawn = np.random.default_rng([0, number]).integers(len(counts), size=len(counts)).tolist()
        times = [drawn.count(person) for person in range(len(counts))]
        impostor = [
            float(score)
            for score, (a, b) in zip(pairs.top_impostors, pairs.top_people.tolist(), strict=True)
            for _ in range(times[a] * times[b])
        ]
        genuine = np.repeat(pairs.genuine, [times[person] for person in pairs.genuine_people])
        thresholds.append(sorted(impostor, reverse=True)[int(rate * len(impostor))])
        tars.append((genuine >= thresholds[-1]).mean())

    point = fit(data, "synthetic", rounds=rounds).points[0]

    assert point.fmr == rate
    expected = [*np.quantile(thresholds, [0.025, 0.975]), *np.quantile(tars, [0.025, 0.975])]
    assert [point.threshold_low, point.threshold_high, point.tar_low, point.tar_high] == pytest.approx(expected)


def test_pairs_tied_with_a_threshold_are_kept_out_of_its_interval_as_of_its_point() -> None:
    """All pairs have one similarity, so nobody matches at any rate, whoever is drawn."""
    people = np.repeat(np.arange(20), 3)
    vectors = np.zeros((60, 61))
    vectors[:, 0] = 1
    vectors[np.arange(60), np.arange(1, 61)] = 1
    data = _labelled(vectors, people)
    pairs = compare_all(data)
    assert len({*pairs.genuine.tolist(), *pairs.top_impostors.tolist()}) == 1

    points = _points(data, pairs, [0.1, 0.05], rounds=10, seed=0)

    for point in points:
        assert point.threshold_low == point.threshold == point.threshold_high > pairs.top_impostors[0]
        assert point.tar_low == point.tar == point.tar_high == 0


def _width_of_naive_interval(data: EmbeddedSet, rate: float, rounds: int) -> float:
    """As if every impostor pair were independent of every other."""
    rng = np.random.default_rng(0)
    scores = np.sort(_brute_force(data)[2])
    thresholds = [np.quantile(rng.choice(scores, len(scores)), 1 - rate) for _ in range(rounds)]
    low, high = np.quantile(thresholds, [0.025, 0.975])
    return float(high - low)


def test_many_photos_of_few_people_give_a_wider_interval_than_independent_pairs_would() -> None:
    data = _people(13, [20] * 15, noise=0.3)

    point = fit(data, "synthetic", rounds=100).points[0]

    assert point.threshold_high - point.threshold_low > 3 * _width_of_naive_interval(data, point.fmr, 100)


def test_single_photos_of_many_people_give_a_little_more_than_the_interval_of_independent_pairs() -> None:
    """A pair weighs the product of two counts, whose variance is 3 where that of one is 1: up to sqrt(3) wider."""
    data = _people(14, [2] + [1] * 298)

    point = fit(data, "synthetic", rounds=100).points[-1]

    naive = _width_of_naive_interval(data, point.fmr, 100)
    assert naive < point.threshold_high - point.threshold_low < 3**0.5 * 1.2 * naive


@pytest.fixture(scope="module")
def draws() -> list[Calibration]:
    """Calibrations on forty sets of people, drawn independently from the same population."""
    return [fit(_people(100 + number, [6] * 30, noise=1.2), "synthetic", rounds=60) for number in range(40)]


def test_at_least_nineteen_of_twenty_intervals_contain_the_true_threshold(draws: list[Calibration]) -> None:
    true = _cosine_at(0.05)
    points = [next(point for point in each.points if point.fmr == 0.05) for each in draws]

    inside = sum(point.threshold_low <= true <= point.threshold_high for point in points)

    assert inside >= 0.95 * len(points)


def test_intervals_are_as_wide_as_results_differ_between_sets_of_people_or_up_to_sqrt_3_wider(
    draws: list[Calibration],
) -> None:
    points = [each.points[1] for each in draws]

    for low, value, high in (("threshold_low", "threshold", "threshold_high"), ("tar_low", "tar", "tar_high")):
        stated = np.mean([getattr(point, high) - getattr(point, low) for point in points])
        seen = 2 * 1.96 * np.std([getattr(point, value) for point in points], ddof=1)
        assert 0.8 < stated / seen < 3**0.5 * 1.2


def test_a_round_that_draws_nobody_with_two_photos_says_nothing_about_the_tar() -> None:
    """Here every third round is of that kind. The one genuine pair is under all thresholds, whoever is drawn."""
    data = _people(15, [2] + [1] * 79)
    vectors = data.vectors.astype(np.float64)
    across = np.eye(DIMENSION)[0] - vectors[0, 0] * vectors[0]
    vectors[1] = 0.1 * vectors[0] + 0.99**0.5 * across / np.linalg.norm(across)

    points = fit(_labelled(vectors, data.people), "synthetic", rounds=50).points

    assert all(point.threshold_low > 0.15 for point in points)
    assert [(point.tar, point.tar_high) for point in points] == [(0, 0)] * len(points)


# Probability.


def _normal_scores(seed: int, genuine: float, impostor: float, deviation: float) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(genuine, deviation, 20_000), rng.normal(impostor, deviation, 100_000)


@pytest.mark.parametrize(("genuine", "deviation"), [(0.3, 0.1), (0.5, 0.1), (0.6, 0.08)])
def test_the_probability_of_normal_similarities_is_that_of_the_closed_form(genuine: float, deviation: float) -> None:
    """Two normal densities of one variance: log odds (a - b) x / s^2 - (a^2 - b^2) / 2 s^2."""
    a, b = _normal_scores(0, genuine, 0.05, deviation)

    logistic = fit_logistic(a.astype(np.float32), b.astype(np.float32))

    assert logistic.slope == pytest.approx((genuine - 0.05) / deviation**2, rel=0.1)
    middle = (genuine + 0.05) / 2
    assert -logistic.intercept / logistic.slope == pytest.approx(middle, abs=0.005)


def test_the_probability_is_what_an_independent_optimiser_finds() -> None:
    a, b = (scores.astype(np.float32) for scores in _normal_scores(1, 0.4, 0.1, 0.12))
    x = np.concatenate([a, b]).astype(np.float64)
    sign = np.concatenate([np.full(len(a), -1.0), np.ones(len(b))])
    weight = np.concatenate([np.full(len(a), 0.5 / len(a)), np.full(len(b), 0.5 / len(b))])

    def loss(beta: Floats) -> float:
        return float((weight * np.logaddexp(0, sign * (beta[0] * x + beta[1]))).sum())

    best = optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-15})
    logistic = fit_logistic(a, b)

    assert best.success
    assert [logistic.slope, logistic.intercept] == pytest.approx(best.x.tolist(), rel=1e-4)


def test_of_pairs_with_a_stated_probability_that_share_is_genuine() -> None:
    """At equal prior odds, on pairs that were not fitted."""
    logistic = fit_logistic(*(scores.astype(np.float32) for scores in _normal_scores(2, 0.35, 0.05, 0.1)))
    a, b = _normal_scores(3, 0.35, 0.05, 0.1)

    def stated(x: Floats) -> Floats:
        return 1 / (1 + np.exp(-(logistic.slope * x + logistic.intercept)))

    for low, high in ((0, 0.05), (0.05, 0.3), (0.3, 0.7), (0.7, 0.95), (0.95, 1)):
        inside_a = ((stated(a) >= low) & (stated(a) < high)).mean()
        inside_b = ((stated(b) >= low) & (stated(b) < high)).mean()
        inside = np.concatenate([stated(a), stated(b)])
        mean = inside[(inside >= low) & (inside < high)].mean()
        assert low - 0.02 < inside_a / (inside_a + inside_b) < high + 0.02
        assert low < mean < high


def test_a_set_with_more_impostors_than_genuine_pairs_still_has_equal_prior_odds() -> None:
    a, b = _normal_scores(4, 0.5, 0.1, 0.15)
    few = fit_logistic(a[:20_000].astype(np.float32), b[:20_000].astype(np.float32))
    many = fit_logistic(a[:2_000].astype(np.float32), b.astype(np.float32))

    assert -few.intercept / few.slope == pytest.approx(0.3, abs=0.01)
    assert -many.intercept / many.slope == pytest.approx(0.3, abs=0.01)


def test_similarities_that_do_not_overlap_give_a_steep_but_finite_slope_between_them() -> None:
    logistic = fit_logistic(np.full(10, 0.8, np.float32), np.full(300, 0.1, np.float32))

    assert 10 < logistic.slope < 1000
    assert logistic.slope * 0.8 + logistic.intercept > 5
    assert logistic.slope * 0.1 + logistic.intercept < -5


@pytest.mark.parametrize("deviation", [0.0, 0.001, 0.02, 0.05])
@pytest.mark.parametrize(("genuine", "impostor"), [(0.8, 0.1), (0.9, -0.1), (0.5, 0.05)])
def test_well_separated_similarities_are_fitted(genuine: float, impostor: float, deviation: float) -> None:
    rng = np.random.default_rng(6)
    a = rng.normal(genuine, deviation, 500).astype(np.float32)
    b = rng.normal(impostor, deviation, 50_000).astype(np.float32)

    logistic = fit_logistic(a, b)

    assert np.isfinite([logistic.slope, logistic.intercept]).all()
    assert impostor < -logistic.intercept / logistic.slope < genuine


def test_a_probability_that_does_not_settle_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (scores.astype(np.float32) for scores in _normal_scores(5, 0.4, 0.1, 0.1))
    monkeypatch.setattr(calibrate, "_SETTLED", 0.0)  # no step is smaller than that

    with pytest.raises(DataError, match="cannot be fitted") as caught:
        fit_logistic(a, b)
    assert "\n" not in caught.value.message


def test_people_no_more_like_themselves_than_like_others_are_refused_in_one_line() -> None:
    a, b = (scores.astype(np.float32) for scores in _normal_scores(5, 0.1, 0.4, 0.1))

    with pytest.raises(DataError, match="labels") as caught:
        fit_logistic(a, b)
    assert "\n" not in caught.value.message


# The tail.


def _pareto(shape: float, scale: float, count: int) -> Floats:
    """By the inverse of F(x) = 1 - (1 + shape * x / scale) ** (-1 / shape)."""
    rest = 1 - np.random.default_rng(7).random(count)
    return -scale * np.log(rest) if shape == 0 else scale * (rest**-shape - 1) / shape


@pytest.mark.parametrize("shape", [-0.4, -0.15, 0.0, 0.2])
@pytest.mark.parametrize("scale", [0.01, 0.05])
def test_the_tail_recovers_the_parameters_it_was_drawn_from(shape: float, scale: float) -> None:
    tail = fit_tail(_pareto(shape, scale, 50_000), 1e-3, 0.3)

    assert tail.shape == pytest.approx(shape, abs=0.02)
    assert tail.scale == pytest.approx(scale, rel=0.03)
    assert (tail.fmr, tail.threshold) == (1e-3, 0.3)


def test_few_exceedances_give_the_moments_by_their_definition() -> None:
    """E[X] = scale / (1 - shape); E[X (1 - F(X))] = scale / 2 (2 - shape) is half the mean of the smaller of two."""
    x = np.array([0.03, 0.001, 0.012, 0.007, 0.02, 0.004])
    smaller = [min(a, b) for index, a in enumerate(x) for b in x[index + 1 :]]

    tail = fit_tail(x, 1e-3, 0.3)

    assert tail.scale / (1 - tail.shape) == pytest.approx(x.mean())
    assert tail.scale / (2 * (2 - tail.shape)) == pytest.approx(np.mean(smaller) / 2)


@pytest.mark.parametrize("shape", [-0.4, -0.15, 0.0, 0.2])
def test_the_order_of_the_exceedances_does_not_matter(shape: float) -> None:
    drawn = _pareto(shape, 0.03, 500)

    assert fit_tail(drawn, 1e-3, 0.3) == fit_tail(np.sort(drawn)[::-1], 1e-3, 0.3)


@pytest.mark.parametrize("shape", [-0.3, -0.1, 1e-12, 0.0, 0.15])
@pytest.mark.parametrize("fmr", [9e-4, 1e-4, 1e-6, 1e-8])
def test_the_threshold_of_a_tail_has_the_rate_of_the_pareto_distribution(shape: float, fmr: float) -> None:
    tail = Tail(fmr=1e-3, threshold=0.3, scale=0.02, shape=shape)

    beyond = tail.threshold_at(fmr) - tail.threshold

    assert tail.fmr * stats.genpareto(shape, scale=0.02).sf(beyond) == pytest.approx(fmr, rel=1e-6)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.15])
def test_a_fitted_tail_states_rates_far_beyond_what_was_counted(shape: float) -> None:
    tail = fit_tail(_pareto(shape, 0.02, 20_000), 1e-3, 0.3)
    true = stats.genpareto(shape, scale=0.02)

    for fmr in (1e-4, 1e-5, 1e-6):
        assert 1e-3 * true.sf(tail.threshold_at(fmr) - 0.3) == pytest.approx(fmr, rel=0.4)


def test_the_tail_of_people_states_rates_stricter_than_any_that_was_measured() -> None:
    calibration = fit(_people(16, [3] * 300), "synthetic", rounds=20)

    assert calibration.tail is not None
    assert _false_match_rate(calibration.tail.threshold) == pytest.approx(1e-3, rel=0.2)
    assert calibration.fmr_range[0] > 1e-4
    for fmr in (1e-4, 1e-5, 1e-6):
        assert fmr / 3 < _false_match_rate(calibration.tail.threshold_at(fmr)) < 3 * fmr


def test_without_enough_pairs_for_a_tail_there_is_none() -> None:
    assert fit(_people(17, [3] * 60), "synthetic", rounds=20).tail is None


@pytest.mark.parametrize(
    "exceedances",
    [np.full(200, 0.02), np.full(200, 0.1 / 3), np.zeros(200), np.array([]), np.array([0.01]), np.eye(200)[0]],
)
def test_exceedances_that_are_all_alike_or_too_few_have_no_tail(exceedances: Floats) -> None:
    assert fit_tail(exceedances, 1e-3, 0.3) is None


# What cannot be calibrated on.


def test_a_set_in_which_nobody_has_two_photos_is_refused() -> None:
    with pytest.raises(DataError, match="no person has two photos"):
        fit(_people(18, [1] * 100), "synthetic")


def test_too_few_impostor_pairs_are_refused_with_their_number() -> None:
    with pytest.raises(DataError, match=r"^1125 impostor pairs are too few"):
        fit(_people(19, [5] * 10), "synthetic")


def test_the_fewest_pairs_that_state_two_rates_are_enough() -> None:
    enough = _people(20, [2] + [1] * 62)  # 64 photos: 2015 impostor pairs, 100 of them at a rate of 5 %
    too_few = _people(20, [2] + [1] * 61)

    assert [point.fmr for point in fit(enough, "synthetic", rounds=20).points] == [0.1, 0.05]
    with pytest.raises(DataError, match="too few"):
        fit(too_few, "synthetic", rounds=20)


def test_one_photo_under_many_names_is_refused_in_one_line() -> None:
    data = _people(21, [2] * 60)
    vectors = data.vectors.astype(np.float64)
    vectors[::2] = np.eye(DIMENSION)[0]

    with pytest.raises(DataError, match="same photo under two names") as caught:
        fit(_labelled(vectors, data.people), "synthetic", rounds=20)
    assert "\n" not in caught.value.message


# The record.


def test_the_calibration_states_what_it_was_measured_on() -> None:
    data = _people(22, [3] * 60)

    calibration = fit(data, "sixty synthetic people", "some-detector", rounds=20)

    assert (calibration.data, calibration.detector) == ("sixty synthetic people", "some-detector")
    assert (calibration.people, calibration.images) == (60, 180)
    assert (calibration.genuine_pairs, calibration.impostor_pairs) == (60 * 3, 60 * 59 // 2 * 9)
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
