"""Does the server grow? Mixed calls for an hour: its memory, threads and open files, minute by minute.

    .venv/bin/python benchmarks/soak.py [--minutes 60] [--rate 5] [--json OUT]

Photos of eight sizes from 200 to 3,000 pixels, embedded, verified, searched for, and people enrolled and erased, over
REST and gRPC by turns. The server is a process of its own. What it holds is told as a table, and how that changed over
the second half as a line fitted through it: by then every size was seen, and every cache is full.
"""

import argparse
import asyncio
import io
import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import skimage.data
from commandline import amount, in_one_line
from latency import machine
from live import Address, default_models, server
from PIL import Image

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

SIZES = (200, 320, 512, 640, 900, 1280, 2000, 3000)
COLLECTION = "soak"
Call = Callable[[int], Awaitable[bool]]


def photos() -> list[bytes]:
    """One face at each size."""
    image = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    found = []
    for size in SIZES:
        buffer = io.BytesIO()
        image.resize((size, size)).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


class Calls:
    """What is asked, by turns; each says whether it was answered as it should be."""

    def __init__(self, client: httpx.AsyncClient, channel: grpc.aio.Channel, bodies: list[bytes]) -> None:
        self._client, self._bodies = client, bodies
        self._stub = pb_grpc.FaceEmbeddingStub(channel)  # type: ignore[no-untyped-call]
        self.all: tuple[Call, ...] = (
            self._embed,
            self._embed_grpc,
            self._verify,
            self._enrol,
            self._identify,
            self._erase,
        )

    async def begin(self) -> None:
        """The collection."""
        answer = await self._client.put(f"/collections/{COLLECTION}", json={"purpose": "soak", "store_crops": True})
        answer.raise_for_status()

    def _body(self, turn: int) -> bytes:
        return self._bodies[turn * 5 // len(self.all) % len(self._bodies)]

    async def _embed(self, turn: int) -> bool:
        headers = {"content-type": "image/jpeg"}
        return (await self._client.post("/embed", content=self._body(turn), headers=headers)).status_code == 200

    async def _embed_grpc(self, turn: int) -> bool:
        return bool((await self._stub.Embed(pb.EmbedRequest(image=self._body(turn)), timeout=60)).faces)

    async def _verify(self, turn: int) -> bool:
        files = {"image_a": self._body(turn), "image_b": self._body(turn + 7)}
        return bool((await self._client.post("/verify", files=files)).json()["matched"])

    async def _enrol(self, turn: int) -> bool:
        path = f"/collections/{COLLECTION}/subjects/{turn % 97}/faces"
        return (await self._client.post(path, files={"images": self._body(turn)})).status_code == 201

    async def _identify(self, turn: int) -> bool:
        path = f"/collections/{COLLECTION}/identify"
        return (await self._client.post(path, files={"image": self._body(turn)})).status_code == 200

    async def _erase(self, turn: int) -> bool:
        path = f"/collections/{COLLECTION}/subjects/{(turn - 2) % 97}"  # who was enrolled two calls before
        return (await self._client.delete(path)).status_code == 200


async def soak(address: Address, minutes: float, rate: float) -> list[dict[str, Any]]:
    """Call at a rate; what the server holds after each minute."""
    process = psutil.Process(address.pid)
    rows: list[dict[str, Any]] = []
    async with (
        httpx.AsyncClient(base_url=f"http://{address.http_host}:{address.http_port}", timeout=60) as client,
        grpc.aio.insecure_channel(address.grpc, [("grpc.max_receive_message_length", -1)]) as channel,
    ):
        calls = Calls(client, channel, photos())
        await calls.begin()
        began, turn, failed = time.monotonic(), 0, 0
        while (now := time.monotonic() - began) < minutes * 60:
            due = turn / rate
            if due > now:
                await asyncio.sleep(due - now)
            failed += not await calls.all[turn % len(calls.all)](turn)
            turn += 1
            if time.monotonic() - began >= 60 * (len(rows) + 1):
                row = {
                    "minute": len(rows) + 1,
                    "calls": turn,
                    "failed": failed,
                    "rss_mb": process.memory_info().rss / 2**20,
                    "threads": process.num_threads(),
                    "files": process.num_fds(),
                }
                rows.append(row)
                cells = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values())
                print("".join(f"{cell:>10}" for cell in cells), flush=True)
    return rows


def growth(rows: list[dict[str, Any]]) -> float:
    """MB an hour over the second half, by least squares."""
    half = rows[len(rows) // 2 :]
    if len(half) < 2:
        return float("nan")
    return 60 * float(np.polyfit([row["minute"] for row in half], [row["rss_mb"] for row in half], 1)[0])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=amount, default=60, help="default: 60")
    parser.add_argument("--rate", type=amount, default=5, help="calls a second, one at a time (default: 5)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    default_models()
    about = machine()
    for name, value in about.items():
        print(f"{name}: {value}")
    print("\n" + "".join(f"{name:>10}" for name in ("minute", "calls", "failed", "rss_mb", "threads", "files")))
    with server(0) as address:
        rows = asyncio.run(soak(address, options.minutes, options.rate))
    grown = growth(rows)
    print(f"\ngrowth over the second half: {'too short to tell' if math.isnan(grown) else f'{grown:+.1f} MB an hour'}")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": rows, "growth": growth(rows)}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    in_one_line(main)
