"""All that changes during a run: what a checkpoint holds, and how it is put back."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.losses.group import Group
from training.losses.reshard import full_optimiser_state, load_full_optimiser_state
from training.losses.sharded import ShardedLoss
from training.trainer.checkpoint import CheckpointError
from training.trainer.ema import Average
from training.trainer.guard import Remedies, Watch
from training.trainer.objective import Objective


class State:
    """Weights, optimiser, scaler, moving average, random numbers, step, remedies of the guard."""

    def __init__(
        self,
        backbone: nn.Module,
        objective: Objective,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: Average | None,
        watch: Watch,
    ) -> None:
        self.backbone, self.objective, self.optimiser = backbone, objective, optimiser
        self.scaler, self.average, self.watch = scaler, average, watch
        self.step, self.best, self.best_step = 0, -1.0, 0
        self.remedies = Remedies()

    def capture(self, config: TrainConfig) -> dict[str, Any]:
        """A checkpoint; all ranks must call."""
        return {
            **self.trained(config),
            "objective": self._objective_state(),
            "optimiser": self._optimiser_state(),
            "scaler": self.scaler.state_dict(),
            **_random_states(),
            "watch": self.watch.state_dict(),
            "remedies": self.remedies.state_dict(),
        }

    def trained(self, config: TrainConfig) -> dict[str, Any]:
        """The part that evaluation and export need: the network and its configuration."""
        return {
            "config": config.model_dump(mode="json"),
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "model": self.backbone.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put a checkpoint back.

        Raises:
            CheckpointError: it belongs to another network, or is one for evaluation only.
        """
        try:
            self.backbone.load_state_dict(saved["model"])
            self._restore_objective(saved["objective"])
            self._restore_optimiser(saved["optimiser"])
            self.scaler.load_state_dict(saved["scaler"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            _restore_random(saved, config_seed=int(saved["config"]["seed"]))
            self.watch.load_state_dict(saved["watch"])
            self.step, self.best, self.best_step = saved["step"], saved["best"], saved["best_step"]
            self.apply(Remedies.from_state(saved["remedies"]))
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"the checkpoint does not fit this configuration: {reason}") from error

    def apply(self, remedies: Remedies) -> None:
        """Take over what the guard has decided."""
        self.remedies = remedies
        if remedies.minimum_lambda is not None:
            self.objective.raise_minimum(remedies.minimum_lambda)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the backbone has the averaged weights, if an average is kept."""
        if self.average is None:
            yield
            return
        own: dict[str, Tensor] = {name: value.clone() for name, value in self.backbone.state_dict().items()}
        self.backbone.load_state_dict(self.average.state)
        try:
            yield
        finally:
            self.backbone.load_state_dict(own)

    def _objective_state(self) -> dict[str, Any]:
        main = self.objective.main
        if not isinstance(main, ShardedLoss):
            return self.objective.state_dict()
        rest = {name: value for name, value in self.objective.state_dict().items() if not name.startswith("main.")}
        return {**rest, "sharded": main.full_state_dict()}

    def _optimiser_state(self) -> dict[str, Any] | None:
        main = self.objective.main
        if isinstance(main, ShardedLoss):
            return full_optimiser_state(self.optimiser, main)
        return self.optimiser.state_dict()

    def _restore_optimiser(self, saved: dict[str, Any]) -> None:
        main = self.objective.main
        if isinstance(main, ShardedLoss):
            load_full_optimiser_state(self.optimiser, main, saved)
        else:
            self.optimiser.load_state_dict(saved)

    def _restore_objective(self, saved: dict[str, Any]) -> None:
        main = self.objective.main
        if not isinstance(main, ShardedLoss):
            self.objective.load_state_dict(saved)
            return
        whole = dict(saved)
        main.load_full_state_dict(whole.pop("sharded"))
        self.objective.load_state_dict(whole, strict=False)


def _random_states() -> dict[str, Tensor]:
    """States (R, bytes) of the generators of all ranks, of CPU and GPU: dropout differs between ranks."""
    states = {"random": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["random_cuda"] = torch.cuda.get_rng_state()
    return {name: Group.of().gather(state[None]) for name, state in states.items()}


def _restore_random(saved: dict[str, Any], config_seed: int) -> None:
    """Each rank its own; another number of ranks begins with new ones, which depend on the step."""
    group = Group.of()
    states = saved["random"].reshape(-1, len(torch.get_rng_state()))
    if len(states) != group.size:
        torch.manual_seed(config_seed + 1 + group.rank + group.size * (1 + saved["step"]))
        return
    torch.set_rng_state(states[group.rank].clone())  # PyTorch crashes on a view of something larger
    if torch.cuda.is_initialized() and "random_cuda" in saved:  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(saved["random_cuda"][group.rank].clone())
