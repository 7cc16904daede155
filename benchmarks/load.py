"""Load from a process of its own, for a bounded time: closed loops of clients, or arrivals at a fixed rate.

Run by the other benchmarks: `python benchmarks/load.py SPEC`, SPEC a JSON object; prints one JSON object.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import http1
import http2
import numpy as np
import psutil
from commandline import StartError

ROOT = Path(__file__).parents[1]
GRACE_S = 20.0
CONNECTIONS = 4
EMBED = "/face_embedding.v1.FaceEmbedding/Embed"
SETTLE_S = 0.5
TICK_S = 0.002
LATE_MS = 20.0
Answer = tuple[str, float, float]
Done = http2.Done
Client = http1.Client | http2.Client


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `protocol` is rest, grpc or bare; `rate` a second, or 0 for `clients` that wait for each answer.

    `bodies` are files: photos for /embed or Embed; or, where a `path` is given, bodies of that route of `content_type`,
    or messages of that RPC.
    """

    protocol: str
    address: str
    bodies: list[str]
    aligned: bool = False
    clients: int = 1
    rate: float = 0.0
    seconds: float = 3.0
    deadline_s: float = 30.0
    model: str = ""
    batch: int = 1
    precision: str = "float32"
    device: str = "cpu"
    path: str = ""
    content_type: str = "image/jpeg"


def run_load(load: Load, pid: int = 0) -> dict[str, Any]:
    """Run one in a process of its own.

    Clients that wait for each answer begin all at once and end one by one, and what arrives at a rate is answered for a
    while after the last came. Neither is the state to be measured: `per_s` is of the good answers that came between a
    settling time and the end of `seconds`, over that time, and `ok_ms` is of the same answers. The settling time is
    half a second, and at most a quarter of `seconds`.

    Returns:
        `count` of all good answers, `per_s`, `codes` of all, medians and 99th percentiles of milliseconds as `ok_ms`
        and, of all that were refused, `refused_ms`; `load_cores` that the load itself took; `late_ms` if arrivals were
        more than 20 ms later than their rate has them, by which the load was slow and not the server. With the `pid` of
        the server, what each answer of all cost it as `cpu_ms`, milliseconds of a core.

    Raises:
        StartError: it failed; the last line of what it said.
    """
    before = cpu_seconds(pid)
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(load))]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=load.seconds + load.deadline_s + 2 * GRACE_S
    )
    if run.returncode:
        raise StartError(f"the load failed: {run.stderr.strip().rpartition(chr(10))[2]}")
    result: dict[str, Any] = json.loads(run.stdout)
    if pid:
        answers = sum(result["codes"].values()) + load.clients  # one each to connect
        result["cpu_ms"] = (cpu_seconds(pid) - before) * 1000 / answers
    return result


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    return float(sum(psutil.Process(pid).cpu_times()[:2])) if pid else 0.0


def main() -> int:
    """One load."""
    load = Load(**json.loads(sys.argv[1]))
    result = bare(load) if load.protocol == "bare" else _run_served(load)
    result["load_cores"] = result.pop("used_s", 0.0) / load.seconds
    sys.stdout.write(json.dumps(result))
    return 0


def bare(load: Load) -> dict[str, Any]:
    """The embedder's session alone: one thread a client, each with a session of one thread, batches over and over."""
    from models.registry import Registry
    from models.runtime import Session, SessionOptions

    bundle = Registry(Path(load.model)).resolve("embedder", load.address or None)
    spec = bundle.manifest.input
    options = SessionOptions(load.device, 1, bundle.manifest.precision)
    sessions = [Session(bundle.model_path, options) for _ in range(load.clients)]
    batch = np.random.default_rng(0).integers(0, 256, (load.batch, 3, spec.height, spec.width)).astype(np.float32)
    for session in sessions:
        session.run(batch)
    counts = [0] * load.clients
    ends = time.perf_counter() + load.seconds

    def work(number: int) -> None:
        while time.perf_counter() < ends:
            sessions[number].run(batch)
            counts[number] += load.batch

    began, used = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return {"count": sum(counts), "per_s": sum(counts) / seconds, "cpu_ms": used * 1000 / sum(counts), "codes": {}}


def _run_served(load: Load) -> dict[str, Any]:
    return asyncio.run(_served(load, [Path(name).read_bytes() for name in load.bodies]))


