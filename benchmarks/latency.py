"""Latency of a served photo, against the sum of the bare stages in one process and one thread.

    .venv/bin/python benchmarks/latency.py [--photo FILE] [--rounds N] [--json OUT]

Every served call is measured right after a run of the bare stages on the same photo, and its ratio is taken to that
run, so that a machine that is slower for a while slows both. One client, one call at a time, over loopback, on
connections that are kept open. Request bodies are made before the clock starts; it stops when the whole answer has
been read. A row "at once" is the same call right after the one above it, without a pause between the two.
"""

import argparse
import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import skimage.data
from commandline import StartError, in_one_line, positive
from grpc_health.v1 import health_pb2, health_pb2_grpc
from live import Address, default_models, server
from PIL import Image

from models.alignment import align
from models.image import ImageLimits, Pixels, decode
from models.registry import Registry
from models.runtime import Session, SessionOptions, installed_runtimes
from service.domain import Vector
from service.errors import FaceNotFoundError
from service.faces import Faces, embed_function
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.detector import Detector
from service.inference.embedder import Embedder
from service.inference.finder import FaceFinder
from service.inference.pool import Pool
from service.inference.quality import quality
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

# The whole run stays under 90 s: models are loaded twice, and measuring ends here whatever the number of rounds.
MEASURE_S = 70
WARM_UP = 3
STAGES = ("decode", "detect", "align + quality", "embed")
JSON, JPEG = "application/json", "image/jpeg"
# These are measured once more without a pause, on a connection that has just been used.
AT_ONCE = ("REST /embed, raw body", "gRPC Embed")
Call = Callable[[], None]
Seconds = dict[str, float]


class Bare:
    """The stages of a photo one after the other, as a script would call them."""

    def __init__(self, registry: Registry) -> None:
        options = SessionOptions("cpu", threads=1)
        detector, bundle = registry.resolve("detector"), registry.resolve("embedder")
        self.detector = Detector(Session(detector.model_path, options), detector.manifest.input)
        self.embedder = Embedder(Session(bundle.model_path, options), bundle.manifest)
        self.manifest = bundle.manifest

    def run(self, data: bytes) -> Seconds:
        """Seconds of each stage."""
        began = time.perf_counter()
        image = decode(data)
        decoded = time.perf_counter()
        found = self.detector.detect(image)
        detected = time.perf_counter()
        crops = [self._cut(image, landmarks) for landmarks in found.landmarks.astype(np.float64)]
        cut = time.perf_counter()
        self.embedder.embed(crops)
        embedded = time.perf_counter()
        return dict(zip(STAGES, np.diff([began, decoded, detected, cut, embedded]).tolist(), strict=True))

    def faces(self, data: bytes) -> int:
        """How many faces the photo has.

        Raises:
            FaceError: the bytes are no acceptable image.
        """
        return len(self.detector.detect(decode(data)))

    def _cut(self, image: Pixels, landmarks: np.ndarray) -> Pixels:
        crop = align(image, landmarks, self.embedder.template)
        quality(landmarks, crop)
        return crop


@contextlib.contextmanager
def application(bare: Bare) -> Iterator[Callable[[bytes], Call]]:
    """The application layer in this process: the same stages through the pool and the batcher, without a protocol."""
    batcher: Batcher[Pixels, Vector] = Batcher("embed", embed_function(bare.embedder.embed), BatcherOptions())
    pool = Pool("photo", 1, 8)
    finder = FaceFinder(bare.detector, bare.embedder.template, ImageLimits())
    faces = Faces(finder, bare.manifest, batcher, pool, 1e-3)
    with asyncio.Runner() as runner:
        yield lambda data: lambda: _none(runner.run(faces.embed(data)))
    pool.close()
    batcher.close()


