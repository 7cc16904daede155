"""Ranks of torchrun: who am I, and how do we talk."""

import gc
import os
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from models.errors import FaceError
from training.config import ConfigError

# Rank 0 validates, and asks the teacher, while the others wait. That can take hours; a rank that has died is noticed by
# its connection, not by this.
_WAIT = timedelta(hours=12)


class RankError(FaceError):
    """Another rank has stopped; why is said by that rank."""

    code = "internal"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `world`; `device` is its own."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Rank 0 writes files and talks to the user."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """More than one process."""
        return self.world > 1

    def any(self, mine: bool) -> bool:
        """Whether it is so on any rank; all must ask."""
        if not self.many:
            return mine
        flag = torch.tensor(int(mine))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def mean(self, values: Tensor) -> Tensor:
        """Means over ranks of values on the CPU, the same on all; all must ask."""
        if self.many:
            distributed.all_reduce(values)
            values /= self.world
        return values

    def meet(self) -> None:
        """Wait until all ranks are here."""
        self.any(False)


def join(device: str) -> Ranks:
    """Meet the other ranks, if torchrun started any.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world > 1 and not distributed.is_initialized():
        # Verdicts and counts are on the CPU, where reading them does not wait for the GPU: that takes gloo as well.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=_WAIT)
    return Ranks(rank, world, chosen)


def speaks() -> bool:
    """Whether this process is the one that talks to the user."""
    return os.environ.get("RANK", "0") == "0"


def lost(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and distributed.is_initialized() and "gloo" in str(error)


def leave() -> None:
    """Say goodbye to the other ranks."""
    if distributed.is_initialized():
        gc.collect()  # of what still holds the group
        distributed.destroy_process_group()


def _device(asked: str, local: int) -> torch.device:
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cpu":
        return torch.device("cpu")
    if asked != "cuda":
        raise ConfigError(f"device must be auto, cpu or cuda, got {asked!r}")
    if not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, and PyTorch sees no GPU")
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
