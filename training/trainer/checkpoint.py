"""Checkpoints: all that a run needs to go on as if it had never stopped, in one file, written atomically.

    RUN/config.yaml         the resolved configuration
    RUN/run.json            seed, git commit, versions, digest of the data, people held out
    RUN/metrics.jsonl       a line a log step or validation
    RUN/checkpoints/start.pt            before the first step
    RUN/checkpoints/step-00001000.pt
    RUN/best.pt             the one with the best validation

A file holds tensors and plain values only and is read with PyTorch's safe unpickler: a checkpoint from somebody else
cannot run code.
"""

import contextlib
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import FaceError

FORMAT = 1
START = "start.pt"
_NAME = re.compile(r"step-(\d{8,})\.pt")


class CheckpointError(FaceError):
    """A checkpoint is missing, damaged, or of another run."""

    code = "invalid_request"


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; whoever looks sees all of it or none.

    Raises:
        CheckpointError: it cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
        with contextlib.suppress(OSError):
            partial.unlink()
        reason = getattr(error, "strerror", None) or "is the disk full?"
        raise CheckpointError(f"cannot write {path}: {reason}") from error


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, damaged, of another format.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # the older format is a bare pickle, which this program never wrote
                raise zipfile.BadZipFile
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint of this program") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this program")
    return state


def steps(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a run, oldest first."""
    found = [(int(match[1]), file) for file in folder.glob("step-*.pt") if (match := _NAME.fullmatch(file.name))]
    return sorted(found)


def newest(run: Path) -> Path:
    """The last checkpoint of a run that can be read; one that was cut off by a crash of the disk is passed over.

    A run that was stopped before its first has only the one from before its first step.

    Raises:
        CheckpointError: there is none.
    """
    files = [file for _, file in reversed(steps(run / "checkpoints"))]
    for file in (*files, run / "checkpoints" / START):
        try:
            read(file)
        except CheckpointError:
            continue
        return file
    raise CheckpointError(f"{run} has no checkpoint to go on from")


def name(step: int) -> str:
    """File name of a step's checkpoint."""
    return f"step-{step:08d}.pt"


def exists(run: Path) -> bool:
    """Whether a run has been begun in this folder."""
    folder = run / "checkpoints"
    return (folder / START).exists() or bool(steps(folder))


def prune(folder: Path, keep: int, healthy: int | None = None) -> None:
    """Delete all but the newest; up to the step `healthy` lies what the guard may go back to.

    Of those the newest stays too, and the oldest of the later ones, which will take its place.
    """
    found = steps(folder)
    if healthy is not None:
        before = [file for step, file in found if step <= healthy]
        after = [file for step, file in found if step > healthy]
        spared = {*before[-1:], *after[:1]}
    else:
        spared = set()
    for _, file in found[:-keep]:
        if file not in spared:
            file.unlink(missing_ok=True)


def discard_after(folder: Path, step: int) -> None:
    """Delete what came after a step: a run that was rolled back must not be resumed from there."""
    for found, file in steps(folder):
        if found > step:
            file.unlink(missing_ok=True)
