"""What traces cost the server: time of a core an answer, without tracing, with one trace in a hundred, and with all.

    .venv/bin/python benchmarks/tracing.py [--rounds N] [--calls N] [--json OUT]

Three servers with one thread each answer the same calls in turns, one caller at a time: /embed of a photo of one face,
and /verify of two embeddings, which costs little else. Traces go to a collector on this machine that keeps nothing.
"""

import argparse
import contextlib
import io
import os
import statistics
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import skimage.data
from commandline import in_one_line, positive
from latency import machine
from live import default_models, server
from PIL import Image
from reports import report

SAMPLERS = {"off": None, "1 in 100": "0.01", "all": "1"}


@contextlib.contextmanager
def collector() -> Iterator[str]:
    """Takes everything, keeps nothing."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


@contextlib.contextmanager
def tracing_server(share: str | None, collecting: str) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """A server that traces so many requests, and a caller of it."""
    os.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collecting, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    os.environ["OTEL_TRACES_SAMPLER_ARG"] = share or "0"
    settings = {} if share is None else {"FACESPHERE_TRACING": "true"}
    with server(1, **settings) as address:
        url = f"http://{address.http_host}:{address.http_port}"
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client, psutil.Process(address.pid)


def milliseconds(client: httpx.Client, process: psutil.Process, call: dict[str, object], calls: int) -> float:
    """Time of a core that an answer costs the process."""
    before = sum(process.cpu_times()[:2])
    for _ in range(calls):
        client.request(**call).raise_for_status()  # type: ignore[arg-type]
    return 1000 * (sum(process.cpu_times()[:2]) - before) / calls


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--calls", type=positive, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    default_models()
    about = machine()
    photo = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(photo, "JPEG", quality=95)
    body = photo.getvalue()
    with contextlib.ExitStack() as stack:
        collecting = stack.enter_context(collector())
        servers = {name: stack.enter_context(tracing_server(share, collecting)) for name, share in SAMPLERS.items()}
        vector = next(iter(servers.values()))[0].post("/embed", content=body).json()["faces"][0]["embedding"]
        probe = {"embedding": vector}
        calls: dict[str, dict[str, object]] = {
            "/embed of a photo": {"method": "POST", "url": "/embed", "content": body},
            "/verify of two embeddings": {"method": "POST", "url": "/verify", "json": {"a": probe, "b": probe}},
        }
        rows: dict[str, dict[str, object]] = {}
        times = dict(zip(calls, (asked.calls, 10 * asked.calls), strict=True))  # the system counts in 10 ms
        for what, call in calls.items():
            found: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(asked.rounds):
                for name, (client, process) in servers.items():
                    found[name].append(milliseconds(client, process, call, times[what]))
            for name, each in found.items():
                more = statistics.median(b - a for a, b in zip(found["off"], each, strict=True))
                rows[f"{what}: {name}"] = {"ms of a core": statistics.median(each), "more than off": more}
    report("traces", about, rows, asked.json)


if __name__ == "__main__":
    in_one_line(main)
