"""Stages from two sets of people to a bundle: train, evaluate, calibrate, export, parity."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch

from models import bundle as bundles
from models.bundle import Bundle
from models.calibration import Calibration
from training.calibrate import fit
from training.config import TrainConfig
from training.data.aligned import AlignedSet
from training.embeddings import EmbeddedSet
from training.evaluation.crops import labelled
from training.evaluation.measure import measure_set
from training.evaluation.report import to_json
from training.export import parity
from training.export.checkpoint import Trained, load_trained
from training.export.material import Resized
from training.export.pipeline import Request, embedder_of, export_model, input_spec
from training.retrain.config import RetrainConfig
from training.retrain.job import Job
from training.retrain.state import Outcome, digest_of, write_json, write_text
from training.trainer import checkpoint
from training.trainer.provenance import git_commit
from training.trainer.run import train as fit_network

_BUNDLES = ("start", "distil")


def train_section(job: Job) -> Any:
    """The trainer's configuration, with the contracts of the models in it in place of where they lie."""
    section = copy.deepcopy(job.config.train)
    for name in _BUNDLES:
        if section.get(name):
            section[name]["bundle"] = bundles.load(_bundle(job, section[name]["bundle"])).manifest.contract_id
    return section


def train_config(job: Job) -> TrainConfig:
    """The trainer's configuration, on the sets of this job."""
    section = copy.deepcopy(job.config.train)
    for name in _BUNDLES:
        if section.get(name):
            section[name]["bundle"] = str(_bundle(job, section[name]["bundle"]))
    sets = job.output("split")
    config: RetrainConfig = job.config.model_copy(update={"train": section})
    return config.training(sets / "train", sets / "held_out")


def _bundle(job: Job, given: str) -> Path:
    """A bundle to begin with or to learn from: `champion`, a model of the registry, or a folder."""
    if given == "champion":
        return job.registry.resolve("embedder", job.pins["champion"]).folder
    if Path(given).is_dir():
        return Path(given).absolute()
    return job.registry.resolve("embedder", given).folder


def train(job: Job, work: Path) -> Outcome:
    """Train as `facesphere-train train` does; goes on from the newest checkpoint of a run that was killed."""
    run = work / "run"
    result = fit_network(train_config(job), run, checkpoint.exists(run), job.threads)
    trained = load_trained(checkpoint.newest(run))
    facts = {"steps": result.steps, "code_commit": git_commit() or ""}
    return Outcome(_weights_digest(trained), f"{result.steps:,} steps", facts)


def _weights_digest(trained: Trained) -> str:
    """Of the network itself: a checkpoint also holds how it came about, which is another after a resumed run."""
    digest = hashlib.sha256(digest_of(trained.config.model_dump(mode="json", exclude={"data"})).encode())
    for name, value in sorted(trained.module.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _trained(job: Job) -> Trained:
    return load_trained(checkpoint.newest(job.output("train") / "run"))


def _held_out(job: Job) -> AlignedSet:
    return AlignedSet.open(job.output("split") / "held_out")


def network_set(job: Job) -> EmbeddedSet:
    """The held-out people as the trained network sees them, before anything is exported."""
    torch.set_num_threads(job.threads)
    trained, data = _trained(job), _held_out(job)
    spec = input_spec(trained)
    crops = Resized(data.crops, (spec.height, spec.width))
    return labelled(parity.network_vectors(trained.module, spec, job.config.export.mirror, crops), data)


def evaluate(job: Job, work: Path) -> Outcome:
    """Everything that `facesphere-train evaluate` measures, on the held-out people."""
    data = network_set(job)
    measurement = measure_set(data, _held_out(job).groups, rounds=job.config.evaluate.rounds)
    facts: dict[str, str | int | float | bool] = {
        "model": "candidate",
        "photos": len(data.photos),
        "people": len(data.names),
    }
    text = to_json(measurement, facts)
    write_text(work / "evaluation.json", text)
    folds = measurement.verification
    shown = f"accuracy in folds {folds.result.mean:.4f}, " if folds else ""
    line = f"{shown}EER {measurement.equal_error_rate:.4f} on {len(data.names):,} people held out"
    return Outcome(hashlib.sha256(text.encode()).hexdigest(), line)


def calibrate(job: Job, work: Path) -> Outcome:
    """Thresholds, probability and tail on the held-out people, as `facesphere-train calibrate` fits them."""
    detector = job.config.align.detector or job.registry.champion("detector") or ""
    source = _held_out(job).source
    found = fit(
        network_set(job),
        f"{source}, people held out",
        "" if job.config.align.aligned else detector,
        job.config.calibrate.rounds,
    )
    write_json(work / "calibration.json", found.model_dump(mode="json"))
    low, high = found.fmr_range
    line = f"thresholds for FMR {low:g} to {high:g} on {found.people:,} people"
    return Outcome(digest_of(found.model_dump(mode="json")), line)


def calibration_of(job: Job) -> Calibration:
    """What `calibrate` found."""
    return Calibration.model_validate_json((job.output("calibrate") / "calibration.json").read_bytes())


def export_section(job: Job) -> Any:
    """The model's name, its terms, its alignment."""
    return [job.config.name, job.config.export.model_dump(mode="json"), job.config.align.template]


def export(job: Job, work: Path) -> Outcome:
    """The network as a bundle, without its calibration yet."""
    request = Request(job.config.name, job.config.licence, job.config.align.template, job.config.export.mirror)
    said: list[str] = []
    (bundle,) = export_model(_trained(job), request, work, None, said.append)
    size = bundle.model_path.stat().st_size
    # Its checkpoint is another file after a resumed run, though the network in it is the same.
    manifest = bundle.manifest.model_dump(mode="json", exclude={"provenance": {"source_sha256"}, "metrics": True})
    return Outcome(digest_of(manifest), f"{size:,} bytes, contract {bundle.manifest.contract_id}", {"bytes": size})


def exported(job: Job) -> Bundle:
    """What `export` wrote."""
    return bundles.load(job.output("export") / job.config.name)


def parity_check(job: Job, work: Path) -> Outcome:
    """The exported file gives the vectors and the decisions of the network, on all people held out."""
    trained, bundle = _trained(job), exported(job)
    embedder = embedder_of(bundle.model_path.read_bytes(), bundle.manifest)
    data = _held_out(job)
    spec = bundle.manifest.input
    crops = Resized(data.crops, (spec.height, spec.width))
    lowest = parity.check_vectors(trained.module, embedder, crops[:7])
    theirs = job.vectors(bundle, data).vectors
    counts = parity.check_rates(network_set(job).vectors, theirs, data.labels)
    rates = {f"{rate:g}": list(pair) for rate, pair in counts.items()}
    facts = {"lowest_cosine": min(lowest, 1.0), "accepted": rates}
    write_json(work / "parity.json", facts)
    return Outcome(digest_of(rates), f"lowest cosine to torch {lowest:.7f}, the same decisions", facts)
