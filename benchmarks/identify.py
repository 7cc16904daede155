"""Verify and identify by embeddings, and identify by photos, at 1 to 64 clients over REST and gRPC.

    .venv/bin/python benchmarks/identify.py [--faces 100000] [--seconds S] [--rounds N] [--json OUT]

The gallery is of people with ten noisy faces each, enrolled under the default model's contract; probes are new faces of
theirs, photos one face. Server and load are processes of their own, in turns on the same cores. Beside what is served
are what bounds it: searches of the same index alone, by one thread and by 64 that ask without a pause, on all cores.
`cpu_ms` is what an answer costs the server's process.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from clustered import People, at_once
from commandline import in_one_line, in_turns, positive
from latency import machine
from live import default_models, server
from load import Load, run_load
from PIL import Image
from reports import of_rounds, report

from models.preprocess import Vectors
from service.domain import CollectionSettings, ModelInfo, NewFace
from service.gallery.index import ExactIndex
from service.gallery.sharing import Lanes
from service.gallery.store import open_store
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.security.keyfolder import open_keys
from service.threads import hold_libraries

CLIENTS = (1, 16, 64)
COLLECTION = "people"
OF_A_PERSON = 10
THRESHOLD = 0.4
PROBES = 64


def enrol(folder: Path, people: People, model: ModelInfo) -> None:
    """A gallery as a server finds it at its start."""
    folder.mkdir()
    with contextlib.closing(open_store(folder, open_keys(folder.with_name(folder.name + ".keys")))) as store:
        with store.trail.change():
            settings = CollectionSettings("a measurement")
            store.records.adopt_collection(COLLECTION, settings, model, store.database.now())
        for first, vectors in people.chunks():
            with store.trail.change():
                for person in range(0, len(vectors), OF_A_PERSON):
                    now, rows = store.database.now(), range(person, min(person + OF_A_PERSON, len(vectors)))
                    faces = [(f"{first + row:032x}", now, NewFace(vectors[row], 0.5, None, None)) for row in rows]
                    store.records.adopt_subject(COLLECTION, f"person {first + person}", now, faces)


def loads(folder: Path, probes: Vectors) -> dict[str, dict[str, Load]]:
    """By what is asked and by protocol; addresses and numbers of clients are filled in later."""
    values = [probe.tolist() for probe in probes]
    photo = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(photo, "JPEG", quality=90)  # type: ignore[no-untyped-call]
    identify, verify = f"/collections/{COLLECTION}/identify", "/verify"

    def files(name: str, bodies: list[bytes]) -> list[str]:
        paths = [folder / f"{name}-{number}" for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        return [str(path) for path in paths]

    def rest(name: str, path: str, bodies: list[bytes], kind: str = "application/json") -> Load:
        return Load("rest", "", files(f"{name}-rest", bodies), path=path, content_type=kind)

    def grpc(name: str, rpc: str, messages: list[Any]) -> Load:
        bodies = files(f"{name}-grpc", [each.SerializeToString() for each in messages])
        return Load("grpc", "", bodies, path=f"/face_embedding.v1.{rpc}")

    def asked(probe: Any) -> Any:
        return pb.IdentifyRequest(collection=COLLECTION, threshold=THRESHOLD, probe=probe)

    sent = [pb.Probe(embedding=pb.Embedding(values=each)) for each in values]
    pairs = list(itertools.pairwise(values))
    return {
        "verify, embeddings": {
            "gRPC": grpc(
                "verify",
                "FaceEmbedding/Verify",
                [pb.VerifyRequest(a=a, b=b) for a, b in itertools.pairwise(sent)],
            ),
            "REST": rest("verify", verify, [_json({"a": {"embedding": a}, "b": {"embedding": b}}) for a, b in pairs]),
        },
        "identify, embedding": {
            "gRPC": grpc("identify", "Gallery/Identify", [asked(each) for each in sent]),
            "REST": rest("identify", identify, [_json({"embedding": each, "threshold": THRESHOLD}) for each in values]),
        },
        "identify, photo": {
            "gRPC": grpc("photo", "Gallery/Identify", [asked(pb.Probe(image=photo.getvalue()))]),
            "REST": rest("photo", f"{identify}?threshold={THRESHOLD}", [photo.getvalue()], "image/jpeg"),
        },
    }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def alone(people: People, probes: Vectors) -> dict[str, dict[str, Any]]:
    """The index without a server."""
    index = ExactIndex(people.dimension, lanes=Lanes(len(os.sched_getaffinity(0))))
    people.add_to(index.add)
    times = []
    for probe in probes:
        began = time.perf_counter()
        index.search(probe, 5)
        times.append((time.perf_counter() - began) * 1000)
    together = at_once(index.search, probes)
    return {
        "search alone": {"per_s": 1000 / float(np.median(times)), "p50_ms": float(np.median(times))},
        "search alone, 64 at once": {"per_s": 1000 / together},
    }


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rounds of everything in turns."""
    manifest = default_models().resolve("embedder", None).manifest
    model = ModelInfo(manifest.id, manifest.contract_id, manifest.dimension or 0)
    people = People(options.faces, model.dimension)
    probes = people.probes(PROBES)
    rows = alone(people, probes)
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        enrol(folder / "data", people, model)
        with server(0, folder / "data") as address:
            where = {"gRPC": address.grpc, "REST": f"{address.http_host}:{address.http_port}"}
            for _ in range(options.rounds):
                for name, protocols in loads(folder, probes).items():
                    for protocol, load in protocols.items():
                        for clients in CLIENTS:
                            run = _run(load, where[protocol], clients, options.seconds, address.pid)
                            found.setdefault(f"{name}, {protocol}, {clients}", []).append(run)
    return rows | {name: of_rounds(runs, "per_s", "cpu_ms", "load_cores") for name, runs in found.items()}


def _run(load: Load, address: str, clients: int, seconds: float, pid: int) -> dict[str, Any]:
    return run_load(
        Load(
            load.protocol,
            address,
            load.bodies,
            path=load.path,
            content_type=load.content_type,
            clients=clients,
            seconds=seconds,
        ),
        pid,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=positive, default=100_000, help="in the gallery (default: 100000)")
    in_turns(parser, seconds=3)
    options = parser.parse_args()
    if options.faces < OF_A_PERSON:
        parser.error(f"--faces must be at least {OF_A_PERSON}, one person's")
    hold_libraries()
    about = machine()
    report(f"{options.faces} faces", about, measure(options), options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