class Rest:
    """One connection that is kept open."""

    def __init__(self, address: Address) -> None:
        self._connection = http.client.HTTPConnection(address.http_host, address.http_port, timeout=30)

    def post(self, path: str, body: bytes, content_type: str) -> Call:
        """A call with this body."""
        return lambda: self._exchange("POST", path, body, {"content-type": content_type})

    def get(self, path: str) -> Call:
        """A call without a body."""
        return lambda: self._exchange("GET", path, None, {})

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise StartError(f"{path} answered {answer.status}: {text[:300]!r}")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and another of the same cost, to be verified against it."""

    name: str
    data: bytes
    other: bytes


@dataclass(slots=True)
class Measured:
    """Seconds of everything that was run on one photo, in order."""

    stages: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sums: list[float] = field(default_factory=list)
    calls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add_bare(self, seconds: Seconds) -> float:
        """Keep a run of the bare stages; its sum."""
        for stage, value in seconds.items():
            self.stages[stage].append(value)
        self.sums.append(sum(seconds.values()))
        return self.sums[-1]

    def add_call(self, name: str, seconds: float, bare: float) -> None:
        """Keep a call and its ratio to the bare stages that ran before it."""
        self.calls[name].append(seconds)
        self.ratios[name].append(seconds / bare)


def served_calls(photo: Photo, rest: Rest, stub: pb_grpc.FaceEmbeddingStub) -> dict[str, Call]:
    """Photo to embeddings, in every form that a photo can be sent in."""
    in_json = json.dumps({"image": _base64(photo.data)}).encode()
    form, form_type = _multipart(image=photo.data)
    request = pb.EmbedRequest(image=photo.data)
    return {
        "REST /embed, raw body": rest.post("/embed", photo.data, JPEG),
        "REST /embed, multipart": rest.post("/embed", form, form_type),
        "REST /embed, JSON, float": rest.post("/embed?encoding=float", in_json, JSON),
        "REST /embed, JSON, base64": rest.post("/embed?encoding=base64", in_json, JSON),
        "gRPC Embed": lambda: _none(stub.Embed(request, timeout=30)),
    }


def verify_calls(photo: Photo, rest: Rest, stub: pb_grpc.FaceEmbeddingStub) -> dict[str, Call]:
    """Two photos to a decision; both are embedded."""
    form, form_type = _multipart(image_a=photo.data, image_b=photo.other)
    request = pb.VerifyRequest(a=pb.Probe(image=photo.data), b=pb.Probe(image=photo.other))
    return {
        "REST /verify, multipart": rest.post("/verify", form, form_type),
        "gRPC Verify": lambda: _none(stub.Verify(request, timeout=30)),
    }


def measure(photos: list[Photo], rounds: int, bare: Bare) -> tuple[list[Measured], dict[str, list[float]], int]:
    """Rounds of bare stages and served calls in turns.

    Returns:
        For each photo what was measured; the time of calls that carry no photo; the number of rounds.
    """
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(server(threads=1))
        in_process = stack.enter_context(application(bare))
        rest = stack.enter_context(contextlib.closing(Rest(address)))
        channel = stack.enter_context(grpc.insecure_channel(address.grpc))
        stub = pb_grpc.FaceEmbeddingStub(channel)  # type: ignore[no-untyped-call]
        singles = [{"in process": in_process(each.data)} | served_calls(each, rest, stub) for each in photos]
        pairs = [verify_calls(each, rest, stub) for each in photos]
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest()
        idle = {
            "REST GET /health/live": rest.get("/health/live"),
            "gRPC Health.Check": lambda: _none(health.Check(check, timeout=30)),
        }
        measured, floors = [Measured() for _ in photos], defaultdict[str, list[float]](list)
        done, end = -WARM_UP, time.monotonic() + MEASURE_S
        while done < rounds and time.monotonic() < end:
            if done == 0:
                measured, floors = [Measured() for _ in photos], defaultdict(list)
            for photo, kept, single, pair in zip(photos, measured, singles, pairs, strict=True):
                _round(photo, kept, bare, _rotated(single, done), _rotated(pair, done))
            for name, call in idle.items():
                floors[name].append(_timed(call))
                floors[f"{name}, at once"].append(_timed(call))
            done += 1
    return measured, floors, done


def _round(photo: Photo, kept: Measured, bare: Bare, single: dict[str, Call], pair: dict[str, Call]) -> None:
    for name, call in single.items():
        before = kept.add_bare(bare.run(photo.data))
        kept.add_call(name, _timed(call), before)
        if name in AT_ONCE:
            kept.add_call(f"{name}, at once", _timed(call), before)
    for name, call in pair.items():
        before = kept.add_bare(bare.run(photo.data)) + kept.add_bare(bare.run(photo.other))
        kept.add_call(name, _timed(call), before)


def _rotated(calls: dict[str, Call], by: int) -> dict[str, Call]:
    """Another one first in each round, so that none always follows the same one."""
    names = list(calls)
    start = by % len(names)
    return {name: calls[name] for name in names[start:] + names[:start]}


def _timed(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _none(_: object) -> None:
    """A call's answer is not looked at here; tests do that."""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _multipart(**files: bytes) -> tuple[bytes, str]:
    head = b'--edge\r\ncontent-disposition: form-data; name="%s"; filename="a.jpg"\r\ncontent-type: image/jpeg\r\n\r\n'
    parts = [head % name.encode() + data + b"\r\n" for name, data in files.items()]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


