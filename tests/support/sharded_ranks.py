"""What each of three processes does in the tests of the sharded classifier: groups of 1, 2 and 3 of them train."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.losses import LOSSES
from training.losses.reshard import full_optimiser_state, load_full_optimiser_state
from training.losses.sharded import ShardedLoss, gather_batch

LOSS_PARAMS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "l_softmax": {"margin": 3, "annealing": (10, 0.5, 1, 0.1)},
    "a_softmax": {"margin": 4, "annealing": (10, 0.5, 1, 0.1)},
    "cosface": {"scale": 8.0, "margin": 0.2},
    "arcface": {"scale": 8.0, "margin": 0.3},
}
CLASSES, DIMENSION, INPUTS = 7, 5, 6  # 7 is divisible neither by 2 nor by 3
STEPS = 5
RANKS = 3
# Of 11 samples; by world size.
CUTS = {1: (0, 11), 2: (0, 4, 11), 3: (0, 4, 7, 11)}


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of all ranks."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def of(self, rank: int, world: int) -> "Step":
        """What one rank sees of it."""
        own = slice(*CUTS[world][rank : rank + 2])
        return Step(self.inputs[own], self.labels[own])


def batches(dtype: torch.dtype) -> list[Step]:
    """The same on every rank."""
    generator = torch.Generator().manual_seed(4)
    return [
        Step(
            torch.randn(11, INPUTS, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(CLASSES, (11,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def backbone(dtype: torch.dtype) -> nn.Module:
    """The same on every rank."""
    torch.manual_seed(2)
    return nn.Linear(INPUTS, DIMENSION).to(dtype)


def dense(name: str, dtype: torch.dtype) -> nn.Module:
    """The loss with all classes, the same on every rank."""
    torch.manual_seed(3)
    return LOSSES[name](DIMENSION, CLASSES, **LOSS_PARAMS[name]).to(dtype)


def optimiser(*modules: nn.Module) -> torch.optim.Optimizer:
    """As in the authors' runs, with a weight decay that shows."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def train(network: nn.Module, loss: nn.Module, moved_by: torch.optim.Optimizer, steps: list[Step]) -> list[float]:
    """Losses on the way."""
    values = []
    for step in steps:
        moved_by.zero_grad()
        value = loss(network(step.inputs), step.labels)
        value.backward()
        moved_by.step()
        values.append(value.item())
    return values


