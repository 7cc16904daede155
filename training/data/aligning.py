"""A source of photos to an aligned set, in parts that outlive a run."""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.image import Pixels
from training.data import aligned_files
from training.data.errors import DataError
from training.data.faces import Skipped, ordered
from training.data.parts import AlignSettings, Entry, Parts, sha256
from training.data.people import Photo
from training.data.photos import read_photos

Cut = Callable[[Photo], Pixels | Skipped]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the photos of a source; `skipped` counts by code, `examples` has the first of each."""

    photos: int
    aligned: int
    people: int
    skipped: dict[str, int]
    examples: dict[str, str]


def align_photos(
    source: Path,
    out: Path,
    settings: AlignSettings,
    cut: Cut,
    threads: int,
    min_images: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Cut a face out of every photo and write an aligned set with a report; go on with what an earlier run has done.

    Args:
        source: what `read_photos` reads.
        out: the folder to write; what is done so far is kept in OUT.partial beside it.
        settings: what `cut` does, so that parts of two kinds are never mixed.
        cut: may be called from several threads.
        threads: how many.
        min_images: people with fewer crops are left out.
        progress: told how many photos are done, those of an earlier run too.

    Raises:
        DataError: the output is there, the source is damaged or has changed since, or there is no face in it.
    """
    aligned_files.check_free(out)
    if not source.exists() and not any(mark in source.name for mark in "*?["):
        raise DataError(
            f"cannot read {source}: No such file or directory"
        )  # before a half-done output of that name begins
    with Parts(out.with_name(f"{out.name}.partial"), settings) as parts:
        photos = read_photos(source)
        progress(_pass_done(parts, photos, source))
        for photo, result in ordered(cut, photos, threads):
            parts.append(photo, result)
            progress(1)
        parts.sync()
        report = _finish(parts, out, source.name, settings, min_images)
        parts.remove()
    return report


def _pass_done(parts: Parts, photos: Iterator[Photo], source: Path) -> int:
    """Read past what is done already. It must be the same photos: half of one source is no start for another."""
    count = 0
    for entry in parts.entries():
        photo = next(photos, None)
        if photo is None or (photo.name, photo.person, sha256(photo.data)) != (entry.name, entry.person, entry.sha256):
            raise DataError(
                f"{source} is not what it was when {parts.folder} was begun: {entry.name} differs; delete the folder"
            )
        count += 1
    return count


def _finish(parts: Parts, out: Path, source: str, settings: AlignSettings, min_images: int) -> Report:
    kept, rows, skipped = _select(parts, min_images)
    report = _report(kept, skipped)
    if not kept:
        reasons = "; ".join(f"{code}: {example}" for code, example in report.examples.items())
        raise DataError(f"{source} gave no crop out of {report.photos} photos ({reasons}); see {parts.folder}")
    hashes = np.frombuffer(bytes.fromhex("".join(entry.crop or "" for entry in kept)), np.uint8).reshape(-1, 32)
    header = _header(kept, source, settings)
    header = header.model_copy(update={"digest": header.seal(hashes)})
    others = {"report.json": _report_text(report, settings, source, min_images), "skipped.csv": _table(skipped)}
    # Within the parts, so that what a killed run leaves of it goes with them.
    aligned_files.write(out, header, _checked(parts, rows, hashes), hashes, others, parts.folder / "final")
    return report


def _select(parts: Parts, min_images: int) -> tuple[list[Entry], NDArray[np.int64], list[Entry]]:
    """(kept, their rows in the crops, skipped)."""
    images = Counter(entry.person for entry in parts.entries() if entry.crop)
    kept: list[Entry] = []
    rows: list[int] = []
    skipped: list[Entry] = []
    row = itertools.count()
    for entry in parts.entries():
        number = next(row) if entry.crop else -1
        if entry.crop and images[entry.person] >= min_images:
            kept.append(entry)
            rows.append(number)
        else:
            skipped.append(_with_reason(entry, images[entry.person]))
    return kept, np.array(rows, np.int64), skipped


def _with_reason(entry: Entry, images: int) -> Entry:
    if entry.code:
        return entry
    return replace(entry, code="few_images", message=f"the person has {images} usable photos")


def _header(kept: list[Entry], source: str, settings: AlignSettings) -> aligned_files.Header:
    people = sorted({entry.person for entry in kept})
    index = {person: number for number, person in enumerate(people)}
    groups = sorted({name for entry in kept for name in entry.groups})
    return aligned_files.Header(
        shape=(len(kept), settings.height, settings.width, 3),
        labels=[index[entry.person] for entry in kept],
        people=tuple(people),
        photos=tuple(entry.name for entry in kept),
        template=settings.template,
        digest="",
        source=source,
        groups={name: tuple(entry.groups.get(name, "") for entry in kept) for name in groups},
    )


def _checked(parts: Parts, rows: NDArray[np.int64], hashes: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The crops of these rows in pieces, each held against its hash: the parts may have lain about for weeks."""
    crops = parts.mapped()
    for start in range(0, len(rows), 256):
        piece = crops[rows[start : start + 256]]
        if not np.array_equal(aligned_files.hash_crops(piece), hashes[start : start + 256]):
            raise DataError(f"{parts.folder} is damaged: crops.bin; delete the folder to begin anew")
        yield piece


def _report(kept: list[Entry], skipped: list[Entry]) -> Report:
    examples: dict[str, str] = {}
    for entry in skipped:
        examples.setdefault(entry.code or "", f"{entry.name}: {entry.message}")
    counts = Counter(entry.code or "" for entry in skipped)
    people = len({entry.person for entry in kept})
    return Report(len(kept) + len(skipped), len(kept), people, dict(sorted(counts.items())), examples)


def _report_text(report: Report, settings: AlignSettings, source: str, min_images: int) -> str:
    fields = {
        "source": source,
        "settings": settings.model_dump(exclude={"source"}) | {"min_images": min_images},
        "photos": report.photos,
        "aligned": report.aligned,
        "people": report.people,
        "skipped": report.skipped,
    }
    return json.dumps(fields, indent=2) + "\n"


def _table(skipped: list[Entry]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("photo", "person", "code", "message"))
    writer.writerows((entry.name, entry.person, entry.code, entry.message) for entry in skipped)
    return buffer.getvalue()
