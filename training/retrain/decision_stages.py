"""Stages from a bundle to a champion: compare, gate, register, promote."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models import bundle as bundles
from models.bundle import Lineage, Manifest
from models.calibration import Calibration
from training.data.aligned import AlignedSet
from training.evaluation.disjoint import check_not_trained_on
from training.evaluation.measure import measure_set
from training.evaluation.report import to_json
from training.export.bundle import card_text
from training.retrain.comparing import Comparison, Difference, by_group
from training.retrain.comparing import compare as compare_models
from training.retrain.config import Gate
from training.retrain.job import Job
from training.retrain.model_stages import calibration_of, exported
from training.retrain.state import Outcome, digest_of, read_json, write_json, write_text


def compare_section(job: Job) -> Any:
    """How to compare, with whom, and how the champion's own figures beside it are measured."""
    given = job.config.gate
    against = job.pinned("against").manifest.contract_id if job.pins["against"] else None
    return [given.fmr, given.rounds, against, job.config.evaluate.rounds]


def compare(job: Job, work: Path) -> Outcome:
    """Candidate and champion through the service's embedder, on the very same photos."""
    if job.pins["against"] is None:
        write_json(work / "compare.json", [])
        return Outcome(digest_of(None), "with nobody, as gate.against says", {"against": None})
    data = AlignedSet.open(job.output("split") / "held_out")
    check_not_trained_on(data.people, AlignedSet.open(job.output("split") / "train").people)
    champion = job.pinned("against")
    ours, theirs = job.vectors(exported(job), data), job.vectors(champion, data)
    given = job.config.gate
    found = [compare_models(ours, theirs, given.fmr, given.rounds)]
    found += by_group(ours, theirs, data.groups, given.fmr, given.rounds)
    write_json(work / "compare.json", [each.plain() for each in found])
    before = measure_set(theirs, data.groups, rounds=job.config.evaluate.rounds)
    write_text(work / "champion.json", to_json(before, {"model": champion.manifest.id}))
    line = f"TAR at FMR {given.fmr:g}: {_shown(found[0].tar)} against {champion.manifest.id}"
    return Outcome(digest_of([each.plain() for each in found]), line, {"against": champion.manifest.id})


def _shown(found: Difference | None) -> str:
    if found is None:
        return "too few pairs to state it"
    return f"{found.candidate:.4f}, {found.mean:+.4f} ({found.low:+.4f} .. {found.high:+.4f})"


def gate(job: Job, work: Path) -> Outcome:
    """Let the candidate pass, or say every reason why not."""
    found = [_comparison(each) for each in read_json(job.output("compare") / "compare.json")]
    held_out = AlignedSet.open(job.output("split") / "held_out")
    reasons = [
        *_too_little(len(held_out.people), found, job.config.gate),
        *_undecidable(calibration_of(job), job.config.gate.serves_fmr),
        *_worse(found, job.config.gate),
    ]
    notes = [
        f"{each.name}: {each.people} people are too few to judge it by"
        for each in found[1:]
        if not _judged(each, job.config.gate)
    ]
    facts = {"reasons": reasons, "notes": notes}
    write_json(work / "decision.json", facts)
    line = "; ".join(reasons) if reasons else "passed"
    return Outcome(digest_of(facts), line, facts)


def _comparison(plain: dict[str, Any]) -> Comparison:
    parts = {name: None if plain[name] is None else Difference(**plain[name]) for name in ("tar", "accuracy")}
    return Comparison(**{**plain, **parts})


def _too_little(people: int, found: list[Comparison], given: Gate) -> Iterator[str]:
    if people < given.min_people:
        yield f"{people} people held out, at least {given.min_people} are needed"
    if found and found[0].genuine_pairs < given.min_genuine_pairs:
        yield f"{found[0].genuine_pairs} genuine pairs, at least {given.min_genuine_pairs} are needed"
    if found and found[0].tar is None:
        yield f"{found[0].impostor_pairs} impostor pairs cannot state a TAR at FMR {given.fmr:g}"


def _undecidable(calibration: Calibration, rate: float) -> Iterator[str]:
    """A server would refuse it, and one that is started anew have nothing else to serve."""
    if not calibration.covers(rate):
        low, _ = calibration.fmr_range
        yield (
            f"calibrated down to an FMR of {low:g}, servers decide at {rate:g}: hold more people out, "
            f"{calibration.impostor_pairs:,} impostor pairs are too few, or set gate.serves_fmr to what yours decide at"
        )


