"""A run from its configuration to its result: builds everything, once, and starts or resumes the loop.

facesphere-train train --config CONFIG --run FOLDER
torchrun --nproc-per-node 4 -m -- training train --config CONFIG --run FOLDER     (-- keeps torchrun off our --run)
"""

import json
import os
import traceback
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.bundle import Manifest
from training.config import ConfigError, TrainConfig
from training.data.aligned import AlignedSet
from training.trainer import checkpoint
from training.trainer.checkpoint import CheckpointError
from training.trainer.distributed import RankError, Ranks, join, leave, lost
from training.trainer.loop import Result, Trainer
from training.trainer.material import Material, batches_of, gather
from training.trainer.network import build_backbone
from training.trainer.objective import Objective
from training.trainer.provenance import describe, record


def train(config: TrainConfig, run: Path, resume: bool = False, threads: int | None = None) -> Result:
    """Train a network.

    Args:
        config: the whole of it.
        run: folder for checkpoints and curves; must be new, unless resumed.
        resume: go on from the newest checkpoint of `run`.
        threads: of PyTorch and of the teacher; all cores if None.

    Raises:
        FaceError: wrong configuration, data or checkpoint; training that failed for good.
    """
    last = _check_folder(run, config, resume)
    threads = threads or _own_cores()
    torch.set_num_threads(threads)
    ranks = join(config.device)
    try:
        _check_precision(config, ranks.device)
        return _fit(config, run, ranks, last, threads)
    except BaseException as error:
        # The network must go before the group it talks over: PyTorch waits for ever when it is the last to hold that.
        traceback.clear_frames(error.__traceback__)
        if lost(error):
            raise RankError(f"rank {ranks.rank} has lost another rank, which says why") from error
        raise
    finally:
        leave()


def _check_precision(config: TrainConfig, device: torch.device) -> None:
    """The configuration cannot see that `device: auto` will be a CPU."""
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 needs a GPU, and PyTorch sees none; use bf16 on a CPU")


def _own_cores() -> int:
    """This process's share of the cores: torchrun starts several on a machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _fit(config: TrainConfig, run: Path, ranks: Ranks, last: Path | None, threads: int) -> Result:
    material = gather(config)
    if last is not None:
        _check_unchanged(run, material)
    batches_of(material, config, ranks.rank, ranks.world)  # too few people are told before an hour of teaching
    # The same on every rank: DDP would otherwise have to send the first weights around.
    torch.manual_seed(config.seed)
    backbone = build_backbone(config)
    objective = Objective(config, len(material.train.people), _teacher_dimension(config))
    targets = _targets(material, config, ranks, threads)
    if last is None:
        _begin_with(backbone, config, material, threads, targets)
    torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks
    trainer = Trainer(config, run, ranks, material, backbone, objective, targets)
    if last is not None:
        trainer.state.restore(checkpoint.read(last))
    elif ranks.first:
        record(run, config, describe(config, material.train, _unseen(material), ranks.world, ranks.device))
    return trainer.fit()


def _unseen(material: Material) -> AlignedSet | None:
    return None if material.closed else material.validation


def _check_folder(run: Path, config: TrainConfig, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a new run."""
    if resume:
        last = checkpoint.newest(run)
        _check_same(run, last, config)
        return last
    if checkpoint.exists(run):
        raise CheckpointError(f"{run} holds a run already: resume it with --resume, or name another folder")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {run}: {error.strerror}") from error
    return None


def _check_same(run: Path, last: Path, config: TrainConfig) -> None:
    """A resumed run is the same run; only how it is watched and where it runs may change."""
    saved = checkpoint.read(last)["config"]
    now = config.model_dump(mode="json")
    free = {"workers", "log_every", "keep", "device", "compile", "mlflow", "checkpoint_every", "validate_every"}
    for key, value in now.items():
        if key not in free and json.dumps(saved.get(key)) != json.dumps(value):
            raise ConfigError(f"{run} was begun with another {key!r}; a resumed run must keep it")


def _check_unchanged(run: Path, material: Material) -> None:
    """Labels of another set would be trained into the weights of this one's."""
    try:
        begun_with = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run / 'run.json'} is missing or damaged: {error}") from error
    if begun_with != material.train.digest:
        raise CheckpointError(f"{material.train.source or 'the training set'} is not what {run} was begun with")


def _teacher_dimension(config: TrainConfig) -> int | None:
    if config.distil is None:
        return None
    from training.teaching.targets import Teacher

    return Teacher(config.distil.bundle).manifest.dimension


def _targets(material: Material, config: TrainConfig, ranks: Ranks, threads: int) -> NDArray[np.float32] | None:
    if config.distil is None:
        return None
    from training.teaching.targets import teacher_targets

    cache = config.data.train.parent / f"{config.data.train.name}.teacher"
    if ranks.first:  # the others wait, and then find it done
        teacher_targets(material.train, config, cache, threads)
    ranks.meet()
    return teacher_targets(material.train, config, cache, threads)


def _begin_with(
    backbone: nn.Module, config: TrainConfig, material: Material, threads: int, targets: NDArray[np.float32] | None
) -> None:
    start = config.start
    if start is None:
        return
    from models.bundle import load
    from training.backbones.weights import load_bundle_weights
    from training.teaching.thin import thin

    bundle = load(start.bundle)
    try:
        if start.thin is None:
            _check_input(bundle.manifest, config, material.train)
            load_bundle_weights(backbone, bundle.model_path)
        else:
            thin(backbone, bundle, config, start.thin, material.train, threads, _known(config, targets))
    except ValueError as error:
        raise ConfigError(f"cannot begin with {start.bundle}: {error}") from error


def _known(config: TrainConfig, targets: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """What the teacher says of clean photos, where it is the network that is thinned."""
    same = config.distil and config.start and config.distil.bundle == config.start.bundle
    return targets[0] if same and targets is not None and config.distil and not config.distil.views else None


def _check_input(manifest: Manifest, config: TrainConfig, data: AlignedSet) -> None:
    """Weights that were learned on other crops, or on other numbers for the same, are no start."""
    theirs, ours = manifest.input, config.input
    # A graph that is fed plain bytes normalises inside; only the network's own numbers can be compared.
    inside = set(theirs.mean) == {0.0} and set(theirs.std) == {1.0}
    same = set(theirs.mean) == {ours.mean} and set(theirs.std) == {ours.std}
    if theirs.channels != ours.channels or not (same or inside):
        raise ValueError(
            f"it was trained on {theirs.channels} with mean {theirs.mean[0]:g} and std {theirs.std[0]:g}, "
            f"the configuration says {ours.channels}, {ours.mean:g} and {ours.std:g}"
        )
    if data.template is not None and data.template != manifest.template:
        raise ValueError(f"it was trained on crops of the template {manifest.template}, these are {data.template}")
