"""Photos a second of the trainer, beside a bare loop of the same network and beside a plain one.

    python benchmarks/training.py [--backbone sphereface] [--size 112] [--batch 128] [--precision bf16]

Three contenders take turns, so that what else the machine does falls on all of them:

    plain     float32, contiguous memory, not compiled, one batch over and over
    bare      the precision asked for, channels-last, compiled, one batch over and over: what the hardware gives
    trainer   facesphere-train's own loop with the same settings, crops read and augmented from disk, losses watched
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from commandline import count, in_one_line, positive
from torch import nn

# Python looks for modules beside the script first, and would take this file for the package it measures.
sys.path.pop(0)


from training.config import TrainConfig, parse_config
from training.data.aligned import AlignedSet
from training.losses.a_softmax import ASoftmax
from training.trainer.network import build_backbone
from training.trainer.run import train

PEOPLE = 1000


def main() -> None:
    """Run all three in turns and print a table."""
    asked = _arguments()
    logging.disable(logging.WARNING)
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        crops = Path(folder) / "crops"
        _crops(asked.size, 8 * asked.batch).save(crops)
        config = _config(asked, crops)
        plain, bare = _loop(config, fast=False), _loop(config, fast=True)
        rates: dict[str, list[float]] = {"plain": [], "bare": [], "trainer": []}
        for number in range(asked.rounds):
            rates["plain"].append(_rate(plain, asked.batch, asked.plain_steps))
            rates["bare"].append(_rate(bare, asked.batch, asked.steps))
            rates["trainer"].append(_trainer_rate(config, Path(folder) / f"run-{number}", asked))
        _print(asked, rates)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="sphereface")
    parser.add_argument("--params", type=json.loads, default={"depth": 20}, help="as JSON")
    parser.add_argument("--size", type=positive, default=112)
    parser.add_argument("--batch", type=positive, default=128)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--workers", type=count, default=1)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--steps", type=positive, default=10, help="of the fast loops in a round")
    parser.add_argument("--plain-steps", type=count, default=2, help="of the plain loop in a round")
    return parser.parse_args()


def _crops(size: int, count: int) -> AlignedSet:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    people = [f"{number % PEOPLE:04d}" for number in range(count)]
    return AlignedSet.of(pixels, people, [f"{number}.png" for number in range(count)], source="noise")


def _config(asked: argparse.Namespace, crops: Path) -> TrainConfig:
    return parse_config(
        {
            "name": "benchmark",
            "data": {"train": str(crops), "held_out": 0},
            "input": {"height": asked.size, "width": asked.size},
            "backbone": {"name": asked.backbone, "params": asked.params},
            "loss": {"name": "a_softmax", "params": {"margin": 4, "annealing": [1000, 0.12, 1, 5]}},
            "augment": {"flip": 0.5, "rotate": 5, "scale": 0.05, "brightness": 0.1, "contrast": 0.1},
            "batch": asked.batch,
            "steps": 2 * asked.steps + 2,
            "optimiser": {"lr": 0.001},
            "precision": asked.precision,
            "compile": "on",
            "guard": {"enabled": False},
            "workers": asked.workers,
            "log_every": asked.steps,
            "checkpoint_every": 10**6,
            "validate_every": 10**6,
        }
    )


def _loop(config: TrainConfig, fast: bool) -> Callable[[], None]:
    """One optimiser step on a batch that is there already."""
    backbone: nn.Module = build_backbone(config).train()
    size = (config.batch, 3, config.input.height, config.input.width)
    images = torch.rand(size) * 2 - 1
    labels = torch.randint(PEOPLE, (config.batch,))
    if fast:
        backbone = backbone.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    network = torch.compile(backbone) if fast else backbone
    loss = ASoftmax(config.dimension, PEOPLE, 4, (1000, 0.12, 1, 5))
    optimiser = torch.optim.SGD([*backbone.parameters(), *loss.parameters()], 0.001, 0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast and config.precision == "bf16"):
            features = network(images)
        loss(features.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    step()
    step()
    return step


def _rate(step: Callable[[], None], batch: int, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return steps * batch / (time.perf_counter() - began)


def _trainer_rate(config: TrainConfig, run: Path, asked: argparse.Namespace) -> float:
    """Of the second half of the steps: the first half compiles, and fills the queue of the workers."""
    train(config, run, threads=asked.threads)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(float(line["images/s"]) for line in lines if line["step"] == 2 * asked.steps)


def _print(asked: argparse.Namespace, rates: dict[str, list[float]]) -> None:
    kind = f"{asked.backbone} {asked.params} at {asked.size}"
    print(f"\n{kind}, batch {asked.batch}, {asked.precision}, {asked.threads} threads")
    print(f"{'':10}{'images/s':>10}{'x plain':>10}{'x bare':>10}")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        by_plain = statistics.median(a / b for a, b in zip(values, rates["plain"], strict=True))
        by_bare = statistics.median(a / b for a, b in zip(values, rates["bare"], strict=True))
        print(f"{name:10}{medians[name]:10.1f}{by_plain:10.2f}{by_bare:10.2f}")


if __name__ == "__main__":
    in_one_line(main)
