"""A job: the list of stages, each run where its output is not there yet."""

import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import FaceError
from models.registry import Registry
from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.embeddings import EmbeddedSet
from training.evaluation.crops import embed_crops, labelled
from training.retrain.config import RetrainConfig
from training.retrain.errors import RefusedError, StageFailedError
from training.retrain.state import Done, JobFolder, Outcome, key_of, read_json, write_json, write_text

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the list.

    inputs: stages whose outputs it reads; section: what else it depends on; resumes: whether it can go on with what a
    killed run left in its folder; version: counted up where its code begins to give something else.
    """

    name: str
    inputs: tuple[str, ...]
    section: Callable[["Job"], Any]
    run: Callable[["Job", Path], Outcome]
    resumes: bool = False
    version: int = 1


@dataclass(slots=True)
class Job:
    """What stages work with: configuration, folder, registry, and what earlier stages have done."""

    config: RetrainConfig
    folder: JobFolder
    registry: Registry
    say: Say
    pins: dict[str, str | None] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Of every network."""
        return self.config.threads or len(os.sched_getaffinity(0))

    def output(self, stage: str) -> Path:
        """The folder of a stage that is done."""
        return self.done[stage].folder

    def pinned(self, role: str) -> Bundle:
        """The model that has a role in this job: `teacher`, whose embeddings clean the data, or `against`."""
        return self.registry.resolve("embedder", self.pins[role])

    def vectors(self, bundle: Bundle, data: AlignedSet) -> EmbeddedSet:
        """Embeddings of a set; each crop is embedded once by a model, in whichever sets it is."""
        path = self.folder.cache / f"{bundle.manifest.contract_id}.npz"
        known = _cached(path)
        assert data.hashes is not None  # of a set out of a file or a subset of one they are known
        names = [each.tobytes() for each in data.hashes]
        missing = np.array([row for row, name in enumerate(names) if name not in known], np.int64)
        if len(missing):
            found = embed_crops(bundle, data.subset(missing), self.threads, lambda _: None)
            known |= dict(zip((names[row] for row in missing), found, strict=True))
            _keep(path, known)
        return labelled(np.stack([known[name] for name in names]), data)


def _cached(path: Path) -> dict[bytes, NDArray[np.float32]]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(zip((each.tobytes() for each in stored["hashes"]), stored["vectors"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # half of one: what is missing is made again
        return {}


def _keep(path: Path, known: dict[bytes, NDArray[np.float32]]) -> None:
    hashes = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, hashes=hashes, vectors=np.stack(list(known.values())))
    partial.replace(path)


def run_job(job: Job, stages: tuple[Stage, ...], only: str | None = None, begin: str | None = None) -> None:
    """Run the stages that are not done.

    Args:
        job: to be run; its folder must be held.
        stages: the whole list.
        only: run this one alone, again if it is done; what it reads must be there.
        begin: run this one and all after it again.

    Raises:
        StageFailedError: one could not do its work.
        RefusedError: the gate refuses.
    """
    names = [stage.name for stage in stages]
    write_text(job.folder.root / "config.yaml", yaml.safe_dump(job.config.model_dump(mode="json"), sort_keys=False))
    _pin(job, begin is not None and names.index(begin) <= names.index("compare"))
    wanted = names[: names.index(only) + 1] if only else names
    forced = {only} if only else set(names[names.index(begin) :] if begin else [])
    for stage in stages[: len(wanted)]:
        key = _key(job, stage)
        done = None if stage.name in forced else _done(job, stage.name, key)
        if stage.name == "register" and done is None:
            forced.add("promote")  # in another registry nothing was promoted yet
        if done is None and only not in (None, stage.name):
            raise DataError(f"{only} reads what {stage.name} gives, which is not there; run that stage first")
        job.done[stage.name] = done or _run(job, stage, key)
        job.say(f"{stage.name}: {job.done[stage.name].outcome.line}{' (done before)' if done else ''}")
        _heed(job, stage.name)


def _run(job: Job, stage: Stage, key: str) -> Done:
    began = time.monotonic()
    try:
        outcome = stage.run(job, job.folder.work(stage.name, key, stage.resumes))
        return job.folder.finish(stage.name, key, outcome, time.monotonic() - began)
    except FaceError as error:
        raise StageFailedError(f"{stage.name}: {error.message}") from error
    except OSError as error:
        raise StageFailedError(f"{stage.name}: {error}") from error
    except Exception as error:  # whatever it is, one is to know where
        reason = (str(error).splitlines() or [""])[0]
        raise StageFailedError(f"{stage.name}: unexpected {type(error).__name__}: {reason}") from error


def _done(job: Job, stage: str, key: str) -> Done | None:
    """What a stage has given; a model that is not in this registry was not registered."""
    done = job.folder.done(stage, key)
    if done is None or stage != "register":
        return done
    try:
        there = job.registry.resolve("embedder", job.config.name).manifest.contract_id
    except FaceError:
        return None
    return done if there == done.outcome.facts["contract"] else None


def _heed(job: Job, stage: str) -> None:
    """A refusal is an outcome of the gate, and stands until something before it changes; a promotion may be undone."""
    reasons = job.done[stage].outcome.facts.get("reasons") if stage == "gate" else None
    if reasons:
        raise RefusedError(f"gate: {job.config.name} is refused: {'; '.join(reasons)}")
    champion = job.registry.champion("embedder")
    if stage == "promote" and job.done[stage].outcome.facts["promoted"] and champion != job.config.name:
        raise StageFailedError(
            f"promote: {job.config.name} was promoted by this job and is champion no longer, {champion} is; "
            f"to make it so again: facesphere models promote {job.config.name}"
        )


def _key(job: Job, stage: Stage) -> str:
    inputs = {name: job.done[name].outcome.digest for name in stage.inputs}
    return key_of([stage.name, stage.version, stage.section(job), inputs])


def _pin(job: Job, anew: bool) -> None:
    """The champion is asked for once: after the promotion it is the job's own, and would change every stage."""
    path = job.folder.root / "pins.json"
    known = read_json(path) if path.is_file() else {}
    champion = job.registry.champion("embedder")
    teacher = job.config.clean.model or known.get("champion") or champion
    against: str | None = job.config.gate.against
    if against == "none":
        against = None
    elif against == "champion":
        # Asked anew after its own promotion, a job would compare its model with itself.
        fresh = anew and champion != job.config.name
        against = champion if fresh else known.get("against_champion") or champion
    if teacher is None or (against is None and job.config.gate.against != "none"):
        raise DataError("there is no embedder yet to clean and compare with; run: facesphere models pull")
    pins = {
        "champion": known.get("champion") or champion,
        "against_champion": against if job.config.gate.against == "champion" else known.get("against_champion"),
    }
    own = champion == job.config.name
    pins["replaces"] = champion if anew and not own else known.get("replaces") or champion
    write_json(path, pins)
    job.pins = {"teacher": teacher, "against": against, "replaces": pins["replaces"]}
