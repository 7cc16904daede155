"""A real server process on free ports."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx

from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc


class LiveServer:
    """`facesphere serve` as a process of its own."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any], log: list[str]) -> None:
        self.process = process
        self.ready = ready
        self.http: str = ready["http"]
        self.grpc: str = ready["grpc"]
        self.log = log
        self.client = httpx.Client(base_url=self.http, timeout=60)
        self.channel = grpc.insecure_channel(
            self.grpc,
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self.faces = pb_grpc.FaceEmbeddingStub(self.channel)
        self.gallery = pb_grpc.GalleryStub(self.channel)
        self.models = pb_grpc.ModelsStub(self.channel)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.client.close()
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)


def command(*arguments: str) -> list[str]:
    """The command line of the server, run by this Python."""
    return [sys.executable, "-m", "service", *arguments]


def environment(**settings: str) -> dict[str, str]:
    """This environment without FACESPHERE_* variables, plus the given settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FACESPHERE_")}
    return {**clean, **{f"FACESPHERE_{name.upper()}": value for name, value in settings.items()}}


@contextlib.contextmanager
def live_server(data_dir: Path, *arguments: str, **settings: str) -> Iterator[LiveServer]:
    """Start a server and wait until it says that it is ready."""
    process = subprocess.Popen(
        command("serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(data_dir), *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**settings),
    )
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait(timeout=30)
            reader.join(5)
            raise RuntimeError(f"the server did not start: {''.join(log)}")
        server = LiveServer(process, json.loads(line), log)
        try:
            yield server
            server.stop()
        finally:  # a test that fails leaves no connection, for which the next one would be blamed
            server.client.close()
            server.channel.close()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(5)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_until(condition: Any, seconds: float = 20) -> None:
    """Wait for a condition to hold."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("the condition did not come true in time")
        time.sleep(0.02)