# Photos.


def default_photos() -> list[Photo]:
    """The astronaut of scikit-image, 512 x 512, and the same enlarged into 1280 x 960."""
    small = np.asarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    enlarged = cv2.resize(small, (960, 960), interpolation=cv2.INTER_CUBIC)
    large = cv2.copyMakeBorder(enlarged, 0, 0, 160, 160, cv2.BORDER_REFLECT)
    return [_photo(small), _photo(large)]


def own_photo(path: Path) -> list[Photo]:
    """A file as it is, and its mirror image to verify it against."""
    data = path.read_bytes()
    image = decode(data)
    return [Photo(f"{path.name}, {_size(image)}", data, _jpeg(image[:, ::-1]))]


def _photo(image: Pixels) -> Photo:
    data = _jpeg(image)
    return Photo(f"JPEG {_size(image)}, {len(data) / 1000:.0f} kB", data, _jpeg(image[:, ::-1]))


def _size(image: Pixels) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _jpeg(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


# The report.


def machine() -> dict[str, str]:
    """Processor, GPU where there is one, and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = (*installed_runtimes(), "opencv-python-headless", "pillow", "fastapi", "uvicorn", "grpcio")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        **_gpu(),
        "load before": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _gpu() -> dict[str, str]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"gpu": "; ".join(said.split("\n")[:-1])}


def row(values: list[float]) -> dict[str, float]:
    """Median and spread in milliseconds."""
    low, middle, high = np.quantile(np.array(values) * 1000, [0.1, 0.5, 0.9]).tolist()
    return {"median_ms": middle, "p10_ms": low, "p90_ms": high}


def rows(kept: Measured) -> dict[str, dict[str, float]]:
    """Everything that was measured on one photo, by name; calls with their ratio to the bare stages."""
    bare = {name: row(values) for name, values in kept.stages.items()} | {"sum": row(kept.sums) | {"ratio": 1.0}}
    return bare | {
        name: row(values) | {"ratio": float(np.median(kept.ratios[name]))} for name, values in kept.calls.items()
    }


def print_table(title: str, table: dict[str, dict[str, float]]) -> None:
    """A table with a heading."""
    print(f"\n{title:<36}{'median ms':>10}{'p10 .. p90':>18}{'ratio':>8}")
    for name, values in table.items():
        spread = f"{values['p10_ms']:.2f} .. {values['p90_ms']:.2f}"
        ratio = f"{values['ratio']:.3f}" if "ratio" in values else ""
        print(f"{name:<36}{values['median_ms']:>10.2f}{spread:>18}{ratio:>8}")


def run(path: Path | None, rounds: int, out: Path | None) -> None:
    """Measure, print, and write the numbers to a file if one is named.

    Raises:
        FaceError: the photo cannot be read, or has no face.
    """
    cv2.setNumThreads(1)
    document: dict[str, Any] = {"machine": machine()}
    bare = Bare(default_models())
    photos = own_photo(path) if path else default_photos()
    for photo in photos:
        if not bare.faces(photo.data):
            raise FaceNotFoundError(f"there is no face in {photo.name}")
    measured, idle, document["rounds"] = measure(photos, rounds, bare)
    tables = {
        f"{photo.name}, faces: {bare.faces(photo.data)}": rows(kept)
        for photo, kept in zip(photos, measured, strict=True)
    }
    document["tables"] = tables | {"without a photo": {name: row(values) for name, values in idle.items()}}
    for name, value in document["machine"].items():
        print(f"{name}: {value}")
    print(f"rounds: {document['rounds']}; a ratio is the median of call / bare stages of its photos right before it")
    for title, table in document["tables"].items():
        print_table(title, table)
    if out:
        out.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Latency of a served photo against the sum of the bare stages.",
        epilog="Example: .venv/bin/python benchmarks/latency.py --photo me.jpg --rounds 20 --json latency.json",
    )
    parser.add_argument("--photo", type=Path, help="image file with a face; two sizes of a shipped one if left out")
    parser.add_argument(
        "--rounds", type=positive, default=40, help=f"at most; it ends after {MEASURE_S} s (default: 40)"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    run(options.photo, options.rounds, options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
