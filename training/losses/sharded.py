"""A classification loss whose classes are shared out over ranks, for more classes than one device holds.

(An et al., "Partial FC: Training 10 Million Identities on a Single Machine", ICCVW 2021, and "Killing Two Birds with
One Stone: Efficient and Robust Training of Face Recognition CNNs by Partial FC", CVPR 2022.)

Rank r of R holds rows floor(C r / R) .. floor(C (r + 1) / R) - 1 of W. Features and labels are gathered; each rank
makes the logits z_ij of all N samples for its classes; and with t_i = max_j z_ij, S_i = sum_j exp(z_ij - t_i) over all

    L = 1/N sum_i ( log S_i + t_i - z_iy )              dL/dz_ij = ( exp(z_ij - t_i) / S_i - [j = y_i] ) / N

so that three numbers a sample travel and not C. L is the mean over the batch of all ranks, and the same on each.

Gradients, if every rank calls backward on its own copy of L:
    rows of W    dL/dW, exactly: nothing is left to average, so W must stay outside of DistributedDataParallel.
    features     R dL/dx: DistributedDataParallel divides the backbone's gradients by R, and then they are exactly those
                 of one process on the whole batch, also where ranks have batches of different sizes.

With sample_rate q < 1 a step uses, of a rank's C_r rows, those of all classes in the batch, filled up at random to
q C_r (CVPR 2022, section 3); L is the softmax over the rows in use. The others get a gradient of zero, not none: weight
decay goes on shrinking them, and momentum carries them on and dies away, as for a row of a whole classifier that a
batch hardly touches. So any optimiser works, and learning rate and decay mean what they mean without sampling; the
price is a step of the optimiser over all rows. Freezing such rows along with their momentum, as the authors do, spares
that, but applies an old momentum when the row is drawn next, and decays a row the less, the more seldom it is drawn.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from training.losses import LOSSES
from training.losses.classification import ClassificationLoss, check_labels, check_shapes, full_precision
from training.losses.group import Group, gather_batch

__all__ = ["ShardedLoss", "gather_batch"]

# Rows are drawn in blocks with a seed each, so that W begins the same on any number of ranks.
_BLOCK = 1024


class ShardedLoss(nn.Module):
    """A loss of LOSSES over `num_classes` classes, of which this rank holds `classes`; params are the loss's own.

    `loss` is that loss with this rank's rows (C_r, D) as its weight; `loss.lambda_` and `loss.annealing` are as ever.
    The state_dict is this rank's alone: `full_state_dict` is the one to keep, as it fits any number of ranks.
    """

    def __init__(
        self,
        name: str,
        feature_dim: int,
        num_classes: int,
        sample_rate: float = 1.0,
        group: ProcessGroup | None = None,
        seed: int = 0,
        **params: Any,
    ) -> None:
        """Raises ValueError for a loss without classifier, a sample_rate outside (0, 1], more ranks than classes."""
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], got {sample_rate}")
        self.group, self.num_classes, self.sample_rate, self.seed = Group.of(group), num_classes, sample_rate, seed
        self.loss = _without_weight(name, feature_dim, num_classes, params)
        if num_classes < self.group.size:
            raise ValueError(f"{num_classes} classes cannot be shared out over {self.group.size} ranks")
        self.classes = self.group.share(num_classes)
        self.loss.weight = nn.Parameter(_initial_rows(self.classes, feature_dim, num_classes, seed))
        self.loss.iteration = torch.zeros((), dtype=torch.long)

    @property
    def weight(self) -> nn.Parameter:
        """This rank's rows (C_r, D) of W."""
        return self.loss.weight

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batch of all ranks, a scalar; counts the iteration in training mode.

        Args:
            features: (n, D) of this rank; n may differ between ranks, and be 0.
            labels: (n,), in 0 .. num_classes - 1.

        Raises:
            ValueError: shapes that do not fit together, or, on all ranks at once, labels out of range or no sample.
        """
        check_shapes(features, labels, self.weight.shape[1])
        every_label = self.group.gather(labels.long())
        check_labels(every_label, self.num_classes)
        if self.training:
            self.loss.iteration += 1
        # Half precision rounds away the differences that a margin is made of; sums over ranks are better wide, too.
        with torch.autocast(features.device.type, enabled=False):
            every = self.group.gather_with_gradient(full_precision(features))
            rows = self.rows_in_use(every_label)
            weight = full_precision(self.weight)
            weight = weight if len(rows) == len(weight) else weight[rows]
            samples = self._held(every_label)
            columns = torch.searchsorted(rows, every_label[samples] - self.classes.start)
            logits = self.loss.logits_at(every, weight, samples, columns)
            return self.group.cross_entropy(logits, samples, columns)

    def rows_in_use(self, labels: Tensor) -> Tensor:
        """Rows (K,) of `weight`, ascending, that this iteration uses with the labels (N,) of all ranks.

        All rows where no gradient is wanted. Otherwise the draw follows from seed, iteration and rank alone: a run that
        is resumed on as many ranks goes on with the same.
        """
        count = len(self.weight)
        if self.sample_rate == 1 or not torch.is_grad_enabled():
            return torch.arange(count, device=labels.device)
        positive = (labels[self._held(labels)] - self.classes.start).cpu()
        chance = torch.rand(count, generator=_generator(self.seed, int(self.loss.iteration), self.group.rank))
        chance[positive] = 2  # above all others
        least = max(1, int((chance == 2).sum()))
        return chance.topk(max(least, round(self.sample_rate * count))).indices.sort().values.to(labels.device)

    def _held(self, labels: Tensor) -> Tensor:
        """Samples (K,) of labels (N,) whose class this rank holds."""
        return ((labels >= self.classes.start) & (labels < self.classes.stop)).nonzero()[:, 0]

    def full_state_dict(self) -> dict[str, Tensor] | None:
        """On rank 0 the state of the loss with all classes, on the CPU, as LOSSES[name] loads it; None elsewhere."""
        weight = self.collect(self.weight)
        return None if weight is None else {"weight": weight, "iteration": self.loss.iteration.detach().cpu().clone()}

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take this rank's part of a state that any number of ranks, or the loss itself, has left.

        Raises:
            ValueError: the state is not one, or is of other classes or dimensions.
        """
        if set(state) != {"weight", "iteration"}:
            raise ValueError(f"a classifier's state has weight and iteration, got {', '.join(sorted(state))}")
        rows = self.own_rows(state["weight"])
        with torch.no_grad():
            self.weight.copy_(rows)
            self.loss.iteration.copy_(state["iteration"])

    def collect(self, rows: Tensor) -> Tensor | None:
        """Rows (C, D) of all ranks on rank 0, None elsewhere: of the weight, or of an optimiser's state for it."""
        return self.group.collect(rows, self.num_classes)

    def own_rows(self, every: Tensor) -> Tensor:
        """This rank's rows (C_r, D) of what `collect` gave; a view.

        Raises:
            ValueError: it is of other classes or dimensions.
        """
        expected = (self.num_classes, self.weight.shape[1])
        if tuple(every.shape) != expected:
            raise ValueError(f"the classifier's rows must be {expected}, got {tuple(every.shape)}")
        return every[self.classes.start : self.classes.stop]

    def extra_repr(self) -> str:
        """Shown by print."""
        return f"classes {self.classes.start} to {self.classes.stop - 1} of {self.num_classes}, {self.sample_rate=}"


