"""What an answer of /embed weighs and costs, by its form: JSON with numbers, JSON with base64, a gRPC message.

    .venv/bin/python benchmarks/wire.py [--repeats N] [--json OUT]

In one process, without a network: the server's own code writes, and the usual library reads it into arrays again.
"""

import argparse
import base64
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from commandline import in_one_line, positive
from latency import machine
from reports import report

from service.domain import EmbeddedFace, EmbeddedPhoto, Face, ModelInfo
from service.grpc_api import convert
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.rest import render

WARM = 20


def photo(faces: int, dimension: int) -> tuple[EmbeddedPhoto, ModelInfo]:
    """A photo with so many faces."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(faces):
        box = tuple(rng.uniform(0, 4000, 4).tolist())
        points = tuple((x, y) for x, y in rng.uniform(0, 4000, (5, 2)).tolist())
        vector = rng.normal(size=dimension).astype(np.float32)
        about = Face((box[0], box[1], box[2], box[3]), points, 0.93, 0.71)
        found.append(EmbeddedFace(about, np.zeros((1, 1, 3), np.uint8), vector / np.linalg.norm(vector)))
    return EmbeddedPhoto(4000, 3000, found), ModelInfo("sface-2021dec", "73de7c171ce184e7", dimension)


def forms(value: EmbeddedPhoto, info: ModelInfo) -> dict[str, tuple[Callable[[], bytes], Callable[[bytes], Any]]]:
    """How it is written and read, by name."""

    def numbers(data: bytes) -> list[Any]:
        return [np.array(each["embedding"], np.float32) for each in orjson.loads(data)["faces"]]

    def text(data: bytes) -> list[Any]:
        return [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in orjson.loads(data)["faces"]]

    def message(data: bytes) -> list[Any]:
        return [np.array(each.embedding, np.float32) for each in pb.EmbedResponse.FromString(data).faces]

    return {
        "JSON, numbers": (lambda: render.dump(render.embedded_photo(value, "float", info)), numbers),
        "JSON, base64": (lambda: render.dump(render.embedded_photo(value, "base64", info)), text),
        "gRPC": (lambda: convert.embedded_photo(value, info).SerializeToString(), message),
    }


def measure(repeats: int) -> dict[str, dict[str, Any]]:
    """A row for each form."""
    rows = {}
    for dimension in (128, 512):
        for faces in (1, 10):
            value, info = photo(faces, dimension)
            for name, (write, read) in forms(value, info).items():
                data = write()
                rows[f"{dimension} x {faces} faces, {name}"] = {
                    "bytes": len(data),
                    "write_us": _microseconds(write, repeats),
                    "read_us": _microseconds(lambda read=read, data=data: read(data), repeats),
                }
    return rows


def _microseconds(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(WARM + repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM:]) * 1e6


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=500, help="default: 500")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    report("an answer of /embed", machine(), measure(options.repeats), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
