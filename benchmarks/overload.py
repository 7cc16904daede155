"""Ten times as many requests as can be answered: what is still answered in time, and how soon the rest is refused.

    .venv/bin/python benchmarks/overload.py [--times N] [--deadline S] [--seconds S] [--rounds N] [--json OUT]

Aligned crops over gRPC and over REST, each with a deadline: a caller's own over gRPC, the server's over REST, where
callers cannot state one. First the peak, with 16 clients that wait for their answers; then arrivals at a fixed rate,
whether or not earlier ones were answered. Goodput counts answers within the deadline, while requests come. The load
runs on the same cores and takes its share of them, which is told as `load_cores`; `late_ms` if its arrivals were later
than their rate has them.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from commandline import amount, in_one_line, in_turns
from latency import machine
from live import default_models, server
from load import Load, run_load
from reports import report
from throughput import crops

CLIENTS = 16


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rounds of peak and overload in turns, over one protocol after the other."""
    default_models()
    rounds: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    settings = {"FACESPHERE_DEVICE": options.device, "FACESPHERE_REQUEST_TIMEOUT_S": str(options.deadline)}
    with tempfile.TemporaryDirectory() as folder, server(0, **settings) as address:
        bodies = crops(Path(folder))
        where = {"grpc": address.grpc, "rest": f"{address.http_host}:{address.http_port}"}
        for _ in range(options.rounds):
            for protocol, at in where.items():
                peak = Load(protocol, at, bodies, True, CLIENTS, seconds=options.seconds, deadline_s=options.deadline)
                before = run_load(peak)
                rate = options.times * before["per_s"]
                rounds.setdefault(protocol, []).append((before, run_load(replace(peak, rate=rate))))
    rows: dict[str, dict[str, Any]] = {}
    for protocol, pairs in rounds.items():
        rows |= {f"{protocol}, {name}": row for name, row in _rows(pairs, options.times).items()}
    return rows


def _rows(pairs: list[tuple[dict[str, Any], dict[str, Any]]], times: float) -> dict[str, dict[str, Any]]:
    """Of one protocol, by rounds of a peak and what was answered at so many times its rate."""
    peaks, runs = [peak for peak, _ in pairs], [run for _, run in pairs]
    ratios = [run["per_s"] / peak["per_s"] for peak, run in pairs]
    goodput = {"per_s": _median(runs, "per_s"), "ratio": float(np.median(ratios))} | {
        "lowest": min(ratios),
        "highest": max(ratios),
    }
    codes = {code: sum(run["codes"].get(code, 0) for run in runs) for run in runs for code in run["codes"]}
    return {
        "peak": {"per_s": _median(peaks, "per_s"), "ratio": 1.0, **_times(peaks, "ok_ms"), **_load(peaks)},
        f"answered at {times:g} x": {**goodput, **_times(runs, "ok_ms"), **_load(runs)},
        "refused": _times(runs, "refused_ms"),
        "outcomes": {"codes": " ".join(f"{code}:{count}" for code, count in sorted(codes.items()))},
    }


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return float(np.median([run[key] for run in runs]))


def _load(runs: list[dict[str, Any]]) -> dict[str, float]:
    """What the load took, and the most by which its arrivals were late, if they were."""
    late = [run["late_ms"] for run in runs if "late_ms" in run]
    return {"load_cores": _median(runs, "load_cores")} | ({"late_ms": max(late)} if late else {})


def _times(runs: list[dict[str, Any]], key: str) -> dict[str, float]:
    known = [run[key] for run in runs if run[key]]
    return {name: float(np.median([each[k] for each in known])) for k, name in enumerate(("p50_ms", "p99_ms")) if known}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Goodput and refusals under overload.",
        epilog="Example: .venv/bin/python benchmarks/overload.py --times 10 --deadline 1 --json overload.json",
    )
    parser.add_argument("--times", type=amount, default=10, help="of the peak (default: 10)")
    parser.add_argument("--deadline", type=amount, default=1, help="of each request, seconds (default: 1)")
    in_turns(parser, seconds=5)
    parser.add_argument("--device", default="cpu", help="cpu or openvino (default: cpu)")
    options = parser.parse_args()
    about = machine()
    report("crops a second", about, measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
