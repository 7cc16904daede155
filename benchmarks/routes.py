"""What the fast ways of running a network cost in accuracy: TAR at FMR 1e-3 beside plain float32, and their speed.

    facesphere-train align --data lfw_devtrain.tar --out lfw --face central
    .venv/bin/python benchmarks/routes.py --data lfw [--people N] [--json OUT]

Each route embeds the same aligned crops: the graph as it comes on ONNX Runtime's kernels, with PReLU as relu arithmetic
(what is served), by OpenVINO in float32 and in bfloat16 where onnxruntime-openvino is installed and the processor has
the arithmetic, and the small network in float32 and in 8 bits. A route is compared with the float32 network that it
stands for: lowest cosine of the two vectors of a photo, difference in TAR with a 95 % interval bootstrapped over
people. Milliseconds are of one crop on one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before this folder, which has a training.py

from commandline import in_one_line, positive
from latency import machine
from live import MODELS, default_models
from reports import report

from models import zoo
from models.bundle import Bundle, InputSpec, Precision
from models.errors import DeviceUnavailableError
from models.image import Pixels
from models.preprocess import Vectors, l2_normalize, to_input
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from training.data.aligned import AlignedSet
from training.data.augment import resize
from training.embeddings import EmbeddedSet
from training.evaluation.crops import labelled
from training.retrain.comparing import compare

FMR = 1e-3
CHUNK = 8
Embed = Callable[[np.ndarray], Vectors]


@dataclass(frozen=True, slots=True)
class Route:
    """A way to run a network; `of` names the route that it is compared with."""

    name: str
    embed: Embed
    of: str


def routes(registry: Registry) -> Iterator[Route]:
    """Those that this machine has."""
    small = zoo.shipped_ids()
    for name in small:
        zoo.pull(registry, name)
    default = registry.resolve("embedder", zoo.DEFAULT_EMBEDDER)
    plain = f"{default.manifest.id}, as it comes"
    yield Route(plain, _as_it_comes(default), plain)
    yield Route(f"{default.manifest.id}, PReLU as relu", _served(default, "cpu"), plain)
    for precision in ("float32", "bfloat16"):
        try:
            yield Route(f"{default.manifest.id}, OpenVINO {precision}", _served(default, "openvino", precision), plain)
        except DeviceUnavailableError as error:
            print(f"left out: {error.message}")
    for name in small:
        yield Route(name, _served(registry.resolve("embedder", name), "cpu"), small[0])


def _as_it_comes(bundle: Bundle) -> Embed:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(bundle.model_path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    spec = bundle.manifest.input
    return lambda crops: l2_normalize(session.run(None, {name: to_input(_sized(crops, spec), spec)})[0])


def _served(bundle: Bundle, device: str, precision: Precision = "float32") -> Embed:
    session = Session(bundle.model_path, SessionOptions(device, 1, precision))
    embedder = Embedder(session, bundle.manifest.model_copy(update={"precision": precision}), CHUNK)
    return lambda crops: embedder.embed(_sized(crops, bundle.manifest.input))


def _sized(crops: np.ndarray, spec: InputSpec) -> list[Pixels]:
    return [resize(crop, (spec.height, spec.width)) for crop in crops]


def embedded(route: Route, data: AlignedSet) -> EmbeddedSet:
    """All crops of the set, on all cores."""
    starts = range(0, len(data), CHUNK)
    with ThreadPoolExecutor(2) as threads:
        parts = list(threads.map(lambda start: route.embed(np.asarray(data.crops[start : start + CHUNK])), starts))
    return labelled(np.concatenate(parts).astype(np.float32), data)


def measure(data: AlignedSet, registry: Registry, rounds: int) -> dict[str, dict[str, Any]]:
    """A row for each route."""
    rows: dict[str, dict[str, Any]] = {}
    there: dict[str, EmbeddedSet] = {}
    speed: dict[str, float] = {}
    for route in routes(registry):
        found = there[route.name] = embedded(route, data)
        speed[route.name] = _seconds(route.embed, np.asarray(data.crops[:1]))
        base = there[route.of]
        difference = compare(found, base, FMR, rounds).tar
        if difference is None:
            raise SystemExit(f"{len(data)} photos cannot state a rate of {FMR:g}: take more people")
        rows[route.name] = {
            "ms": speed[route.name] * 1000,
            "ratio": speed[route.of] / speed[route.name],
            "lowest_cosine": float((found.vectors * base.vectors).sum(axis=1).min()),
            "tar": difference.candidate,
            "points": 100 * (difference.candidate - difference.champion),
            "low": 100 * difference.low,
            "high": 100 * difference.high,
        }
    return rows


def _seconds(embed: Embed, crops: np.ndarray, repeats: int = 20) -> float:
    embed(crops)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        embed(crops)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what facesphere-train align wrote")
    parser.add_argument("--people", type=positive, help="the first N with two photos or more; all if left out")
    parser.add_argument("--rounds", type=positive, default=200, help="of the bootstrap (default: 200)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    default_models()
    data = AlignedSet.open(options.data)
    if options.people is not None:
        counts = np.bincount(data.labels)
        chosen = np.flatnonzero(counts > 1)[: options.people]
        data = data.subset(np.isin(data.labels, chosen))
    about = machine()
    report(
        f"{len(data)} crops of {len(data.people)} people",
        about,
        measure(data, Registry(MODELS), options.rounds),
        options.json,
    )
    return 0


if __name__ == "__main__":
    in_one_line(main)
