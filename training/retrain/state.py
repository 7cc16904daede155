"""What a job has done so far: plain files in its folder, each written as a whole or not at all.

JOB/config.yaml                      the resolved configuration of the last run
JOB/pins.json                        the models that the job began with, and what each is
JOB/stages/clean-0123456789abcdef/   the output of a stage, under the key of all that it depends on
    done.json                        digest of the output, seconds, what the report says
JOB/cache/                           embeddings, by model and set
JOB/report.html
JOB/lock                             held by the process at work
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data.aligned_files import sync_folder
from training.data.errors import DataError

DONE = "done.json"
_OLD = ".old-"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage gives: the digest of its output, a line for the terminal, and numbers for the report."""

    digest: str
    line: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage."""

    folder: Path
    seconds: float
    outcome: Outcome


class JobFolder:
    """The folder of one job, locked while it is open.

    Raises:
        DataError: another process is at work in it, or it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.stages = self.root / "stages"
        self.cache = self.root / "cache"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within, no other process works on this job."""
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            self.cache.mkdir(exist_ok=True)
            lock = (self.root / "lock").open("a")
        except OSError as error:
            raise DataError(f"cannot keep a job in {self.root}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"another process is at work on the job {self.root}") from error
            self._put_back()
            yield

    def _put_back(self) -> None:
        """What a run that was killed while it exchanged an output left aside: back to its place, if that is empty."""
        try:
            for old in self.stages.glob(f"{_OLD}*"):
                folder = self.stages / old.name.removeprefix(_OLD)
                if folder.exists():
                    shutil.rmtree(old)
                else:
                    old.rename(folder)
        except OSError as error:
            raise DataError(f"cannot write {self.stages}: {error.strerror}") from error

    def work(self, stage: str, key: str, resumes: bool) -> Path:
        """Where a stage writes before it is done; what a killed run left is kept where the stage can go on with it."""
        folder = self.stages / f".{stage}-{key}"
        if not resumes:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, stage: str, key: str, outcome: Outcome, seconds: float) -> Done:
        """Seal the output of a stage: from now on it is there, whatever happens.

        The output of a stage that was asked for again stays until the new one has its place.

        Raises:
            OSError: the disk is full or broken.
        """
        work, folder = self.stages / f".{stage}-{key}", self.stages / f"{stage}-{key}"
        record = {"digest": outcome.digest, "line": outcome.line, "facts": outcome.facts, "seconds": round(seconds, 3)}
        write_json(work / DONE, record)
        old = self.stages / f"{_OLD}{stage}-{key}"
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        work.rename(folder)
        sync_folder(self.stages)
        shutil.rmtree(old, ignore_errors=True)
        return Done(folder, seconds, outcome)

    def done(self, stage: str, key: str) -> Done | None:
        """The output of a stage, if it is there."""
        folder = self.stages / f"{stage}-{key}"
        if not (folder / DONE).is_file():
            return None
        record = read_json(folder / DONE)
        try:
            outcome = Outcome(record["digest"], record["line"], record["facts"])
            return Done(folder, float(record["seconds"]), outcome)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / DONE} is damaged; delete {folder} to do that stage again") from error


def key_of(value: Any) -> str:
    """16 hexadecimal digits of a plain value."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(value: Any) -> str:
    """SHA-256 of a plain value, hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """A file of JSON, whole or not there.

    Raises:
        DataError: it cannot be written.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A file, whole or not there.

    Raises:
        DataError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged") from error
