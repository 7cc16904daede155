"""Two processes that train runs of several ranks, one run after the other, and leave behind how each ended."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.errors import FaceError
from training.config import parse_config
from training.trainer import checkpoint
from training.trainer import run as run_module
from training.trainer.run import train

RANKS = 2


@dataclass(frozen=True, slots=True)
class Job:
    """A run: its folder, its configuration, and what happens to it."""

    name: str
    config: dict[str, Any]
    resume: bool = False
    forget: tuple[int, ...] = ()  # checkpoints deleted before it is resumed
    stop_after: int | None = None  # rank 0 gets a SIGTERM once this checkpoint is there
    nowhere: bool = False  # rank 1 finds no data
    scale: float | None = None  # of the gradient, written into the checkpoint that it is resumed from
    port: int = field(default_factory=lambda: _free_port())


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def work(rank: int, folder: str, jobs: Sequence[Job]) -> None:
    """All that one process does: `folder`/NAME.RANK.json, or NAME resumed.RANK.json, says how each job ended."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1"}
    for job in jobs:
        os.environ["MASTER_PORT"] = str(job.port)
        name = f"{job.name} resumed" if job.resume else job.name
        (Path(folder) / f"{name}.{rank}.json").write_text(json.dumps(_end_of(job, rank, Path(folder))))


def _end_of(job: Job, rank: int, folder: Path) -> dict[str, Any]:
    run = folder / job.name
    _prepare(job, run, rank, folder)
    config = {**job.config, "data": {"train": "nowhere"}} if job.nowhere and rank else job.config
    # What a scaler does when a gradient overflows is the same on a CPU, where users are kept from fp16.
    run_module._check_precision = lambda *_: None
    try:
        result = train(parse_config(config), run, resume=job.resume, threads=1)
    except FaceError as error:
        return {"error": type(error).__name__, "message": error.message}
    return {"steps": result.steps, "best": result.best, "rollbacks": result.rollbacks}


def _prepare(job: Job, run: Path, rank: int, folder: Path) -> None:
    if job.stop_after is not None and rank == 0:
        threading.Thread(target=_terminate_at, args=(run / "checkpoints" / checkpoint.name(job.stop_after),)).start()
    if rank == 0:
        for step in job.forget:
            (run / "checkpoints" / checkpoint.name(step)).unlink()
        if job.scale is not None:
            _rescale(checkpoint.newest(run), job.scale)
        (folder / f"{job.name}.ready.{job.port}").touch()
    while not (folder / f"{job.name}.ready.{job.port}").exists():
        time.sleep(0.01)


def _rescale(file: Path, scale: float) -> None:
    state = checkpoint.read(file)
    state["scaler"]["scale"] = scale
    checkpoint.write(file, state)


def _terminate_at(file: Path) -> None:
    while not file.exists():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
