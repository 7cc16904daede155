"""A real server process on free loopback ports, for measurements; always stopped at the end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from commandline import StartError

from models import zoo
from models.registry import Registry

ROOT = Path(__file__).parents[1]
MODELS = ROOT / ".cache" / "models"
STOP_S = 30


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is reached."""

    http_host: str
    http_port: int
    grpc: str
    pid: int = 0


def default_models() -> Registry:
    """The registry with the default models, which are fetched once a checkout."""
    registry = Registry(MODELS)
    for model_id in zoo.default_ids():
        zoo.pull(registry, model_id)
    return registry


@contextlib.contextmanager
def server(
    threads: int,
    data_dir: Path | None = None,
    end: signal.Signals = signal.SIGTERM,
    program: tuple[str, ...] = ("-m", "service"),
    **settings: str,
) -> Iterator[Address]:
    """Start `facesphere serve` and wait until it is ready; without a data folder it begins with an empty gallery.

    `settings` are further FACESPHERE_* variables; `program` is what Python is to run in place of `facesphere`.

    Raises:
        StartError: it did not start; with what it said.
    """
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, *program, "serve", "--host", "127.0.0.1", "--port", "0", "--grpc-port", "0"]
        process = subprocess.Popen(
            [*command, "--threads", str(threads), "--data-dir", str(data_dir or f"{empty}/data")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=_environment(FACESPHERE_MODELS_DIR=str(MODELS), **settings),
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise StartError(f"the server did not start: {log.read()}")
            yield _address(line, process.pid)
        finally:
            _stop(process, end)


def _environment(**settings: str) -> dict[str, str]:
    """This environment without the server's settings, plus the given ones."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FACESPHERE_")} | settings


def _address(line: str, pid: int) -> Address:
    ready = json.loads(line)
    http = urlsplit(ready["http"])
    return Address(str(http.hostname), int(http.port or 0), ready["grpc"], pid)


def _stop(process: subprocess.Popen[str], end: signal.Signals) -> None:
    process.send_signal(end)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