def _worse(found: list[Comparison], given: Gate) -> Iterator[str]:
    for each in found[:1] + [group for group in found[1:] if _judged(group, given)]:
        where = "" if each is found[0] else f"{each.name}: "
        yield from _beyond(f"{where}TAR at FMR {given.fmr:g}", each.tar, given.margin)
        yield from _beyond(f"{where}10-fold accuracy", each.accuracy, given.accuracy_margin)


def _judged(group: Comparison, given: Gate) -> bool:
    return group.people >= given.min_people and group.tar is not None


def _beyond(what: str, found: Difference | None, margin: float) -> Iterator[str]:
    """The whole interval must lie within the margin: not being shown to be worse is not enough."""
    if found is not None and not found.low >= -margin:
        yield (
            f"{what} {found.candidate:.4f} against {found.champion:.4f}, a difference of {found.mean:+.4f} "
            f"({found.low:+.4f} .. {found.high:+.4f}), may be more than {margin:g} lower"
        )


def register_section(job: Job) -> Any:
    """The model it was compared with, by name, and the configuration: they stand in the lineage."""
    licence = job.config.licence.model_dump(mode="json")
    return [job.config.name, job.pins["against"], licence, _config_digest(job)]


def _config_digest(job: Job) -> str:
    elsewhere = {"job", "registry", "data", "threads", "promote", "shadow"}
    return digest_of(job.config.model_dump(mode="json", exclude=elsewhere))


def register(job: Job, work: Path) -> Outcome:
    """The calibrated bundle, with its lineage and card, into the registry as a candidate."""
    bundle = exported(job)
    manifest = _manifest(job, bundle.manifest)
    card = card_text(manifest, _facts(job))
    model = bundle.model_path.read_bytes()
    (work / job.config.name).mkdir(exist_ok=True)
    bundles.write(work / job.config.name, model, manifest, card)
    job.registry.add(model, manifest, card)
    line = f"{manifest.id} is in {job.config.registry}, contract {manifest.contract_id}"
    return Outcome(digest_of(manifest.model_dump(mode="json")), line, {"contract": manifest.contract_id})


def _manifest(job: Job, bare: Manifest) -> Manifest:
    parent = job.pinned("against").manifest if job.pins["against"] else None
    lineage = Lineage(
        parent=parent.id if parent else "",
        parent_contract=parent.contract_id if parent else "",
        data_digest=job.done["split"].outcome.digest,
        config_digest=_config_digest(job),
        code_commit=job.done["train"].outcome.facts["code_commit"],
    )
    # The file of the checkpoint is another after a resumed run, though the weights in it are the same.
    provenance = bare.provenance.model_copy(
        update={"source_sha256": None, "origin": f"made by facesphere-train retrain, {job.config.name}"}
    )
    calibration = calibration_of(job)
    evaluation = read_json(job.output("evaluate") / "evaluation.json")
    metrics = {f"tar_at_fmr_{point.fmr:g}": point.tar for point in calibration.points if point.fmr in (1e-2, 1e-3)}
    if evaluation["verification"]:
        metrics["accuracy"] = evaluation["verification"]["result"]["mean"]
    changes = {"lineage": lineage, "provenance": provenance, "calibration": calibration, "metrics": metrics}
    return bare.model_copy(update=changes)


def _facts(job: Job) -> dict[str, str]:
    """Lines of the card on where the model comes from."""
    held = AlignedSet.open(job.output("split") / "held_out")
    return {
        "data": f"{job.done['ingest'].outcome.line}; {job.done['align'].outcome.line}",
        "cleaning": job.done["clean"].outcome.line,
        "split": job.done["split"].outcome.line,
        "training": job.done["train"].outcome.line,
        "measured on": f"{len(held):,} photos of {len(held.people):,} people held out from training",
        "compared": job.done["compare"].outcome.line,
        "gate": job.done["gate"].outcome.line,
    }


def promote_section(job: Job) -> Any:
    """Whether, and over whom."""
    return [job.config.promote, job.pins["replaces"]]


def promote(job: Job, work: Path) -> Outcome:
    """Make the candidate champion, if the model it was compared with is; or where there is none to compare it with."""
    name, against, champion = job.config.name, job.pins["against"], job.pins["replaces"]
    if not job.config.promote:
        return Outcome(digest_of(None), f"left out: {name} stays a candidate", {"promoted": False})
    if against != champion:
        line = (
            f"{name} stays a candidate: it was compared with {against or 'nobody'}, and the champion is {champion}; "
            f"facesphere models promote {name} makes it champion all the same"
        )
        return Outcome(digest_of(None), line, {"promoted": False})
    job.registry.promote(name, replacing=champion)
    return Outcome(
        digest_of(name), f"{name} is champion" + (f", before it {champion}" if champion else ""), {"promoted": True}
    )
