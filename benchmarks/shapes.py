"""What a change of the size of a batch costs the bare session of the embedder: the reason for a session a size on CUDA.

    .venv/bin/python benchmarks/shapes.py [--device cuda] [--sizes 1 64] [--model ID] [--json OUT]

One session is given batches of one size over and over, and of all sizes by turns. `first_ms` has the planning in it.
On CUDA for both ways in which convolutions can be planned.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from commandline import in_one_line, positive
from latency import machine
from live import default_models
from reports import report

# As models/runtime.py has it, but for the one that is compared.
_CUDA = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
_REPEATS = 20


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A row for each way of planning and size, and one for sizes by turns."""
    bundle = default_models().resolve("embedder", options.model)
    spec = bundle.manifest.input
    rng = np.random.default_rng(0)
    batches = {
        size: rng.uniform(-1, 1, (size, 3, spec.height, spec.width)).astype(np.float32) for size in options.sizes
    }
    rows: dict[str, dict[str, Any]] = {}
    for way in ("HEURISTIC", "DEFAULT") if options.device == "cuda" else ("",):
        session = _session(bundle.model_path, way)
        name = session.get_inputs()[0].name

        def run(size: int, session: Any = session, name: str = name) -> None:
            session.run(None, {name: batches[size]})

        for size in options.sizes:
            first = _ms(lambda size=size: run(size))  # type: ignore[misc]
            steady = statistics.median(_ms(lambda size=size: run(size)) for _ in range(_REPEATS))  # type: ignore[misc]
            rows[f"{way} {size} over and over".strip()] = {
                "first_ms": first,
                "ms": steady,
                "per_s": 1000 * size / steady,
            }
        turns = [_ms(lambda size=size: run(size)) for _ in range(3) for size in options.sizes]  # type: ignore[misc]
        rows[f"{way} by turns".strip()] = {"ms": statistics.median(turns), "per_s": 3000 * sum(batches) / sum(turns)}
    return rows


def _session(path: Path, way: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not way:
        return ort.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    provider = ("CUDAExecutionProvider", _CUDA | {"cudnn_conv_algo_search": way})
    if provider[0] in ort.get_available_providers():
        ort.preload_dlls()
        session = ort.InferenceSession(path, sess_options=options, providers=[provider])
        if session.get_providers()[0] == provider[0]:
            return session
    sys.exit("shapes.py: CUDA does not work here; --device cpu measures the processor")


def _ms(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="What a change of the size of a batch costs the bare session.",
        epilog="Example: .venv/bin/python benchmarks/shapes.py --device cuda --sizes 1 4 16 64",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="default: cuda")
    parser.add_argument("--sizes", type=positive, nargs="+", default=[1, 64], help="crops in a batch (default: 1 64)")
    parser.add_argument("--model", help="embedder, if not the promoted one")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    report("embedder's session", machine(), measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