def work(rank: int, folder: str) -> None:
    """All that one process does; what it found is left in the folder, as `rank`.pt."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    optimiser(nn.Linear(1, 1))  # what torch loads for its first optimiser, now, and not while the others wait
    groups = {world: dist.new_group(list(range(world))) for world in CUTS}
    found: dict[Any, Any] = {}
    for world, group in groups.items():
        if rank < world:
            found |= dict(_findings(rank, world, group, Path(folder)))
    dist.barrier()
    for world, group in groups.items():
        if rank < world:
            found[world, "resumed"] = _resumed(rank, world, group, Path(folder))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _findings(rank: int, world: int, group: Any, folder: Path) -> Iterator[tuple[Any, Any]]:
    for name in LOSS_PARAMS:
        for dtype in (torch.float64, torch.float32):
            yield (world, "gradients", name, dtype), _gradients(rank, world, group, name, dtype)
            yield (world, "trained", name, dtype), _trained(rank, world, group, name, dtype)
    yield (world, "centres"), _centres(rank, world, group)
    yield (world, "sampled"), _sampled(rank, world, group)
    yield (world, "some rank has no sample"), _without_samples(rank, group)
    yield (world, "error"), _error(rank, group)
    if world == 2:
        _half_way(rank, group, folder)


def _sharded(name: str, dtype: torch.dtype, group: Any, **settings: Any) -> ShardedLoss:
    loss = ShardedLoss(name, DIMENSION, CLASSES, group=group, **settings, **LOSS_PARAMS[name]).to(dtype)
    loss.load_full_state_dict(dense(name, dtype).state_dict())
    return loss


def _gradients(rank: int, world: int, group: Any, name: str, dtype: torch.dtype) -> Any:
    loss, step = _sharded(name, dtype, group), batches(dtype)[0].of(rank, world)
    features = backbone(dtype)(step.inputs).detach().requires_grad_()
    value = loss(features, step.labels)
    value.backward()
    return value.item(), features.grad, loss.weight.grad


def _trained(rank: int, world: int, group: Any, name: str, dtype: torch.dtype) -> Any:
    loss, network = _sharded(name, dtype, group), DistributedDataParallel(backbone(dtype), process_group=group)
    values = train(network, loss, optimiser(network, loss), [step.of(rank, world) for step in batches(dtype)])
    return values, network.module.state_dict(), loss.full_state_dict()


def _centres(rank: int, world: int, group: Any) -> torch.Tensor:
    center = LOSSES["center"](INPUTS, CLASSES).double()
    for step in batches(torch.float64):
        own = step.of(rank, world)
        center.update(*gather_batch(own.inputs.requires_grad_(), own.labels, group))
    return center.centers


def _sampled(rank: int, world: int, group: Any) -> list[Any]:
    """Of each step: rows in use as classes, loss, gradient of the weight."""
    loss = _sharded("arcface", torch.float64, group, sample_rate=0.7, seed=5)
    network, found = backbone(torch.float64), []
    for step in batches(torch.float64):
        own = step.of(rank, world)
        loss.weight.grad = None
        value = loss(network(own.inputs), own.labels)
        value.backward()
        found.append((loss.rows_in_use(step.labels) + loss.classes.start, value.item(), loss.weight.grad))
    return found


def _without_samples(rank: int, group: Any) -> Any:
    step = batches(torch.float64)[0]
    own = slice(None) if rank == 0 else slice(0)
    features = step.inputs[own, :DIMENSION].requires_grad_()
    loss = _sharded("cosface", torch.float64, group)
    value = loss(features, step.labels[own])
    value.backward()
    return value.item(), features.grad


def _error(rank: int, group: Any) -> str:
    labels = torch.tensor([0, CLASSES if rank == 0 else 1])
    try:
        _sharded("softmax", torch.float64, group)(torch.zeros(2, DIMENSION, dtype=torch.float64), labels)
    except ValueError as error:
        return str(error)
    return ""


def _half_way(rank: int, group: Any, folder: Path) -> None:
    """Two ranks train for half of the steps and leave a checkpoint."""
    network, loss = DistributedDataParallel(backbone(torch.float64), process_group=group), _resumable(group)
    moved_by = optimiser(network, loss)
    train(network, loss, moved_by, [step.of(rank, 2) for step in batches(torch.float64)[: STEPS // 2]])
    classifier, momentum = loss.full_state_dict(), full_optimiser_state(moved_by, loss)
    if rank == 0:
        state = {"network": network.module.state_dict(), "classifier": classifier, "optimiser": momentum}
        torch.save(state, folder / "half.pt")


def _resumed(rank: int, world: int, group: Any, folder: Path) -> Any:
    """Any number of ranks goes on from it."""
    state = torch.load(folder / "half.pt")
    network, loss = backbone(torch.float64), _resumable(group)
    network.load_state_dict(state["network"])
    loss.load_full_state_dict(state["classifier"])
    parallel = DistributedDataParallel(network, process_group=group)
    moved_by = optimiser(parallel, loss)
    load_full_optimiser_state(moved_by, loss, state["optimiser"])
    train(parallel, loss, moved_by, [step.of(rank, world) for step in batches(torch.float64)[STEPS // 2 :]])
    return network.state_dict(), loss.full_state_dict()


def _resumable(group: Any) -> ShardedLoss:
    return _sharded("a_softmax", torch.float64, group)
