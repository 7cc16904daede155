"""Embeddings a second of the models that come with the project, beside the default one, on the same runtime.

    python benchmarks/embedders.py [--registry data/models] [--device cpu] [--rounds 15] [ID ...]

One thread, aligned crops to unit vectors through the service's own embedder. Models take turns within each round, and a
ratio is that of one round, so that a machine that is slow for a while slows all of them.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from commandline import in_one_line, positive

from models import zoo
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder

BATCHES = (1, 8)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", default=list(zoo.shipped_ids()))
    parser.add_argument("--registry", type=Path, default=Path("data/models"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=positive, default=15)
    asked = parser.parse_args()
    registry = Registry(asked.registry)
    names = [zoo.DEFAULT_EMBEDDER, *asked.ids]
    embedders = [_embedder(registry, name, asked.device) for name in names]
    print(f"{'model':<28}{'MB':>7}" + "".join(f"{f'ms at {n}':>12}{'x default':>11}" for n in BATCHES))
    columns = [_measure(embedders, batch, asked.rounds) for batch in BATCHES]
    for place, name in enumerate(names):
        size = registry.resolve("embedder", name).model_path.stat().st_size / 1e6
        cells = "".join(f"{times[place]:12.2f}{ratios[place]:11.2f}" for times, ratios in columns)
        print(f"{name:<28}{size:7.1f}{cells}")


def _embedder(registry: Registry, name: str, device: str) -> Embedder:
    if name in zoo.known_ids():
        zoo.pull(registry, name)
    bundle = registry.resolve("embedder", name)
    return Embedder(Session(bundle.model_path, SessionOptions(device, 1, bundle.manifest.precision)), bundle.manifest)


def _measure(embedders: list[Embedder], batch: int, rounds: int) -> tuple[list[float], list[float]]:
    """Median milliseconds a crop of each, and the median over rounds of the first one's time over each's."""
    rng = np.random.default_rng(0)
    crops = [_crops(embedder, batch, rng) for embedder in embedders]
    times = [[_time(e, c) for e, c in zip(embedders, crops, strict=True)] for _ in range(rounds)]
    each = [statistics.median(row[place] for row in times) * 1000 for place in range(len(embedders))]
    ratios = [statistics.median(row[0] / row[place] for row in times) for place in range(len(embedders))]
    return each, ratios


def _crops(embedder: Embedder, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    template = embedder.template
    return list(rng.integers(0, 256, (batch, template.height, template.width, 3), dtype=np.uint8))


def _time(embedder: Embedder, crops: list[np.ndarray], repeats: int = 4) -> float:
    embedder.embed(crops)  # another model ran in between, and the caches are its
    began = time.perf_counter()
    for _ in range(repeats):
        embedder.embed(crops)
    return (time.perf_counter() - began) / repeats / len(crops)


if __name__ == "__main__":
    in_one_line(main)
