"""The training loop: one optimiser step after the other, and what happens between them."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

from models.errors import FaceError
from training.config import TrainConfig
from training.data.loader import Batch, load
from training.losses.classification import ClassificationLoss
from training.losses.sharded import ShardedLoss, gather_batch
from training.trainer import checkpoint
from training.trainer.distributed import Ranks
from training.trainer.ema import Average
from training.trainer.guard import Failure, Watch
from training.trainer.interrupt import Stop, StoppedError
from training.trainer.material import Material, batches_of, total_steps
from training.trainer.monitor import Clock, Monitor
from training.trainer.network import optimiser, prepare
from training.trainer.objective import Objective, Terms
from training.trainer.schedule import learning_rate
from training.trainer.state import State
from training.trainer.validate import classification, nearest_mean, normalised, verification


class TrainingError(FaceError):
    """Training failed, and the guard's remedies did not help."""

    code = "internal"


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended: the best validation, and at which step."""

    steps: int
    best: float
    best_step: int
    rollbacks: int


class Trainer:
    """Trains one network. All that changes is in `state`, and so in every checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        ranks: Ranks,
        material: Material,
        backbone: nn.Module,
        objective: Objective,
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        self.config, self.run, self.ranks, self.material = config, run, ranks, material
        self.targets = targets
        self.total = total_steps(material, config, ranks.world)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.backbone = backbone.to(ranks.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.objective = objective.to(ranks.device)
        self.network = prepare(self.backbone, config, ranks, self.total * config.per_step)
        self.optimiser = optimiser(config, self.backbone, self.objective)
        # A shard's gradient may overflow on one rank: then none may take the step, which the sharded scaler sees to.
        scaler = ShardedGradScaler if ranks.many else torch.amp.GradScaler
        self.scaler = scaler(ranks.device.type, enabled=config.precision == "fp16")
        average = Average(self.backbone, config.ema) if config.ema else None
        watch = Watch(config.guard.patience, len(material.train.people), objective.triplet_margin)
        if objective.main is None:
            watch = Watch(config.guard.patience, 0)
        self.state = State(self.backbone, self.objective, self.optimiser, self.scaler, average, watch)
        self._losses: list[tuple[Tensor, float | None]] = []
        self._clock = Clock()
        self._stop = Stop()

    def fit(self) -> Result:
        """Train to the end; a run that was stopped goes on from the state that was restored."""
        config, state = self.config, self.state
        silent = not self.ranks.first
        with self._stop.listening(), Monitor(self.run, config, state.step, self.total, silent) as monitor:
            if state.step == 0:
                self._save(checkpoint.START)
            while state.step < self.total:
                failure = self._until_failure(monitor)
                if failure is not None:
                    self._roll_back(failure, monitor)
        return Result(state.step, state.best, state.best_step, state.remedies.rollbacks)

    def _until_failure(self, monitor: Monitor) -> Failure | None:
        """Steps from where the state is, to the end or to a sign of failure."""
        config, state = self.config, self.state
        for batches in self._batches():
            terms = self._step(batches)
            state.step += 1
            monitor.step()
            self._losses.append((terms.main, terms.pair_distance))
            at_end = state.step == self.total
            stopping = self.ranks.any(self._stop.asked)
            save = self._due(config.checkpoint_every) or at_end or stopping
            if self._due(config.log_every) or save:
                failure = self._look(monitor, terms)
                if failure is not None:
                    return failure
            if (self._due(config.validate_every) or at_end) and self.material.validation is not None:
                self._validate(monitor)
            if save:
                self._save(checkpoint.name(state.step))
                self._prune()
            if stopping and not at_end:
                raise StoppedError(f"stopped at step {state.step} of {self.total}; go on with --resume")
        return None

    def _prune(self) -> None:
        if self.ranks.first:
            guard = self.config.guard
            healthy = self.state.step - guard.patience if guard.enabled else None
            checkpoint.prune(self.run / "checkpoints", self.config.keep, healthy)

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0

    def _batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step."""
        count = self.config.accumulate
        sampler = batches_of(self.material, self.config, self.ranks.rank, self.ranks.world)
        stream = load(
            self.material.train,
            sampler,
            self.config,
            self.targets,
            self.state.step * count,
            self.total * count,
            pin=self.ranks.device.type == "cuda",
        )
        for first in stream:
            yield [first, *(next(stream) for _ in range(count - 1))]

    def _step(self, batches: list[Batch]) -> Terms:
        """One optimiser step over all micro-batches: the gradient is that of the mean over all their photos."""
        self._set_rates()
        self.backbone.train()
        seen, terms = [], []
        for number, batch in enumerate(batches):
            self.objective.train(number == 0)  # lambda counts optimiser steps, not micro-batches
            last = number == len(batches) - 1
            with contextlib.nullcontext() if last else self._unsynchronised():
                labels = batch.labels.to(self.ranks.device, non_blocking=True)
                features = self._features(batch)
                targets = None if batch.targets is None else batch.targets.to(self.ranks.device)
                now: Terms = self.objective(features, labels, targets)
                torch.autograd.backward(self.scaler.scale(now.total / len(batches)))
            seen.append((features.detach(), labels))
            terms.append(now)
        self._finish(seen)
        return Terms.mean(terms)

    def _features(self, batch: Batch) -> Tensor:
        precision = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.config.precision]
        images = normalised(batch.images, self.config.input, self.ranks.device)
        if not self.config.channels_last:  # the loader's batches are
            images = images.contiguous()
        with torch.autocast(self.ranks.device.type, precision, enabled=precision != torch.float32):
            features: Tensor = self.network(images)
        return features.float()

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        network = self.network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()

    def _finish(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        if self.ranks.many:
            self._average_head()
        if self.config.optimiser.clip is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.backbone.parameters(), self.config.optimiser.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.objective.center is not None:
            features, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
            self.objective.center.update(*gather_batch(features, labels))
        if self.state.average is not None:
            self.state.average.update(self.backbone)

    def _average_head(self) -> None:
        """A dense classifier is the same on every rank; DDP looks after the backbone only."""
        if isinstance(self.objective.main, ShardedLoss):
            return
        for parameter in self.objective.parameters():
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= self.ranks.world

    def _set_rates(self) -> None:
        settings, state = self.config.optimiser, self.state
        rate = learning_rate(state.step, self.total, settings.lr, self.config.schedule) * state.remedies.lr_scale
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]

    def _look(self, monitor: Monitor, terms: Terms) -> Failure | None:
        """Losses since the last look, to the guard and to the curves."""
        seen = [(float(loss), math.nan if far is None else far) for loss, far in self._losses]
        seen = self.ranks.mean(torch.tensor(seen, dtype=torch.float64)).tolist()  # all ranks must come to one verdict
        self._losses.clear()
        values = {name: float(part) for name, part in terms.parts.items()} | terms.watched
        annealed = self.objective.annealed
        if annealed is not None:
            values["lambda"] = annealed.lambda_
        values["lr"] = self.optimiser.param_groups[0]["lr"]
        values["images/s"] = self._clock.rate(self.state.step * self.config.per_step * self.ranks.world)
        monitor.log(self.state.step, values, say=self._due(self.config.log_every))
        if not self.config.guard.enabled:
            return None
        verdicts = (self.state.watch.see(loss, None if math.isnan(far) else far) for loss, far in seen)
        return next((verdict for verdict in verdicts if verdict is not None), None)

    def _roll_back(self, failure: Failure, monitor: Monitor) -> None:
        guard, state = self.config.guard, self.state
        if state.remedies.rollbacks >= guard.rollbacks:
            raise TrainingError(f"{failure.sign} at step {state.step}, after {state.remedies.rollbacks} rollbacks")
        annealed = self.objective.annealed
        minimum = annealed.annealing.minimum if annealed is not None and annealed.annealing else None
        remedies = state.remedies.next(minimum, guard.raise_to)
        back_to = self._healthy(failure)
        sign_at, best, best_step = state.step, state.best, state.best_step
        state.restore(checkpoint.read(back_to))
        state.apply(remedies)
        state.best, state.best_step = best, best_step  # best.pt is still there
        self._clock = Clock()
        self._forget_after(back_to)
        monitor.rewind(state.step)
        cure = f"lambda >= {remedies.minimum_lambda:g}" if minimum is not None else f"lr x {remedies.lr_scale:g}"
        monitor.say(f"{failure.sign} at step {sign_at}: back to step {state.step}, with {cure}")

    def _forget_after(self, file: Path) -> None:
        """A run that is stopped now must be resumed from here, with the remedies, and not from what failed."""
        self.ranks.meet()  # the others may be reading yet
        self._save(file.name)
        if self.ranks.first:
            checkpoint.discard_after(file.parent, self.state.step)

    def _healthy(self, failure: Failure) -> Path:
        """The newest checkpoint from before the window in which the failure was seen."""
        folder = self.run / "checkpoints"
        before = self.state.step - self.config.guard.patience
        good = [file for step, file in checkpoint.steps(folder) if step <= before]
        return good[-1] if good and not failure.from_start else folder / checkpoint.START

    def _validate(self, monitor: Monitor) -> None:
        """Only the first rank looks; the others have nothing to wait for until the next gradient."""
        if not self.ranks.first:
            return
        values = self._score()
        monitor.log(self.state.step, {f"validation/{name}": value for name, value in values.items()})
        if values["accuracy"] > self.state.best:
            self.state.best, self.state.best_step = values["accuracy"], self.state.step
            checkpoint.write(self.run / "best.pt", self.state.trained(self.config))

    def _score(self) -> dict[str, float]:
        validation, spec, device = self.material.validation, self.config.input, self.ranks.device
        if validation is None:
            return {}
        with self.state.averaged():
            main = self.objective.main
            if self.material.closed and isinstance(main, ClassificationLoss):
                return classification(self.backbone, main, validation, spec, device)
            if self.material.closed:
                return nearest_mean(self.backbone, self.material.train, validation, spec, device)
            return verification(self.backbone, validation, spec, device)

    def _save(self, name: str) -> None:
        """All ranks take part: shards of the classifier and states of random generators are gathered."""
        state = self.state.capture(self.config)
        if self.ranks.first:
            checkpoint.write(self.run / "checkpoints" / name, state)
