"""Load from a process of its own, for a bounded time: closed loops of clients, or arrivals at a fixed rate.

Run by the other benchmarks: `python benchmarks/load.py SPEC`, SPEC a JSON object; prints one JSON object.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
GRACE_S = 20.0
Answer = tuple[str, float]
Call = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `protocol` is rest, grpc or bare; `rate` a second, or 0 for `clients` that wait for each answer."""

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


def run_load(load: Load, pid: int = 0) -> dict[str, Any]:
    """Run one in a process of its own.

    Returns:
        `count` and `per_s` of good answers, `codes` of all, quantiles of milliseconds by outcome, `load_cores` that the
        load itself took; with the `pid` of the server, the milliseconds of a core that each answer cost it as `cpu_ms`.
    """
    before = cpu_seconds(pid)
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(load))]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=load.seconds + load.deadline_s + 2 * GRACE_S
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
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
    answers: list[Answer] = []
    async with _Caller(load) as caller:
        await asyncio.gather(*(caller.call(bodies[n % len(bodies)], n) for n in range(load.clients)))  # connect
        began, used = time.perf_counter(), time.process_time()
        ends = began + load.seconds
        if load.rate:
            await _arrivals(load, caller, bodies, ends, answers)
        else:
            clients = (_client(caller, bodies, number, ends, answers) for number in range(load.clients))
            await asyncio.gather(*clients)
        seconds, used = time.perf_counter() - began, time.process_time() - used
    return _summary(answers, load.seconds if load.rate else seconds) | {"used_s": used}


async def _client(caller: "_Caller", bodies: list[bytes], number: int, ends: float, answers: list[Answer]) -> None:
    turn = number
    while time.perf_counter() < ends:
        answers.append(await caller.timed(bodies[turn % len(bodies)], number))
        turn += 1


async def _arrivals(load: Load, caller: "_Caller", bodies: list[bytes], ends: float, answers: list[Answer]) -> None:
    """One after another at the rate, whether or not the ones before were answered."""
    tasks, turn, began = set(), 0, time.perf_counter()
    while (now := time.perf_counter()) < ends:
        while turn <= (now - began) * load.rate:
            tasks.add(asyncio.ensure_future(caller.timed(bodies[turn % len(bodies)], turn % load.clients)))
            turn += 1
        await asyncio.sleep(0.002)
    answers.extend(await asyncio.gather(*tasks))


class _Caller:
    """Calls over connections that are kept open."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._lines: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    async def __aenter__(self) -> "_Caller":
        if self._load.protocol == "grpc":
            from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
            from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

            self._pb = pb
            count = min(4, self._load.clients)
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._channels = [grpc.aio.insecure_channel(self._load.address, options) for _ in range(count)]
            self._stubs = [pb_grpc.FaceEmbeddingStub(channel) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._load.protocol == "grpc":
            for channel in self._channels:
                await channel.close()
        for line in self._lines.values():
            for _, writer in line:
                writer.close()

    async def timed(self, body: bytes, number: int) -> Answer:
        began = time.perf_counter()
        code = await self.call(body, number)
        return code, time.perf_counter() - began

    async def call(self, body: bytes, number: int) -> str:
        return await (self._grpc(body, number) if self._load.protocol == "grpc" else self._rest(body, number))

    async def _grpc(self, body: bytes, number: int) -> str:
        request = self._pb.EmbedRequest(image=body, aligned=self._load.aligned)
        try:
            await self._stubs[number % len(self._stubs)].Embed(request, timeout=self._load.deadline_s)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "ok"

    async def _rest(self, body: bytes, number: int) -> str:
        free = self._lines.setdefault(number, [])
        host, port = self._load.address.rsplit(":", 1)
        kept = bool(free)
        reader, writer = free.pop() if kept else await asyncio.open_connection(host, int(port))
        query = "?aligned=true&encoding=base64" if self._load.aligned else "?encoding=base64"
        head = f"POST /embed{query} HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/jpeg\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        try:
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            if kept:  # it was closed while it was idle
                return await self._rest(body, number)
            return "closed"
        length = int(answer.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        if b"connection: close" in answer:
            writer.close()
        else:
            free.append((reader, writer))
        status = answer.split(b" ", 2)[1].decode()
        return "ok" if status == "200" else status


def _summary(answers: list[Answer], seconds: float) -> dict[str, Any]:
    codes: dict[str, int] = {}
    for code, _ in answers:
        codes[code] = codes.get(code, 0) + 1
    good = [taken for code, taken in answers if code == "ok"]
    refused = [taken for code, taken in answers if code in ("429", "RESOURCE_EXHAUSTED")]
    return {
        "count": len(good),
        "per_s": len(good) / seconds,
        "codes": codes,
        "ok_ms": _quantiles(good),
        "refused_ms": _quantiles(refused),
    }


def _quantiles(values: list[float]) -> list[float]:
    """Median and 99th percentile, milliseconds."""
    return np.quantile(np.array(values) * 1000, [0.5, 0.99]).round(2).tolist() if values else []


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
