"""How many crops one server process could serve if its network were as fast as a GPU's: what Python leaves.

    .venv/bin/python benchmarks/ceiling.py [--clients 1 64] [--threads 1 2] [--seconds S] [--rounds N] [--json OUT]

A whole server, whose embedder is replaced by a wait as long as an H200 takes, with no core in use meanwhile. It
gives vectors that mean nothing. Everything else is done: protocols, decoding, quality, queues, batches of up to 64, the
answer. `cpu_ms` is what one answer costs the server's process. Servers with several numbers of threads take turns.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from commandline import count, in_one_line, in_turns, positive
from latency import machine
from live import default_models, server
from load import Load, run_load
from reports import of_rounds, report
from throughput import crops

# As an NVIDIA H200 does it, by benchmarks/shapes.py: 0.81 ms for one crop, 6.99 for 64.
ALONE_MS, MORE_MS = 0.7, 0.1
MAX_BATCH = 64


def serve(arguments: list[str]) -> None:
    """`facesphere` with these arguments, its embedders replaced."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from models.preprocess import Vectors
    from models.runtime import Session, SessionOptions
    from service.__main__ import main as facesphere

    opens, run = Session.__init__, Session.run

    def on_a_gpu(self: Session, path: Path, options: SessionOptions) -> None:
        opens(self, path, options)
        if len(self.output_names) == 1:  # not the detector
            self.device = "cuda"

    def wait(self: Session, batch: Vectors) -> dict[str, Vectors]:
        if self.device != "cuda":
            return run(self, batch)
        time.sleep((ALONE_MS + MORE_MS * len(batch)) / 1000)
        return {self.output_names[0]: np.ones((len(batch), 128), np.float32)}

    Session.__init__ = on_a_gpu  # type: ignore[method-assign]
    Session.run = wait  # type: ignore[method-assign]
    sys.argv = ["facesphere", *arguments]
    facesphere()


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A row for each number of threads, protocol and number of clients."""
    default_models()
    rows: dict[str, list[dict[str, Any]]] = {}
    settings = {"FACESPHERE_MAX_BATCH": str(MAX_BATCH), "FACESPHERE_DEVICE": "cpu"}
    with contextlib.ExitStack() as stack:
        bodies = crops(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        servers = {
            threads: stack.enter_context(server(threads, program=(__file__,), **settings))
            for threads in options.threads
        }
        for _ in range(options.rounds):
            for threads, address in servers.items():
                rest = f"{address.http_host}:{address.http_port}"
                for protocol, where in (("grpc", address.grpc), ("rest", rest)):
                    for clients in options.clients:
                        load = Load(protocol, where, bodies, True, clients, seconds=options.seconds)
                        row = f"{protocol}, {clients} clients" + (f", {threads} threads" if threads else "")
                        rows.setdefault(row, []).append(run_load(load, address.pid))
    return {name: of_rounds(each, "per_s", "cpu_ms", "load_cores") for name, each in rows.items()}


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[1:])
        return 0
    parser = argparse.ArgumentParser(
        description="Crops a second that one server process could serve, whatever its network costs.",
        epilog="Example: .venv/bin/python benchmarks/ceiling.py --rounds 5",
    )
    parser.add_argument("--clients", type=positive, nargs="+", default=(1, 64), help="at once (default: 1 64)")
    parser.add_argument(
        "--threads", type=count, nargs="+", default=(0,), help="of the server; 0: one a core (default: 0)"
    )
    in_turns(parser, seconds=4)
    options = parser.parse_args()
    about = machine()
    report(f"on {len(os.sched_getaffinity(0))} cores", about, measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
