"""Photos a second with 16 clients, against a server that takes one photo at a time over the same bundles.

    .venv/bin/python benchmarks/crowd.py [--photo FILE] [--clients N] [--seconds S] [--rounds N] [--json OUT]

Both servers, and the load, are processes of their own; they are loaded in turns, one while the other is idle. Each uses
all cores.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commandline import in_one_line, in_turns, positive
from latency import default_photos, machine
from live import MODELS, ROOT, default_models, server
from load import Load, run_load
from reports import of_rounds, report


@contextlib.contextmanager
def one_at_a_time() -> Iterator[str]:
    """The other server; its address."""
    command = [sys.executable, str(ROOT / "benchmarks" / "one_at_a_time.py"), str(MODELS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rounds of both servers for each photo."""
    rows: dict[str, dict[str, Any]] = {}
    default_models()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(server(0, FACESPHERE_DEVICE=options.device))
        other = stack.enter_context(one_at_a_time())
        addresses = {
            "gRPC": ("grpc", address.grpc),
            "REST": ("rest", f"{address.http_host}:{address.http_port}"),
            "one at a time": ("rest", other),
        }
        for name, files in _photos(options.photo, folder).items():
            rounds = [
                {
                    each: run_load(Load(protocol, where, files, False, options.clients, seconds=options.seconds))
                    for each, (protocol, where) in addresses.items()
                }
                for _ in range(options.rounds)
            ]
            for each in addresses:
                runs = [r[each] | {"ratio": r[each]["per_s"] / r["one at a time"]["per_s"]} for r in rounds]
                rows[f"{name}: {each}"] = of_rounds(runs, "ratio", "per_s")
    return rows


def _photos(path: Path | None, folder: Path) -> dict[str, list[str]]:
    if path is not None:
        return {path.name: [str(path)]}
    files: dict[str, list[str]] = {}
    for number, photo in enumerate(default_photos()):
        for kind, data in (("a", photo.data), ("b", photo.other)):
            (folder / f"{number}{kind}.jpg").write_bytes(data)
        files[photo.name.partition(", ")[0]] = [str(folder / f"{number}{kind}.jpg") for kind in "ab"]
    return files


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Photos a second with several clients, against one photo at a time.",
        epilog="Example: .venv/bin/python benchmarks/crowd.py --rounds 5 --json crowd.json",
    )
    parser.add_argument("--photo", type=Path, help="image file with a face; two sizes of a shipped one if left out")
    parser.add_argument("--clients", type=positive, default=16, help="default: 16")
    in_turns(parser, seconds=4)
    parser.add_argument("--device", default="cpu", help="of our server: cpu or openvino (default: cpu)")
    options = parser.parse_args()
    about = machine()
    report("photos a second", about, measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
