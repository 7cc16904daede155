"""Options that `evaluate` and `calibrate` share, and the work that both begin with."""

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import click

from models.bundle import Bundle, Manifest, seal
from models.calibration import Calibration
from models.registry import Registry
from training.calibrate import fit
from training.commands.progress import counter
from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.embeddings import EmbeddedSet, SetEmbedder
from training.evaluation.crops import check_crops, embed_aligned
from training.evaluation.disjoint import held_out_of, only_held_out

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Embedded:
    """A labelled set with its vectors, by which model, and cut by which detector ("" where that is not known)."""

    manifest: Manifest
    detector_id: str
    data: EmbeddedSet
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class MirroringRegistry(Registry):
    """A registry whose embedders add the mirror image of each crop; nothing is changed on disk."""

    def resolve(self, kind: str, model_id: str | None = None) -> Bundle:
        """The bundle of that name or the champion, with `mirror` switched on."""
        bundle = super().resolve(kind, model_id)
        if kind != "embedder":
            return bundle
        return replace(bundle, manifest=seal(bundle.manifest.model_copy(update={"mirror": True})))


def set_options(command: F) -> F:
    """Add the options that name the photos, the models and how to count."""
    for option in (
        click.option("--threads", type=click.IntRange(1), default=len(os.sched_getaffinity(0)), show_default="cores"),
        click.option(
            "--rounds",
            type=click.IntRange(20, 10_000),
            default=200,
            show_default=True,
            help="Of the bootstrap.",
        ),
        click.option(
            "--face",
            "choice",
            type=click.Choice(["largest", "central"]),
            default="largest",
            show_default=True,
        ),
        click.option("--detector", metavar="ID", help="Detector; the promoted one if left out."),
        click.option("--model", metavar="ID", help="Embedder; the promoted one if left out."),
        click.option("--registry", type=click.Path(path_type=Path), default="data/models", show_default=True),
        click.option(
            "--data",
            "path",
            type=click.Path(path_type=Path, exists=True),
            required=True,
            help="PERSON/PHOTO folder or tar, or an aligned set.",
        ),
    ):
        command = option(command)
    return command


def is_aligned(path: Path) -> bool:
    """Whether a folder is a set that `facesphere-train align` wrote."""
    return (path / "set.json").is_file()


def open_registry(root: Path, mirror: bool = False) -> Registry:
    """The registry; with `mirror`, embedders out of it add mirror images."""
    return MirroringRegistry(root) if mirror else Registry(root)


def embedded(
    path: Path,
    registry: Registry,
    model: str | None,
    detector: str | None,
    choice: Any,
    threads: int,
    held_out: Path | None = None,
) -> Embedded:
    """Embed a set: photos through the detector, an aligned set as it is.

    Of an aligned set only the people whom the run `held_out` kept aside, if there is one.

    Raises:
        DataError: no such data, or crops that the model is not fed.
    """
    if path.suffix.lower() == ".bin":
        raise DataError(f"{path} has pairs but does not say who is on them: only `evaluate` can use it")
    if is_aligned(path):
        return _embedded_crops(path, registry.resolve("embedder", model), threads, held_out)
    embedder = SetEmbedder(registry, model, detector, choice)
    with counter("embedding") as step:
        return Embedded(embedder.manifest, embedder.detector_id, embedder.embed_people(path, threads, step))


def calibrated(
    path: Path,
    registry: Path,
    model: str | None,
    detector: str | None,
    choice: Any,
    rounds: int,
    threads: int,
    describe: str = "",
    held_out: Path | None = None,
) -> tuple[Embedded, EmbeddedSet, Calibration]:
    """Embed a set of photos and calibrate on it; the options of set_options are the arguments."""
    found = embedded(path, open_registry(registry), model, detector, choice, threads, held_out)
    return found, found.data, fit(found.data, describe or path.name, found.detector_id, rounds)


def _embedded_crops(path: Path, bundle: Bundle, threads: int, held_out: Path | None) -> Embedded:
    data = AlignedSet.open(path)
    data = data if held_out is None else only_held_out(data, held_out)
    check_crops(bundle.manifest, data)  # before the counter begins
    with counter("embedding") as step:
        vectors = embed_aligned(bundle, data, threads, step)
    return Embedded(bundle.manifest, _detector_of(path), replace(vectors, failed=_failed(path, held_out)), data.groups)


def _detector_of(path: Path) -> str:
    """Which detector cut the crops, as the report of `align` says; empty where there is none."""
    try:
        settings = json.loads((path / "report.json").read_text(encoding="utf-8"))["settings"]
        return str(settings["detector"] or "").partition(" ")[0]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _failed(path: Path, held_out: Path | None) -> tuple[str, ...]:
    """Photos that gave no crop when the set was cut, where the list of them still lies beside it."""
    skipped = path / "skipped.csv"
    if not skipped.is_file():
        return ()
    people = frozenset[str]() if held_out is None else held_out_of(held_out)
    try:
        with skipped.open(encoding="utf-8", newline="") as file:
            # Who has too few photos was left out for that, and not because a face was not found.
            rows = [row["photo"] for row in csv.DictReader(file) if row["code"] != "few_images"]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(f"cannot read {skipped}: it is no list of photos that were skipped") from error
    return tuple(photo for photo in rows if held_out is None or PurePosixPath(photo).parent.name in people)
