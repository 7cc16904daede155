"""The runs behind the pictures of digits: LNet++ with two features, one run a loss, otherwise all the same.

Every run is an ordinary run of the trainer. Its features are kept in the cache; a run that was stopped goes on from its
checkpoint.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainConfig, parse_config
from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.trainer import checkpoint
from training.trainer.network import build_backbone
from training.trainer.run import train
from training.trainer.validate import embed

BATCH = 64
# Digits are reduced to this: LNet++ does a quarter of the work of 28 x 28, and the pictures are as clear.
SIDE = 14
_OPTIMISER: dict[str, Any] = {"name": "adamw", "lr": 0.002, "momentum": 0.9, "weight_decay": 0.0005, "clip": 5.0}


@dataclass(frozen=True, slots=True)
class Variant:
    """One loss: the name of its run, its title in pictures, what of the configuration is its own, growth of lambda."""

    name: str
    title: str
    loss: str
    params: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    growth: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What all runs share."""

    data: Path
    steps: int
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    """Features (N, 2) and labels (N,) of the test digits; weight (10, 2) of the classifier, or None; test accuracy."""

    features: NDArray[np.float32]
    labels: NDArray[np.int32]
    weight: NDArray[np.float32] | None
    accuracy: float
    rollbacks: int


def annealing(steps: int, growth: float) -> dict[str, float]:
    """lambda of the reference for MNIST: 1000 at first, and (1 + growth)^-35 of that at the end.

    The reference's own 10,000 steps come to a growth of 0.25 and a last lambda of 0.4; 0.5 ends at 0.0007.
    """
    return {"base": 1000.0, "gamma": growth / steps, "power": 35.0, "minimum": 0.0}


def _margin(loss: str, margin: int, title: str, growth: float) -> Variant:
    name = f"{loss.replace('_', '-')}-{margin}"
    return Variant(name, f"{title}, m = {margin}", loss, {"margin": margin}, growth=growth)


VARIANTS: tuple[Variant, ...] = (
    Variant("softmax", "softmax", "softmax"),
    *(_margin("l_softmax", margin, "L-Softmax", 0.25) for margin in (2, 3, 4)),
    *(_margin("a_softmax", margin, "A-Softmax", 0.5) for margin in (1, 2, 3, 4)),
    Variant("center", "softmax + center", "softmax", own={"center": {"weight": 0.003, "alpha": 0.5}}),
    Variant(
        "triplet",
        "triplet",
        "triplet",
        # Not semi-hard: out of the narrow fan that a fresh network's two features make, that finds no way for long.
        {"margin": 0.2, "mining": "all"},
        {"sampler": {"kind": "people", "people": 8, "images": 8}, "optimiser": {**_OPTIMISER, "lr": 0.001}},
    ),
)

# Not drawn: the text tells what becomes of L-Softmax where lambda falls as far as A-Softmax bears it.
HURRIED = Variant("l-softmax-4-hurried", "L-Softmax, m = 4, hurried", "l_softmax", {"margin": 4}, growth=0.5)


def config_of(variant: Variant, plan: Plan) -> TrainConfig:
    """The configuration of a variant's run."""
    params = dict(variant.params)
    if params.get("margin", 1) > 1:
        params["annealing"] = annealing(plan.steps, variant.growth)
    return parse_config(
        {
            "name": f"figure-{variant.name}",
            "seed": plan.seed,
            "data": {"train": str(plan.data)},
            "input": {"height": SIDE, "width": SIDE, "channels": "gray", "mean": 0.0, "std": 255.0},
            "dimension": 2,
            "backbone": {"name": "lnet"},
            "loss": {"name": variant.loss, "params": params},
            "augment": {"flip": 0.0},
            "batch": BATCH,
            "steps": plan.steps,
            "optimiser": _OPTIMISER,
            "schedule": {"name": "cosine", "warmup": plan.steps // 20},
            "validate_every": plan.steps,
            "checkpoint_every": max(1, plan.steps // 4),
            "log_every": max(1, plan.steps // 20),
            "compile": "off",
            "device": "cpu",
            "workers": 0,
            **variant.own,
        },
        f"figure {variant.name}",
    )


def run_of(variant: Variant, plan: Plan, test: AlignedSet, cache: Path, threads: int = 1) -> Run:
    """The result of a variant's run: out of the cache, or trained now, or trained to its end if it was stopped.

    Args:
        variant: which loss.
        plan: data, steps and seed.
        test: MNIST's test digits.
        cache: folder of the runs and of their features.
        threads: of PyTorch.

    Raises:
        FaceError: data or cache that cannot be read; training that failed for good.
    """
    config = config_of(variant, plan)
    folder = cache / f"{variant.name}-{_digest(config, test)}"
    kept = folder / "features.npz"
    found = _read(kept)
    if found is None:
        _write(kept, _trained(config, folder, test, threads))
        found = _read(kept)
    if found is None:
        raise DataError(f"{kept} was written and cannot be read")
    return found


def _trained(config: TrainConfig, folder: Path, test: AlignedSet, threads: int) -> Run:
    begun = bool(checkpoint.steps(folder / "checkpoints"))
    if folder.exists() and not begun:  # stopped before its first checkpoint
        shutil.rmtree(folder)
    result = train(config, folder, resume=begun, threads=threads)
    state = checkpoint.read(checkpoint.newest(folder))
    network = build_backbone(config)
    network.load_state_dict(state["model"])
    weight = state["objective"].get("main.weight")
    return Run(
        features=embed(network, test, config.input, torch.device("cpu")),
        labels=test.labels,
        weight=None if weight is None else weight.numpy(),
        accuracy=result.best,
        rollbacks=result.rollbacks,
    )


def _digest(config: TrainConfig, test: AlignedSet) -> str:
    """What the result depends on; where the data lie is no part of it."""
    values = config.model_dump(mode="json")
    del values["data"]
    return hashlib.sha256(json.dumps([values, test.digest], sort_keys=True).encode()).hexdigest()[:12]


def _write(path: Path, run: Run) -> None:
    """Written beside and renamed: a file that is there is whole."""
    weight = np.zeros((0, 2), np.float32) if run.weight is None else run.weight
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                features=run.features,
                labels=run.labels,
                weight=weight,
                accuracy=run.accuracy,
                rollbacks=run.rollbacks,
            )
        partial.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _read(path: Path) -> Run | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            weight = file["weight"]
            return Run(
                features=file["features"],
                labels=file["labels"],
                weight=weight if len(weight) else None,
                accuracy=float(file["accuracy"]),
                rollbacks=int(file["rollbacks"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged: delete it, and it is made again") from error
