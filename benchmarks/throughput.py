"""Aligned crops a second over REST and gRPC at 1 to 64 clients, against the bare session on as many threads.

    .venv/bin/python benchmarks/throughput.py [--seconds S] [--rounds N] [--model ID] [--device D] [--json OUT]
    .venv/bin/python benchmarks/throughput.py --device cuda --max-batch 64 --clients 1 64 256 [--graphs]

The server, the load and the bare session are processes of their own on one machine, in turns; a ratio is taken within
its round, so that a machine that is slower for a while slows both. The load takes its time from the same cores.
`cpu_ms` is what one answer costs the server's process, and `cpu_ratio` what it costs the bare session over that: other
programs on the machine change it less than they change how much is done in a second.
"""

import argparse
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from commandline import in_one_line, in_turns, positive
from latency import machine
from live import MODELS, default_models, server
from load import Load, run_load
from PIL import Image
from reports import of_rounds, report

CLIENTS = (1, 4, 16, 64)
# What feeds a GPU fastest alone: threads with a session each.
FEEDERS = (1, 4)


def crops(folder: Path) -> list[str]:
    """Aligned crops of 112 x 112 as JPEG files: one face, a little brighter each time."""
    face = np.asarray(Image.fromarray(skimage.data.astronaut()[40:180, 160:300]).resize((112, 112)))  # type: ignore[no-untyped-call]
    names = []
    for number in range(16):
        buffer = io.BytesIO()
        Image.fromarray(np.clip(face.astype(int) + 2 * number, 0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=92
        )
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
        names.append(str(folder / f"{number}.jpg"))
    return names


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of everything in turns."""
    default_models()
    cores = len(os.sched_getaffinity(0))
    rows: dict[str, list[dict[str, Any]]] = {}
    settings = {
        "FACESPHERE_DEVICE": options.device,
        "FACESPHERE_MAX_BATCH": str(options.max_batch),
        "FACESPHERE_CUDA_GRAPHS": str(options.graphs),
    } | ({"FACESPHERE_MODEL": options.model} if options.model else {})
    with tempfile.TemporaryDirectory() as folder, server(0, **settings) as address:
        bodies = crops(Path(folder))
        rest = f"{address.http_host}:{address.http_port}"
        for _ in range(options.rounds):
            bare = _bare(options, cores)
            for protocol, where in (("grpc", address.grpc), ("rest", rest)):
                for clients in options.clients:
                    load = Load(protocol, where, bodies, True, clients, seconds=options.seconds)
                    result = run_load(load, address.pid)
                    rows.setdefault(f"{protocol}, {clients} clients", []).append(result)
                bare_after = _bare(options, cores)
                for clients in options.clients:  # a machine that changed meanwhile: the mean of before and after
                    row = rows[f"{protocol}, {clients} clients"][-1]
                    row["ratio"] = row["per_s"] / ((bare["per_s"] + bare_after["per_s"]) / 2)
                    row["cpu_ratio"] = (bare["cpu_ms"] + bare_after["cpu_ms"]) / 2 / row["cpu_ms"]
                rows.setdefault("bare session", []).append(bare_after | {"ratio": 1.0, "cpu_ratio": 1.0})
                bare = bare_after
    return {name: of_rounds(each, "ratio", "per_s", "cpu_ms", "cpu_ratio") for name, each in rows.items()}


def _bare(options: argparse.Namespace, cores: int) -> dict[str, Any]:
    """The faster of batches of 1 and of the most; on a GPU of the most, by one thread and by several."""
    on_gpu = options.device == "cuda"
    feeders, batches = (FEEDERS, (options.max_batch,)) if on_gpu else ((cores,), (1, options.max_batch))
    runs = [
        run_load(
            Load(
                "bare",
                options.model or "",
                [],
                clients=clients,
                seconds=options.seconds / 2,
                batch=batch,
                model=str(MODELS),
                device=options.device,
            )
        )
        for batch in batches
        for clients in feeders
    ]
    return max(runs, key=lambda run: float(run["per_s"]))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Aligned crops a second, served and bare.",
        epilog="Example: .venv/bin/python benchmarks/throughput.py --seconds 3 --rounds 5 --json throughput.json",
    )
    in_turns(parser, seconds=3)
    parser.add_argument("--model", help="embedder, if not the promoted one")
    parser.add_argument("--device", default="cpu", help="cpu, openvino or cuda (default: cpu)")
    parser.add_argument("--max-batch", type=positive, default=8, help="crops in one run, served and bare (default: 8)")
    parser.add_argument("--clients", type=positive, nargs="+", default=CLIENTS, help="at once (default: 1 4 16 64)")
    parser.add_argument("--graphs", action="store_true", help="the server launches CUDA graphs")
    options = parser.parse_args()
    about = machine()
    report("crops a second", about, measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
