"""What the ranks of a process group tell each other about a batch; a process alone is one rank and tells nobody.

Every rank of the group makes the same calls in the same order: one that stays away leaves the others waiting.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Group:
    """This process's place among the `size` ranks of a group; None is the default group."""

    rank: int
    size: int
    handle: dist.ProcessGroup | None = None

    @staticmethod
    def of(group: dist.ProcessGroup | None = None) -> "Group":
        """The ranks of a group, or the only one where no process group was initialised.

        Raises:
            ValueError: this process is not in the group.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return Group(0, 1)
        rank = dist.get_rank(group)
        if rank < 0:
            raise ValueError("this process is no rank of the group")
        return Group(rank, dist.get_world_size(group), group)

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of `count` things a rank (this one, unless told) holds: contiguous, sizes differ by at most one."""
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    def reduce(self, values: Tensor, by: Any = dist.ReduceOp.SUM) -> Tensor:
        """Values, any shape, summed (or else) over ranks, in place; no gradient passes."""
        if self.size > 1:
            dist.all_reduce(values, by, group=self.handle)
        return values

    @torch.no_grad()
    def gather(self, rows: Tensor) -> Tensor:
        """All ranks' rows (n_r, ...) as (N, ...), by rank; n_r may differ, and be 0. No gradient passes."""
        return rows.detach() if self.size == 1 else self._gather(rows, self.counts(rows))

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """All ranks' rows (n_r, ...) as (N, ...); the gradient that comes back is `size` times the sum over ranks.

        `size` times, because what made the rows is replicated, and DistributedDataParallel divides its gradient by the
        number of ranks.
        """
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered

    def cross_entropy(self, logits: Tensor, samples: Tensor, columns: Tensor) -> Tensor:
        """Mean cross entropy of N samples whose classes are shared out over ranks; the same scalar on each.

        Args:
            logits: (N, K_r) of all samples for this rank's classes.
            samples: (T_r,) of those whose target this rank holds; over all ranks, every sample once.
            columns: (T_r,) of their targets in logits.
        """
        loss: Tensor = _CrossEntropy.apply(logits, samples, columns, self)  # type: ignore[no-untyped-call]
        return loss

    def collect(self, rows: Tensor, count: int) -> Tensor | None:
        """The `count` things (count, ...) that ranks hold a `share` of each, on the CPU of rank 0; None elsewhere.

        One share at a time, so that a device never holds more than its own and one other.
        """
        rows = rows.detach().contiguous()
        if self.rank:
            dist.send(rows, group=self.handle, group_dst=0)
            return None
        every = torch.empty(count, *rows.shape[1:], dtype=rows.dtype)
        for rank in range(self.size):
            held = self.share(count, rank)
            part = rows if rank == 0 else rows.new_empty(len(held), *rows.shape[1:])
            if rank:
                dist.recv(part, group=self.handle, group_src=rank)
            every[held.start : held.stop] = part.cpu()
        return every

    def counts(self, rows: Tensor) -> list[int]:
        """How many rows each rank has."""
        own = torch.tensor([len(rows)], device=rows.device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.handle)
        return torch.cat(every).tolist()

    def _gather(self, rows: Tensor, counts: list[int]) -> Tensor:
        # Padded to the longest: gloo gathers equal sizes only.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        every = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(every, padded, group=self.handle)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group) -> Tensor:
        counts = group.counts(rows)
        start = sum(counts[: group.rank])
        ctx.group, ctx.own = group, slice(start, start + len(rows))
        return group._gather(rows, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # A sum over all rows, of which a rank keeps its own: a reduce_scatter would need batches of one size.
        whole = ctx.group.reduce(gradient.contiguous().clone())
        return whole[ctx.own] * ctx.group.size, None


class _CrossEntropy(torch.autograd.Function):
    """Equations: training/losses/sharded.py. Backward needs no word from the others."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, samples: Tensor, columns: Tensor, group: Group) -> Tensor:
        top = group.reduce(logits.amax(dim=1), dist.ReduceOp.MAX)
        shares = (logits - top[:, None]).exp_()
        target = torch.zeros_like(top).index_put_((samples,), logits[samples, columns] - top[samples])
        total, target = group.reduce(torch.stack([shares.sum(dim=1), target]))
        ctx.save_for_backward(shares.div_(total[:, None]), samples, columns)
        loss: Tensor = (total.log() - target).mean()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        shares, samples, columns = ctx.saved_tensors
        scale = gradient / len(shares)
        slope = shares * scale
        slope[samples, columns] -= scale
        return slope, None, None, None


def gather_batch(features: Tensor, labels: Tensor, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
    """The batch of all ranks, by rank, without gradient: what centres are moved by, so that all ranks move them alike.

    Args:
        features: (n, D) of this rank; n may differ between ranks.
        labels: (n,).
        group: the ranks; None is the default group, or this process alone if there is none.

    Returns:
        Features (N, D) and labels (N,), the same on every rank.
    """
    members = Group.of(group)
    return members.gather(features), members.gather(labels)
