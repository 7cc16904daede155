"""facesphere-train calibrate."""

from pathlib import Path
from typing import Any

import click

from models import bundle as bundles
from models.registry import Registry
from training.commands.labelled import calibrated, set_options
from training.data.people import DataError


@click.command(epilog="Example: facesphere-train calibrate --data people/ --apply")
@click.option("--out", type=click.Path(path_type=Path), help="Write the manifest with the calibration to this file.")
@click.option("--apply", "apply_it", is_flag=True, help="Store the calibration with the model in the registry.")
@click.option("--describe", default="", help="What the data are; their file name if left out.")
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, exists=True),
    help="Only those people of an aligned set whom this run held out.",
)
@set_options
def calibrate(out: Path | None, apply_it: bool, describe: str, **options: Any) -> None:
    """Fit thresholds, probability and tail on labelled photos of people who were not trained on."""
    if out is None and not apply_it:
        raise click.UsageError("state --out FILE, --apply, or both")
    if out is not None and not out.parent.is_dir():
        raise DataError(f"cannot write {out}: there is no folder {out.parent}")
    embedder, data, calibration = calibrated(describe=describe, **options)
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
