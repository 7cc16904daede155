"""Two models on the same pairs: the difference, and an interval that covers it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from training.embeddings import EmbeddedSet
from training.evaluation.roc import embedded_set, tar_at
from training.retrain.comparing import Comparison, Difference, by_group, compare
from training.retrain.config import Gate
from training.retrain.decision_stages import _too_little, _worse

PEOPLE, IMAGES, D = 60, 5, 32
LABELS = np.repeat(np.arange(PEOPLE), IMAGES)


def _model(noise: float, seed: int = 0, own: int = 1) -> NDArray[np.float32]:
    """The same photos through a model of so much noise: common noise of the photo, and some of its own."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(PEOPLE, D))
    photo = rng.normal(size=(len(LABELS), D))
    mine = np.random.default_rng([seed, own]).normal(size=(len(LABELS), D))
    vectors = centres[LABELS] + noise * (photo + 0.3 * mine)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _set(noise: float, seed: int = 0, own: int = 1) -> EmbeddedSet:
    return embedded_set(_model(noise, seed, own), LABELS)


def test_a_model_compared_with_itself_differs_by_nothing() -> None:
    found = compare(_set(1.0), _set(1.0), 0.01, 100)

    assert found.tar is not None
    assert (found.tar.mean, found.tar.low, found.tar.high) == (0, 0, 0)
    assert found.accuracy is not None
    assert (found.accuracy.mean, found.accuracy.low, found.accuracy.high) == (0, 0, 0)


def test_the_figures_are_those_of_the_evaluation() -> None:
    found = compare(_set(0.8), _set(1.2), 0.01, 100)

    assert found.tar is not None
    assert found.tar.candidate == tar_at(_model(0.8), LABELS, [0.01])[0.01].tar
    assert found.tar.champion == tar_at(_model(1.2), LABELS, [0.01])[0.01].tar
    assert found.tar.low > 0


def test_exchanging_the_models_turns_the_difference_around() -> None:
    there, back = compare(_set(0.8), _set(1.2), 0.01, 100), compare(_set(1.2), _set(0.8), 0.01, 100)

    assert there.tar is not None
    assert back.tar is not None
    assert back.tar.mean == pytest.approx(-there.tar.mean)
    assert (back.tar.low, back.tar.high) == pytest.approx((-there.tar.high, -there.tar.low))


def test_the_paired_interval_is_narrower_than_the_two_models_own() -> None:
    found = compare(_set(1.0, own=1), _set(1.0, own=2), 0.01, 200)
    other = compare(_set(1.0, seed=0), _set(1.0, seed=9), 0.01, 200)  # other people: nothing is paired

    assert found.tar is not None
    assert other.tar is not None
    assert found.tar.high - found.tar.low < 0.75 * (other.tar.high - other.tar.low)


def test_the_interval_covers_the_true_difference_of_two_equal_models_most_of_the_time() -> None:
    covered = 0
    for seed in range(40):
        found = compare(_set(1.0, seed, 1), _set(1.0, seed, 2), 0.02, 100)
        assert found.tar is not None
        covered += found.tar.low <= 0 <= found.tar.high

    assert covered >= 34  # of 40 at 95 %: fewer than 34 has a chance under 1 %


def test_each_group_is_compared_within_itself() -> None:
    better, worse = _model(0.8), _model(0.8)
    second = LABELS >= PEOPLE // 2
    worse[second] = _model(1.5)[second]
    groups = {"site": tuple("b" if late else "a" for late in second)}

    a, b = by_group(embedded_set(worse, LABELS), embedded_set(better, LABELS), groups, 0.01, 100)

    assert (a.name, a.people, b.name, b.people) == ("site a", 30, "site b", 30)
    assert a.tar is not None
    assert a.tar.mean == 0
    assert b.tar is not None
    assert b.tar.high < 0


def test_pairs_too_few_for_the_rate_state_no_tar() -> None:
    few = embedded_set(_model(1.0)[:50], LABELS[:50])

    assert compare(few, few, 1e-6, 100).tar is None


# The gate.

GIVEN = Gate(margin=0.01, accuracy_margin=0.02, min_people=50, min_genuine_pairs=100)


def _found(low: float, name: str = "all", people: int = 60) -> Comparison:
    return Comparison(name, people, 600, 50_000, Difference(0.9, 0.9, low, 0.02), Difference(0.9, 0.9, -0.001, 0.001))


def test_the_gate_asks_that_the_whole_interval_lies_within_the_margin() -> None:
    assert list(_worse([_found(-0.0099)], GIVEN)) == []
    (reason,) = _worse([_found(-0.0101)], GIVEN)
    assert reason == (
        "TAR at FMR 0.001 0.9000 against 0.9000, a difference of +0.0000 (-0.0101 .. +0.0200), "
        "may be more than 0.01 lower"
    )


def test_a_group_that_is_worse_is_a_reason_and_one_that_is_too_small_is_not() -> None:
    (reason,) = _worse([_found(0), _found(-0.5, "sex f"), _found(-0.5, "sex m", people=49)], GIVEN)

    assert reason.startswith("sex f: TAR at FMR 0.001")


def test_an_interval_that_is_no_number_does_not_pass() -> None:
    assert len(list(_worse([_found(float("nan"))], GIVEN))) == 1


def test_too_little_to_judge_by_is_a_reason_each() -> None:
    few = Comparison("all", 10, 20, 30, None, None)

    assert list(_too_little(10, [few], GIVEN)) == [
        "10 people held out, at least 50 are needed",
        "20 genuine pairs, at least 100 are needed",
        "30 impostor pairs cannot state a TAR at FMR 0.001",
    ]
