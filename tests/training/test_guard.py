"""Signs of failure, and what is done about each."""

import math

import pytest

from training.trainer.guard import SATURATED, Remedies, Watch


def _verdict(watch: Watch, losses: list[float], distances: list[float] | None = None) -> str | None:
    for number, loss in enumerate(losses):
        failure = watch.see(loss, distances[number] if distances else None)
        if failure is not None:
            return failure.sign
    return None


def test_a_loss_that_falls_past_chance_is_no_failure() -> None:
    falling = [math.log(100) * (1.5 - step / 100) for step in range(120)]

    assert _verdict(Watch(20, 100), falling) is None


def test_a_loss_stuck_at_chance_means_nothing_is_learned() -> None:
    stuck = [math.log(100) + 0.001 * (-1) ** step for step in range(30)]

    assert "ln C" in (_verdict(Watch(20, 100), stuck) or "")
    assert _verdict(Watch(20, 1000), stuck) is None


def test_a_saturated_softmax_is_seen() -> None:
    assert pytest.approx(87.3365, abs=1e-4) == SATURATED
    assert "saturated" in (_verdict(Watch(10, 100), [SATURATED + 0.01] * 12) or "")


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_seen_at_once(loss: float) -> None:
    assert _verdict(Watch(1000, 100), [loss]) == "the loss is not a number"


def test_triplets_at_the_margin_are_a_collapse_only_when_everything_is_at_one_place() -> None:
    assert "margin" in (_verdict(Watch(5, 100, 0.2), [0.2] * 9, [1e-5] * 9) or "")
    assert _verdict(Watch(5, 100, 0.2), [0.2] * 9, [0.5] * 9) is None


def test_a_watch_goes_on_from_a_checkpoint() -> None:
    first, second = Watch(6, 100), Watch(6, 100)
    for _ in range(4):
        first.see(math.log(100))
    second.load_state_dict(first.state_dict())

    assert _verdict(second, [math.log(100)]) is None
    assert "ln C" in (_verdict(second, [math.log(100)]) or "")


def test_the_first_remedy_of_an_annealed_loss_is_a_larger_smallest_lambda() -> None:
    first = Remedies().next(0.0, raise_to=5.0)
    second = first.next(5.0, raise_to=5.0)

    assert (first.minimum_lambda, first.lr_scale) == (5.0, 1.0)
    assert (second.minimum_lambda, second.rollbacks) == (10.0, 2)


def test_without_a_lambda_the_learning_rate_is_halved() -> None:
    remedies = Remedies().next(None, raise_to=5.0).next(None, raise_to=5.0)

    assert (remedies.minimum_lambda, remedies.lr_scale) == (None, 0.25)
    assert Remedies.from_state(remedies.state_dict()) == remedies


def test_a_collapse_is_seen_where_semi_hard_mining_finds_no_triplet() -> None:
    assert "all embeddings are one" in (_verdict(Watch(5, 100, 0.2), [0.0] * 9, [0.0] * 9) or "")
    assert _verdict(Watch(5, 100, 0.2), [0.0] * 9, [1.0] * 9) is None
