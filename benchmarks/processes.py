"""Would several server processes on one machine do more than one? One with all cores against one for each core.

    .venv/bin/python benchmarks/processes.py [--clients 64] [--seconds S] [--rounds N] [--json OUT]

Photos or aligned crops over gRPC from as many clients in both cases, in turns; the clients of several processes are
shared out among them by the load, which costs nothing, so that no proxy is in the figures.
"""

import argparse
import contextlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from commandline import in_one_line, in_turns, positive
from latency import default_photos, machine
from live import Address, default_models, server
from load import Load, run_load
from reports import report
from throughput import crops


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rounds of both, for crops and for photos."""
    default_models()
    cores = len(os.sched_getaffinity(0))
    rows: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        one = [stack.enter_context(server(cores))]
        several = [stack.enter_context(server(1)) for _ in range(cores)]
        for what, bodies, aligned in (("crops", crops(folder), True), ("photos", _photos(folder), False)):
            runs: dict[int, list[float]] = {1: [], cores: []}
            for _ in range(options.rounds):
                for servers in (one, several):
                    runs[len(servers)].append(_per_s(servers, bodies, aligned, options))
            ratios = [b / a for a, b in zip(runs[1], runs[cores], strict=True)]
            rows[f"{what}, 1 process"] = {"per_s": float(np.median(runs[1])), "ratio": 1.0}
            rows[f"{what}, {cores} processes"] = {
                "per_s": float(np.median(runs[cores])),
                "ratio": float(np.median(ratios)),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
    return rows


def _per_s(servers: list[Address], bodies: list[str], aligned: bool, options: argparse.Namespace) -> float:
    loads = [
        Load("grpc", each.grpc, bodies, aligned, options.clients // len(servers), seconds=options.seconds)
        for each in servers
    ]
    with ThreadPoolExecutor(len(loads)) as threads:
        return float(sum(result["per_s"] for result in threads.map(run_load, loads)))


def _photos(folder: Path) -> list[str]:
    found = []
    for number, photo in enumerate(default_photos()):
        path = folder / f"photo-{number}.jpg"
        path.write_bytes(photo.data)
        found.append(str(path))
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=positive, default=64, help="in both cases (default: 64)")
    in_turns(parser, seconds=3, rounds=5)
    options = parser.parse_args()
    about = machine()
    report("answers a second", about, measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
