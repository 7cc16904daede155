"""The exact index beside FAISS's own flat one and beside the speed of memory: one search, one addition, one removal.

    python benchmarks/gallery.py [--faces 100000] [--dimension 128]

One thread. Vectors are of people with ten noisy faces each. The contenders take turns; medians of several rounds. The
last line is how long reading all vectors once takes, which no exact search can beat.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from models.preprocess import l2_normalize
from service.gallery.index import ExactIndex


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    vectors = _people(asked.faces, asked.dimension)
    rows = np.arange(asked.faces)
    ours = ExactIndex(asked.dimension)
    ours.add(rows.tolist(), vectors)
    flat = faiss.IndexIDMap2(faiss.IndexFlatIP(asked.dimension))
    flat.add_with_ids(vectors, rows)
    probe, one = vectors[1], vectors[:1]
    calls: dict[str, dict[str, Callable[[int], object]]] = {
        "ExactIndex": {
            "search": lambda _: ours.search(probe, 10),
            "add": lambda turn: ours.add([asked.faces + turn], one),
            "remove": lambda turn: ours.remove([turn]),
        },
        "FAISS IndexIDMap2 + Flat": {
            "search": lambda _: flat.search(probe[None], 10),
            "add": lambda turn: flat.add_with_ids(one, np.array([asked.faces + turn])),
            "remove": lambda turn: flat.remove_ids(np.array([turn])),
        },
        "reading all vectors once": {"search": lambda _: np.maximum.reduce(vectors, axis=None)},
    }
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(asked.rounds):
        for name, each in calls.items():
            for what, call in each.items():
                began = time.perf_counter()
                call(turn)
                times.setdefault((name, what), []).append(time.perf_counter() - began)
    print(f"\n{asked.faces:,} faces of {asked.dimension} values, one thread, ms: median (largest)")
    print(f"{'':28}{'search':>18}{'add':>18}{'remove':>18}")
    for name, each in calls.items():
        cells = [_cell(times[name, what]) if what in each else "" for what in ("search", "add", "remove")]
        print(f"{name:28}" + "".join(f"{cell:>18}" for cell in cells))


def _people(count: int, dimension: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = l2_normalize(rng.normal(size=(-(-count // 10), dimension)))
    noisy = centres.repeat(10, axis=0)[:count] + rng.normal(size=(count, dimension)) * 0.9 / np.sqrt(dimension)
    return l2_normalize(noisy)


def _cell(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):.3f} ({1e3 * max(seconds):.3f})"


if __name__ == "__main__":
    main()
