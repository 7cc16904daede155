"""A server as one writes it in an afternoon: one photo at a time, every face alone, over the same bundles.

What benchmarks/crowd.py compares with: http.server without threads, OpenCV's decoder, ONNX Runtime as it comes, with
all cores for one run.
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort

from models.alignment import align
from models.bundle import Bundle
from models.preprocess import Vectors
from models.registry import Registry
from service.inference.detector import Detector
from service.inference.embedder import Embedder


class Plain:
    """A session as ONNX Runtime makes it from the file."""

    device, precision, fixed_batch = "cpu", "float32", None

    def __init__(self, bundle: Bundle) -> None:
        self._session = ort.InferenceSession(str(bundle.model_path), providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._names = [output.name for output in self._session.get_outputs()]
        self.input_shape = tuple(self._session.get_inputs()[0].shape)

    def run(self, batch: Vectors) -> dict[str, Vectors]:
        """Every output by its name."""
        return dict(zip(self._names, self._session.run(None, {self._input: batch}), strict=True))


def handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    """Photos to embeddings."""
    found, bundle = registry.resolve("detector"), registry.resolve("embedder")
    detector = Detector(Plain(found), found.manifest.input)  # type: ignore[arg-type]
    embedder = Embedder(Plain(bundle), bundle.manifest)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # one connection at a time must not keep the others out

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            image: Any = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
            points = detector.detect(image).landmarks.astype(np.float64)
            vectors = [embedder.embed([align(image, each, embedder.template)])[0].tolist() for each in points]
            body = json.dumps({"faces": vectors}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Server(HTTPServer):
    """Takes as many connections as come, and serves one."""

    request_queue_size = 256


def main() -> int:
    """Serve until killed; the port is the first line."""
    parser = argparse.ArgumentParser(description="One photo at a time.")
    parser.add_argument("models", type=Path)
    server = Server(("127.0.0.1", 0), handler(Registry(parser.parse_args().models)))
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
