"""The learning rate over a run, and the moving average of weights."""

import math

import pytest
import torch

from training.config import Schedule
from training.trainer.ema import Average
from training.trainer.schedule import learning_rate


def test_warm_up_rises_linearly_to_the_base() -> None:
    schedule = Schedule(name="constant", warmup=4)

    rates = [learning_rate(step, 10, 0.5, schedule) for step in range(6)]

    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_cosine_falls_from_the_base_to_zero() -> None:
    schedule = Schedule(name="cosine", warmup=10)

    assert learning_rate(10, 110, 0.1, schedule) == pytest.approx(0.1)
    assert learning_rate(60, 110, 0.1, schedule) == pytest.approx(0.05)
    assert learning_rate(35, 110, 0.1, schedule) == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))
    assert learning_rate(110, 110, 0.1, schedule) == pytest.approx(0, abs=1e-12)


def test_steps_divide_the_rate_at_each_milestone() -> None:
    schedule = Schedule(name="step", milestones=(5, 8), factor=0.1)

    rates = [learning_rate(step, 10, 1.0, schedule) for step in (0, 4, 5, 7, 8, 9)]

    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_poly_is_a_power_of_what_is_left_and_stops_at_the_final_share() -> None:
    schedule = Schedule(name="poly", power=2, final=0.04)

    assert learning_rate(50, 100, 1.0, schedule) == pytest.approx(0.25)
    assert learning_rate(99, 100, 1.0, schedule) == pytest.approx(0.04)


def test_an_average_of_weights_is_its_definition() -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = Average(module, decay=0.5)
    expected = 1.0
    for step in range(1, 30):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update(module)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step

    assert average.state["weight"][0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_an_average_counts_batches_with_the_network_and_goes_on_from_a_checkpoint() -> None:
    torch.manual_seed(0)
    module = torch.nn.BatchNorm1d(3)
    average, copy = Average(module, 0.9), Average(module, 0.9)
    for _ in range(3):
        module(torch.randn(8, 3))
        average.update(module)
    copy.load_state_dict(average.state_dict())
    module(torch.randn(8, 3))
    average.update(module)
    copy.update(module)

    assert average.state["num_batches_tracked"].item() == 4
    assert all(torch.equal(average.state[name], copy.state[name]) for name in average.state)
