"""Stages from photos to two sets of people: ingest, align, clean, split."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.alignment import Template
from models.errors import InvalidBundleError
from training.data.aligned import AlignedSet, check_disjoint, split_people
from training.data.aligning import Cut, align_photos
from training.data.errors import DataError
from training.data.faces import DetectingCutter, WholeCutter
from training.data.parts import AlignSettings, sha256
from training.data.photos import read_photos, source_files
from training.evaluation.folds import balanced_pairs
from training.retrain import cleaning, duplicates, review
from training.retrain.cleaning import Finding, Levels
from training.retrain.duplicates import Alike
from training.retrain.job import Job
from training.retrain.state import Outcome, digest_of, read_json, write_json, write_text

_WIDTHS = {"arcface": 1.0, "sphereface": 96 / 112}


def source_fingerprint(path: Path) -> list[Any]:
    """What tells, without reading a photo, that a source may have changed: names, sizes and times of its files.

    Of the very files that would be read, wherever they lie: what else is in their folder, such as the job's own output,
    is none of it.
    """
    try:
        files = source_files(path)
    except DataError:  # it is ingest that says what is wrong, and once that is mended this is another source
        files = [path]
    return [_plain_path(path), [[_plain_path(file), *_size_and_time(file)] for file in files]]


def _plain_path(path: Path) -> str:
    return str(path.absolute()).encode("utf-8", "backslashreplace").decode()  # a name need be no UTF-8


def _size_and_time(file: Path) -> tuple[int, ...]:
    try:
        stat = file.stat()
    except (OSError, ValueError):  # as a list may name a file that is not there, or none that could be
        return ()
    return stat.st_size, stat.st_mtime_ns


def ingest(job: Job, work: Path) -> Outcome:
    """Read every photo once: an index of names, people, groups and digests; no photo is copied."""
    rows, seen = [], set()
    for photo in read_photos(job.config.data):
        if (photo.name, photo.person) in seen:
            raise DataError(f"{job.config.data} has two photos {photo.name!r} of {photo.person!r}")
        seen.add((photo.name, photo.person))
        rows.append([photo.name, photo.person, sha256(photo.data), dict(photo.groups)])
    people = len({row[1] for row in rows})
    write_text(work / "photos.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    line = f"{len(rows):,} photos of {people:,} people"
    return Outcome(digest_of(rows), line, {"photos": len(rows), "people": people})


def align(job: Job, work: Path) -> Outcome:
    """Cut the face out of every photo, as `facesphere-train align` does; goes on where it was stopped."""
    settings, cut = _cutter(job)
    out = work / "set"
    if (out / "set.json").is_file():  # killed between the last crop and the seal
        facts = read_json(out / "report.json")
    else:
        report = align_photos(job.config.data, out, settings, cut, job.threads, job.config.align.min_images)
        facts = {"photos": report.photos, "skipped": report.skipped}
    data = AlignedSet.open(out)
    skipped = ", ".join(f"{count} {code}" for code, count in facts["skipped"].items())
    line = f"{len(data):,} crops of {len(data.people):,} people{'; skipped: ' if skipped else ''}{skipped}"
    return Outcome(data.digest, line, {"crops": len(data), "people": len(data.people), "skipped": facts["skipped"]})


def align_section(job: Job) -> Any:
    """Options, and the digest of the detector."""
    given = job.config.align
    detector = None if given.aligned else job.registry.resolve("detector", given.detector).manifest.model_sha256
    return [given.model_dump(mode="json"), detector]


def _cutter(job: Job) -> tuple[AlignSettings, Cut]:
    given = job.config.align
    width = given.width or round(given.height * _WIDTHS[given.template])
    try:
        place = Template(given.template, width, given.height)
    except ValueError as error:
        raise DataError(str(error)) from error
    name, cut = None, None
    if not given.aligned:
        bundle = job.registry.resolve("detector", given.detector)
        name = f"{bundle.manifest.id} {bundle.manifest.model_sha256}"
        cut = DetectingCutter(bundle, place, given.face, given.min_face)
    settings = AlignSettings(
        source=str(job.config.data.absolute()),
        template=given.template,
        height=given.height,
        width=width,
        face="whole image" if given.aligned else given.face,
        aligned=given.aligned,
        min_face=given.min_face,
        detector=name,
    )
    return settings, cut or WholeCutter(place)


def clean_section(job: Job) -> Any:
    """Levels, the model that tells, and the decisions of whoever has looked at the findings."""
    given = job.config.clean
    try:
        decisions = sha256(given.review.read_bytes()) if given.review else None
    except OSError as error:
        raise DataError(f"cannot read {given.review}: {error.strerror}") from error
    teacher = job.pinned("teacher").manifest
    return [given.model_dump(mode="json", exclude={"review"}), decisions, teacher.contract_id, _levels_of(job)]


def _levels_of(job: Job) -> list[float]:
    levels = _levels(job, 1) if job.config.clean.enabled else None
    return [levels.outlier, levels.move] if levels else []


def _levels(job: Job, people: int) -> Levels:
    manifest = job.pinned("teacher").manifest
    if manifest.calibration is None:
        raise InvalidBundleError(
            f"model {manifest.id} has no calibration, so that it cannot say what a wrong label is; name another as "
            "clean.model, or run facesphere-train calibrate"
        )
    given = job.config.clean
    outlier = manifest.calibration.threshold_at(given.outlier_fmr).value
    return Levels(outlier, manifest.calibration.threshold_for_gallery(given.move_fpir, people).value)


def clean(job: Job, work: Path) -> Outcome:
    """Find what is wrong with the labels, and write review.csv and the person on each photo after all decisions."""
    data = AlignedSet.open(job.output("align") / "set")
    same = _alike(job, data)
    enabled = job.config.clean.enabled
    findings = _findings(job, data, same) if enabled else []
    given = job.config.clean.review
    verdicts = review.read_review(given, data) if given else []
    names = review.apply(findings, verdicts, data)
    write_text(work / "review.csv", review.to_csv(findings, data))
    write_json(work / "names.json", names)
    write_json(work / "findings.json", [_plain(each, data) for each in findings])
    return _cleaned(data, findings, names, len(verdicts), enabled)


def _cleaned(
    data: AlignedSet, findings: list[Finding], names: list[str | None], verdicts: int, enabled: bool
) -> Outcome:
    old = [data.people[label] for label in data.labels]
    counts = {
        "found": dict(Counter(each.kind for each in findings)),
        "dropped": names.count(None),
        "renamed": sum(new is not None and new != before for new, before in zip(names, old, strict=True)),
        "verdicts": verdicts,
    }
    there = {name for name in names if name is not None}
    if not there:
        raise DataError("cleaning leaves no photo; look at the levels, or switch it off with clean.enabled: false")
    how = f"{len(findings):,} finding{'' if len(findings) == 1 else 's'}, " if enabled else "switched off, "
    line = f"{how}{counts['dropped']:,} photos dropped, {counts['renamed']:,} given to another person"
    return Outcome(digest_of(names), line, counts | {"people": len(there), "photos": len(names) - names.count(None)})


def _alike(job: Job, data: AlignedSet) -> Alike:
    given = job.config.clean
    vectors = job.vectors(job.pinned("teacher"), data).vectors
    assert data.hashes is not None  # of a set that was opened from disk they are known
    crops = [each.tobytes() for each in data.hashes]
    files = [bytes.fromhex(digest) for digest in _files_of(job, data)]
    return duplicates.alike(
        vectors, duplicates.perceptual_hashes(data.crops), (crops, files), given.near, given.hash_bits
    )


def _files_of(job: Job, data: AlignedSet) -> Iterator[str]:
    """The digest of the file behind each crop."""
    with (job.output("ingest") / "photos.jsonl").open(encoding="utf-8") as file:
        known = {(name, person): digest for name, person, digest, _ in map(json.loads, file)}
    people = (data.people[label] for label in data.labels)
    return (known[photo, person] for photo, person in zip(data.photos, people, strict=True))


def _findings(job: Job, data: AlignedSet, same: Alike) -> list[Finding]:
    vectors = job.vectors(job.pinned("teacher"), data).vectors
    return cleaning.find(vectors, data.labels, data.people, same, _levels(job, len(data.people)))


def _plain(finding: Finding, data: AlignedSet) -> dict[str, Any]:
    return {
        "row": finding.row,
        "photo": None if finding.row is None else data.photos[finding.row],
        "person": finding.person,
        "kind": finding.kind,
        "score": finding.score,
        "decision": finding.decision,
        "other_row": finding.other_row,
        "other_person": finding.other_person,
    }


def split_section(job: Job) -> Any:
    """Options, the digest of the trusted set, and what near duplicates are told by."""
    given, near = job.config.split, job.config.clean
    trusted = AlignedSet.open(given.trusted).digest if given.trusted else None
    told_by = [near.near, near.hash_bits, job.pinned("teacher").manifest.contract_id]
    return [given.model_dump(mode="json", exclude={"trusted"}), trusted, told_by]


def split(job: Job, work: Path) -> Outcome:
    """Two sets without a common person, and without a near duplicate of a held-out photo in training."""
    data = AlignedSet.open(job.output("align") / "set")
    names = read_json(job.output("clean") / "names.json")
    rows = np.array([row for row, name in enumerate(names) if name is not None], np.int64)
    kept = _named(data, rows, [names[row] for row in rows])
    trusted = job.config.split.trusted
    if trusted is None:
        train, held_out = split_people(kept, job.config.split.held_out, job.config.split.salt)
    else:
        held_out = AlignedSet.open(trusted)
        before = [data.people[label] for label in data.labels[rows]]
        train = kept.subset(_unrelated(before, [names[row] for row in rows], set(held_out.people)))
    balanced_pairs(held_out.labels)  # better now than after training
    train, leaked = _without_leaks(job, data, train, held_out)
    check_disjoint(train, held_out)
    train.save(work / "train")
    held_out.save(work / "held_out")
    line = (
        f"{len(train):,} photos of {len(train.people):,} people to train on, {len(held_out):,} of "
        f"{len(held_out.people):,} held out; {leaked} near duplicates of those removed from training"
    )
    sizes = {"train": [len(train), len(train.people)], "held_out": [len(held_out), len(held_out.people)]}
    return Outcome(digest_of([train.digest, held_out.digest]), line, sizes | {"leaked": leaked})


def _unrelated(before: list[str], after: list[str], trusted: set[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Photos of nobody who is in the trusted set, under the name they came with or the one cleaning gave them."""
    known = {new for old, new in zip(before, after, strict=True) if old in trusted or new in trusted}
    return np.array([new not in known for new in after], np.bool_)


def _named(data: AlignedSet, rows: np.ndarray[Any, np.dtype[np.int64]], names: list[str]) -> AlignedSet:
    """Those rows under the names that they have after cleaning."""
    part = data.subset(rows)
    return AlignedSet.of(part.crops, names, part.photos, data.template, data.source, part.groups)


def _without_leaks(job: Job, data: AlignedSet, train: AlignedSet, held_out: AlignedSet) -> tuple[AlignedSet, int]:
    given, teacher = job.config.clean, job.pinned("teacher")
    ours, theirs = (
        (job.vectors(teacher, part).vectors, duplicates.perceptual_hashes(part.crops)) for part in (train, held_out)
    )
    leaked = duplicates.across(ours, theirs, given.near, given.hash_bits)
    if not len(leaked):
        return train, 0
    keep = np.ones(len(train), np.bool_)
    keep[leaked] = False
    return train.subset(keep), len(leaked)
