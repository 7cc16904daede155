"""The learning rate as a function of the step."""

import math

from training.config import Schedule


def learning_rate(step: int, total: int, base: float, schedule: Schedule) -> float:
    """Rate of a step.

    Args:
        step: from 0.
        total: steps of the run.
        base: rate after warm-up, before any decay.
        schedule: warm-up is linear and reaches `base` at step `warmup`; decay counts from there.
    """
    if step < schedule.warmup:
        return base * (step + 1) / (schedule.warmup + 1)
    done = min(1.0, (step - schedule.warmup) / max(1, total - schedule.warmup))
    return base * max(schedule.final, _decay(step, done, schedule))


def _decay(step: int, done: float, schedule: Schedule) -> float:
    match schedule.name:
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "poly":
            return math.pow(1 - done, schedule.power)
        case "step":
            return math.pow(schedule.factor, sum(step >= milestone for milestone in schedule.milestones))
        case "constant":
            return 1.0