async def _served(load: Load, bodies: list[bytes]) -> dict[str, Any]:
    client, requests = _client(load, bodies)
    await client.open()
    try:
        await _Run(load, client, requests).connect()
        run = _Run(load, client, requests)
        used = time.process_time()
        await (run.arrivals() if load.rate else run.clients())
        used = time.process_time() - used
    finally:
        await client.close()
    return _summary(load, run) | {"used_s": used}


def _client(load: Load, bodies: list[bytes]) -> tuple[Client, list[bytes]]:
    """Of the protocol, with the bytes of each request."""
    if load.protocol == "grpc":
        connections = min(CONNECTIONS, load.clients)
        client = http2.Client(load.address, load.path or EMBED, load.deadline_s, connections)
        messages = bodies if load.path else [_embed_request(load, body) for body in bodies]
        return client, [http2.framed(message) for message in messages]
    query = "?aligned=true&encoding=base64" if load.aligned else "?encoding=base64"
    head = f"POST {load.path or '/embed' + query} HTTP/1.1\r\nhost: {load.address}\r\n"
    head += f"content-type: {load.content_type}\r\n"
    return http1.Client(load.address, load.deadline_s + GRACE_S), [
        head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies
    ]


def _embed_request(load: Load, body: bytes) -> bytes:
    from service.pb.face_embedding.v1 import face_embedding_pb2 as pb

    message: bytes = pb.EmbedRequest(image=body, aligned=load.aligned).SerializeToString()
    return message


class _Run:
    """The calls of one load, and what became of them."""

    def __init__(self, load: Load, client: Client, requests: list[bytes]) -> None:
        self._load, self._client, self._requests = load, client, requests
        self._under_way = 0
        self._idle = asyncio.Event()
        self.answers: list[Answer] = []
        self.late_s = 0.0
        self.began = time.perf_counter()
        self.ends = self.began + load.seconds

    async def connect(self) -> None:
        """One call of each client."""
        for number in range(self._load.clients):
            self._call(number, number, self._end)
        await self._drained()

    async def clients(self) -> None:
        """Each calls as soon as it has the answer before."""
        for number in range(self._load.clients):
            self._call(number, number, partial(self._again, number, number))
        await self._drained()

    async def arrivals(self) -> None:
        """One after another at the rate, whether or not the ones before were answered."""
        rate, clients, turn = self._load.rate, self._load.clients, 0
        while (now := time.perf_counter()) < self.ends:
            since = now - self.began
            self.late_s = max(self.late_s, since - turn / rate)
            while turn <= since * rate:
                self._call(turn, turn % clients, self._end)
                turn += 1
            await asyncio.sleep(TICK_S)
        await self._drained()

    def _call(self, turn: int, number: int, done: Done) -> None:
        self._under_way += 1
        self._client.call(number, self._requests[turn % len(self._requests)], done)

    def _again(self, turn: int, number: int, code: str, began: float, ended: float) -> None:
        if ended < self.ends:
            self._call(turn + 1, number, partial(self._again, turn + 1, number))
        self._end(code, began, ended)

    def _end(self, code: str, began: float, ended: float) -> None:
        self.answers.append((code, began, ended))
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    async def _drained(self) -> None:
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()


def _summary(load: Load, run: _Run) -> dict[str, Any]:
    codes = Counter(code for code, _, _ in run.answers)
    good = [(began, ended) for code, began, ended in run.answers if code == "ok"]
    refused = [ended - began for code, began, ended in run.answers if code in ("429", "RESOURCE_EXHAUSTED")]
    settling = min(SETTLE_S, load.seconds / 4)
    steady = [each for each in good if run.began + settling <= each[1] < run.ends]
    late_ms = run.late_s * 1000
    return {
        "count": len(good),
        "per_s": len(steady) / (load.seconds - settling),
        "codes": codes,
        "ok_ms": _quantiles([ended - began for began, ended in steady]),
        "refused_ms": _quantiles(refused),
    } | ({"late_ms": round(late_ms, 1)} if late_ms > LATE_MS else {})


def _quantiles(values: list[float]) -> list[float]:
    """Median and 99th percentile, milliseconds."""
    return np.quantile(np.array(values) * 1000, [0.5, 0.99]).round(2).tolist() if values else []


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
