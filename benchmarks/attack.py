"""What others notice of 400 connections that take their time: 200 on each port, opened anew when they are cut off.

    python benchmarks/attack.py [--rounds 3] [--calls 400]

Half of those on the port of REST send a header letter by letter, half a body byte by byte; on the port of gRPC half say
nothing and half fall silent after the preface. They run in a process of their own. Rounds without and with them take
turns; of the calls of one client the median and the 99th percentile are told, and the ratio of the latter.
"""

import argparse
import contextlib
import multiprocessing
import multiprocessing.synchronize
import socket
import time
from collections.abc import Callable, Iterator

import grpc
import httpx
import numpy as np
from commandline import in_one_line, positive
from live import Address, default_models, server

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

CONNECTIONS = 200
FACES = 500
_HEAD = b"POST /detect HTTP/1.1\r\nhost: 127.0.0.1\r\n"
_BODY = _HEAD + b"content-type: image/png\r\ncontent-length: 100000\r\n\r\n"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# What is sent first, and what again and again.
REST_ATTACKS = ((_HEAD + b"x: ", b"y"), (_BODY, b"z"))
GRPC_ATTACKS = ((b"", b""), (_PREFACE, b""))
Calls = dict[str, Callable[[], object]]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--calls", type=positive, default=400)
    asked = parser.parse_args()
    default_models()
    times: dict[tuple[str, bool], list[float]] = {}
    with server(2) as address, _calls(address) as calls:
        for _ in range(asked.rounds):
            for attacked in (False, True):
                with _attack(address) if attacked else contextlib.nullcontext():
                    for name, call in calls.items():
                        times.setdefault((name, attacked), []).extend(_timed(call, asked.calls))
    print(f"\nms, {asked.rounds * asked.calls} calls each: median, 99th percentile")
    print(f"{'':28}{'before':>18}{'attacked':>18}{'p99 ratio':>12}")
    for name in calls:
        before, attacked = (np.percentile(times[name, each], [50, 99]) * 1e3 for each in (False, True))
        cells = [f"{middle:.2f}, {high:.2f}" for middle, high in (before, attacked)]
        print(f"{name:28}" + "".join(f"{cell:>18}" for cell in cells) + f"{attacked[1] / before[1]:>12.2f}")


@contextlib.contextmanager
def _calls(address: Address) -> Iterator[Calls]:
    """What a client calls, in a gallery of some people."""
    vectors = np.random.default_rng(0).normal(size=(FACES, 128))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    body = {"embedding": vectors[0].tolist(), "threshold": 0.9}
    url = f"http://{address.http_host}:{address.http_port}"
    with httpx.Client(base_url=url, timeout=60) as client, grpc.insecure_channel(address.grpc) as channel:
        client.put("/collections/lab", json={"purpose": "a measurement"}).raise_for_status()
        for number, vector in enumerate(vectors):
            path = f"/collections/lab/subjects/person-{number}/faces"
            client.post(path, json={"embedding": vector.tolist()}).raise_for_status()
        probe = pb.Probe(embedding=pb.Embedding(values=vectors[0].tolist()))
        request, stub = pb.IdentifyRequest(collection="lab", probe=probe, threshold=0.9), pb_grpc.GalleryStub(channel)
        yield {
            "REST /health/ready": lambda: client.get("/health/ready").raise_for_status(),
            "REST /identify": lambda: client.post("/collections/lab/identify", json=body).raise_for_status(),
            "gRPC Identify": lambda: stub.Identify(request),
        }


def _timed(call: Callable[[], object], count: int) -> Iterator[float]:
    for _ in range(count):
        began = time.perf_counter()
        call()
        yield time.perf_counter() - began


@contextlib.contextmanager
def _attack(address: Address) -> Iterator[None]:
    """While it lasts, in a process of its own, from when all connections are open."""
    begun, end = multiprocessing.Event(), multiprocessing.Event()
    attacker = multiprocessing.Process(target=_hold_open, args=(address, begun, end))
    attacker.start()
    try:
        begun.wait()
        yield
    finally:
        end.set()
        attacker.join()


def _hold_open(
    address: Address, begun: multiprocessing.synchronize.Event, end: multiprocessing.synchronize.Event
) -> None:
    grpc_host, _, grpc_port = address.grpc.rpartition(":")
    ports = (((address.http_host, address.http_port), REST_ATTACKS), ((grpc_host, int(grpc_port)), GRPC_ATTACKS))
    kinds = [(where, *kinds[number % 2]) for where, kinds in ports for number in range(CONNECTIONS)]
    lines = [_opened(where, first) for where, first, _ in kinds]
    begun.set()
    while not end.wait(0.5):
        for place, (where, first, again) in enumerate(kinds):
            if not _still_open(lines[place], again):
                lines[place].close()
                lines[place] = _opened(where, first)
    for line in lines:
        line.close()


def _opened(where: tuple[str, int], first: bytes) -> socket.socket:
    line = socket.create_connection(where)
    line.setblocking(False)
    line.sendall(first)
    return line


def _still_open(line: socket.socket, again: bytes) -> bool:
    try:
        line.sendall(again)
        return line.recv(65536) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    in_one_line(main)