def _without_weight(name: str, feature_dim: int, num_classes: int, params: Mapping[str, Any]) -> ClassificationLoss:
    kinds = {key: kind for key, kind in LOSSES.items() if issubclass(kind, ClassificationLoss)}
    if name not in kinds:
        raise ValueError(f"a sharded loss is one of {', '.join(sorted(kinds))}, got {name!r}")
    with torch.device("meta"):  # all classes may be more than fit
        loss: ClassificationLoss = kinds[name](feature_dim, num_classes, **params)
    return loss


def _initial_rows(held: range, feature_dim: int, num_classes: int, seed: int) -> Tensor:
    """Rows (C_r, D) of a W with the distribution of nn.init.xavier_uniform_ on all of it."""
    bound = (6 / (num_classes + feature_dim)) ** 0.5
    first = held.start // _BLOCK
    blocks = [
        torch.empty(_BLOCK, feature_dim).uniform_(-bound, bound, generator=_generator(seed, block))
        for block in range(first, (held.stop - 1) // _BLOCK + 1)
    ]
    return torch.cat(blocks)[held.start - first * _BLOCK : held.stop - first * _BLOCK].clone()


def _generator(*parts: int) -> torch.Generator:
    """A random generator on the CPU whose seed mixes all of the parts."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]))
