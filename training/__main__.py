"""The command line of training: facesphere-train evaluate | calibrate."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from models import bundle as bundles
from models.calibration import Calibration
from models.commandline import OneLineErrors
from models.registry import Registry
from training.calibrate import fit
from training.data.people import DataError
from training.embeddings import EmbeddedSet, SetEmbedder

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Evaluate and calibrate face models, through the code that the service runs."""


def _set_options(command: F) -> F:
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
            help="PERSON/PHOTO folder or tar.",
        ),
    ):
        command = option(command)
    return command


@main.command(epilog="Example: facesphere-train evaluate --data lfw.tar --registry data/models")
@_set_options
def evaluate(**options: Any) -> None:
    """Print TAR at each false-match rate, with 95 % intervals, and the failure-to-enrol rate."""
    _, data, calibration = _calibrated(**options)
    click.echo(f"photos {len(data.photos) + len(data.failed)}, people {len(data.names)}, face: {options['choice']}")
    click.echo(f"failure to enrol: {len(data.failed)} ({data.failure_to_enrol:.4%})")
    click.echo(f"genuine pairs {calibration.genuine_pairs:,}, impostor pairs {calibration.impostor_pairs:,}")
    click.echo("FMR     TAR      95 % interval      threshold  95 % interval")
    for point in calibration.points:
        click.echo(
            f"{point.fmr:<7.0e} {point.tar:.4f}   {point.tar_low:.4f} .. {point.tar_high:.4f}   "
            f"{point.threshold:.4f}     {point.threshold_low:.4f} .. {point.threshold_high:.4f}"
        )


@main.command(epilog="Example: facesphere-train calibrate --data people/ --apply")
@click.option("--out", type=click.Path(path_type=Path), help="Write the manifest with the calibration to this file.")
@click.option("--apply", "apply_it", is_flag=True, help="Store the calibration with the model in the registry.")
@click.option("--describe", default="", help="What the data are; their file name if left out.")
@_set_options
def calibrate(out: Path | None, apply_it: bool, describe: str, **options: Any) -> None:
    """Fit thresholds, probability and tail on labelled photos of people who were not trained on."""
    if out is None and not apply_it:
        raise click.UsageError("state --out FILE, --apply, or both")
    if out is not None and not out.parent.is_dir():
        raise DataError(f"cannot write {out}: there is no folder {out.parent}")
    embedder, data, calibration = _calibrated(describe=describe, **options)
    manifest = embedder.manifest.model_copy(update={"calibration": calibration})
    if out is not None:
        _write(out, bundles.manifest_json(manifest))
    if apply_it:
        Registry(options["registry"]).replace_manifest(manifest)
    low, high = calibration.fmr_range
    click.echo(f"{manifest.id}: calibrated for FMR {low:g} to {high:g} on {len(data.photos)} photos")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _calibrated(
    path: Path,
    registry: Path,
    model: str | None,
    detector: str | None,
    choice: Any,
    rounds: int,
    threads: int,
    describe: str = "",
) -> tuple[SetEmbedder, EmbeddedSet, Calibration]:
    embedder = SetEmbedder(Registry(registry), model, detector, choice)
    with _progress("embedding") as step:
        data = embedder.embed_people(path, threads, step)
    description = describe or path.name
    return embedder, data, fit(data, description, embedder.detector_id, rounds)


@contextlib.contextmanager
def _progress(label: str) -> Iterator[Callable[[int], None]]:
    """A counter on a terminal, a plain line every ten seconds otherwise; the number of photos is not known before."""
    done, began, shown = 0, time.monotonic(), time.monotonic()
    on_terminal = sys.stderr.isatty()

    def step(count: int) -> None:
        nonlocal done, shown
        done += count
        if time.monotonic() - shown > (0.2 if on_terminal else 10):
            shown = time.monotonic()
            text = f"{label}: {done} photos, {done / (shown - began):.0f}/s"
            click.echo(f"\r{text}" if on_terminal else text, err=True, nl=not on_terminal)

    yield step
    click.echo(f"{label}: {done} photos in {time.monotonic() - began:.0f} s", err=True)


if __name__ == "__main__":
    main()
