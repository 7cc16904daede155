"""Searching a gallery: exact and approximate, beside FAISS's flat index and beside the speed of memory.

    python benchmarks/gallery.py [--sizes 10000x128 10000x512 100000x128 100000x512] [--json OUT]
    python benchmarks/gallery.py --sizes 1000000x512          # four minutes, 6 GB

Vectors are of people with ten noisy faces each, of which two have a cosine of 0.55; probes are other faces of theirs.
The contenders take turns, with one probe at a time and, as "64 at once", with as many from as many threads. Recall is
that of FAISS's flat index, which compares everything in float32. The limits are how long reading the codes, and the
vectors, once takes on one thread. `--approximate never` leaves the approximate tier out.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
from clustered import People, at_once
from commandline import faces_by_values, in_one_line, positive

from models.preprocess import Vectors
from service.gallery.index import ExactIndex
from service.gallery.sharing import Lanes
from service.gallery.tiers import TieredIndex
from service.threads import hold_libraries

_NEAREST = 10
_FLAT_UP_TO = 3e8  # values; a larger flat index would not fit beside ours
Search = Callable[[Vectors], Sequence[int]]


def main() -> None:
    """Measure and print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = ["10000x128", "10000x512", "100000x128", "100000x512"]
    parser.add_argument("--sizes", type=faces_by_values, nargs="+", default=sizes, metavar="FACESxVALUES")
    parser.add_argument("--probes", type=positive, default=100)
    parser.add_argument("--approximate", choices=("always", "never"), default="always")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, metavar="OUT")
    asked = parser.parse_args()
    hold_libraries()
    machine = {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }
    for name, value in machine.items():
        print(f"{name}: {value}")
    results = {}
    for size in asked.sizes:
        faces, dimension = map(int, size.split("x"))
        results[size] = _measured(faces, dimension, asked)
        _print(size, results[size])
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine, "sizes": results}, indent=1) + "\n")


