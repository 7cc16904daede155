"""An optimiser's state with a sharded classifier in it, in a form that fits any number of ranks.

Momentum, like the weight it belongs to, is held in shards. A checkpoint that keeps one rank's would give it to every
rank when the run is resumed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from training.losses.sharded import ShardedLoss


def full_optimiser_state(optimiser: torch.optim.Optimizer, loss: ShardedLoss) -> dict[str, Any] | None:
    """On rank 0 the optimiser's state_dict with all classes' rows; None elsewhere. All ranks must call.

    Raises:
        ValueError: the optimiser does not move the loss's weight.
    """
    state = _with_rows(optimiser.state_dict(), optimiser, loss, len(loss.weight), loss.collect)
    return state if loss.group.rank == 0 else None


def load_full_optimiser_state(optimiser: torch.optim.Optimizer, loss: ShardedLoss, state: Mapping[str, Any]) -> None:
    """Load what `full_optimiser_state` gave, on this rank or on any of another number of ranks.

    Raises:
        ValueError: the state does not fit the optimiser.
    """
    optimiser.load_state_dict(_with_rows(state, optimiser, loss, loss.num_classes, loss.own_rows))


def _with_rows(
    state: Mapping[str, Any],
    optimiser: torch.optim.Optimizer,
    loss: ShardedLoss,
    rows: int,
    change: Callable[[Tensor], Tensor | None],
) -> dict[str, Any]:
    """The state with what has a row for each of the weight's `rows` changed."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    place = next((i for i, parameter in enumerate(parameters) if parameter is loss.weight), None)
    if place is None:
        raise ValueError("the optimiser does not move the sharded classifier")
    shape = (rows, loss.weight.shape[1])
    entries = {
        name: change(value) if isinstance(value, Tensor) and tuple(value.shape) == shape else value
        for name, value in state["state"].get(place, {}).items()
    }
    return {**state, "state": {**state["state"], **({place: entries} if entries else {})}}