def _measured(faces: int, dimension: int, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    people = People(faces, dimension)
    probes = people.probes(asked.probes)
    before = _memory()
    index = TieredIndex(dimension)
    began = time.perf_counter()
    people.add_to(index.exact.add)
    added = time.perf_counter() - began - people.seconds
    rows: dict[str, dict[str, Any]] = {}
    truth, flat = _truth(people, probes)
    exact = rows["exact, 1 thread"] = {"MB": _memory() - before, "load s": added}
    shared = _with_lanes(index.exact, asked.threads)
    contenders: dict[str, Search] = {
        "exact, 1 thread": lambda probe: _rows(index.exact.search(probe, _NEAREST)),
        f"exact, {asked.threads} threads": lambda probe: _rows(shared.search(probe, _NEAREST)),
    }
    if flat is not None:
        contenders["FAISS Flat, 1 thread"] = lambda probe: flat.search(probe[None], _NEAREST)[1][0].tolist()
    limits = _limits(index.exact)
    if asked.approximate == "always":
        before, began = _memory(), time.perf_counter()
        index.group(lambda: False)
        reached = index.check(0.99, seed=0)
        rows["approximate"] = {"MB": _memory() - before, "load s": time.perf_counter() - began}
        if reached:
            contenders["approximate"] = lambda probe: _rows(index.search(probe, _NEAREST))
        else:
            rows["approximate"]["recall@10"] = f"{index.reached:.3f}: not used"
    _in_turns(contenders, limits, probes, truth, rows)
    for name, one in (("exact, 1 thread", index.exact.search), (f"exact, {asked.threads} threads", shared.search)):
        rows[name]["64 at once"] = at_once(one, probes)
    exact |= _changes(index.exact, faces, probes)
    if "approximate" in contenders:
        rows["approximate"]["64 at once"] = at_once(index.search, probes)
        rows["approximate"] |= _changes(index, faces, probes)
    return rows


def _truth(people: People, probes: Vectors) -> tuple[list[list[int]], Any]:
    """The nearest rows of each probe, and a flat index of everything where one fits."""
    small = people.faces * people.dimension <= _FLAT_UP_TO
    flat = faiss.IndexFlatIP(people.dimension) if small else None
    scores, rows = np.empty((len(probes), 0), np.float32), np.empty((len(probes), 0), np.int64)
    for first, vectors in people.chunks():
        found = faiss.knn(probes, vectors, _NEAREST, metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.concatenate((scores, found[0]), 1), np.concatenate((rows, found[1] + first), 1)
        best = np.argsort(-scores, axis=1)[:, :_NEAREST]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        if flat is not None:
            flat.add(vectors)
    return rows.tolist(), flat


def _in_turns(
    contenders: dict[str, Search],
    limits: dict[str, Callable[[], object]],
    probes: Vectors,
    truth: list[list[int]],
    rows: dict[str, dict[str, Any]],
) -> None:
    times: dict[str, list[float]] = {name: [] for name in (*contenders, *limits)}
    first, found = dict.fromkeys(contenders, 0), dict.fromkeys(contenders, 0)
    for probe, wanted in zip(probes, truth, strict=True):
        for name, search in contenders.items():
            began = time.perf_counter()
            got = search(probe)
            times[name].append(time.perf_counter() - began)
            first[name] += got[:1] == wanted[:1]
            found[name] += len(set(got) & set(wanted))
    for _ in range(15):
        for name, read in limits.items():
            began = time.perf_counter()
            read()
            times[name].append(time.perf_counter() - began)
    for name, each in times.items():
        row = rows.setdefault(name, {})
        row |= {"p50 ms": 1e3 * statistics.median(each), "p99 ms": 1e3 * float(np.quantile(each, 0.99))}
        row["least ms"] = 1e3 * min(each)
        if name in contenders:
            row |= {"recall@1": first[name] / len(probes), "recall@10": found[name] / len(probes) / _NEAREST}


def _changes(index: ExactIndex | TieredIndex, faces: int, probes: Vectors) -> dict[str, float]:
    """Median milliseconds of adding and of removing one face."""
    calls = {
        "add ms": lambda n: index.add([faces + n], probes[n : n + 1]),
        "remove ms": lambda n: index.remove([faces + n]),
    }
    times = {}
    for name, call in calls.items():
        taken = []
        for n in range(len(probes)):
            began = time.perf_counter()
            call(n)
            taken.append(time.perf_counter() - began)
        times[name] = 1e3 * statistics.median(taken)
    return times


def _limits(index: ExactIndex) -> dict[str, Callable[[], object]]:
    def read(arrays: list[Any]) -> None:
        for each in arrays:
            np.maximum.reduce(each.view(np.int64), axis=None)  # at the speed of memory, whatever the values are

    codes = [block._codes[: block.count] for block in index._blocks]
    vectors = [block.vectors[: block.count] for block in index._blocks]
    return {"reading the codes once": lambda: read(codes), "reading the vectors once": lambda: read(vectors)}


def _with_lanes(index: ExactIndex, threads: int) -> ExactIndex:
    """The same vectors, searched by several threads."""
    shared = ExactIndex(index.dimension, lanes=Lanes(threads))
    shared._blocks = index._blocks
    shared._additions = index._additions
    return shared


def _rows(found: list[tuple[int, float]]) -> list[int]:
    return [row for row, _ in found]


def _memory() -> float:
    return psutil.Process().memory_info().rss / 2**20


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _print(size: str, rows: dict[str, dict[str, Any]]) -> None:
    columns = [
        "p50 ms",
        "p99 ms",
        "least ms",
        "64 at once",
        "recall@1",
        "recall@10",
        "add ms",
        "remove ms",
        "MB",
        "load s",
    ]
    print(f"\n{size:<26}" + "".join(f"{column:>12}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<26}" + "".join(f"{_cell(row.get(column, '')):>12}" for column in columns), flush=True)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    in_one_line(main)
