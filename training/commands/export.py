"""facesphere-train export."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.bundle import Bundle, Licence
from models.registry import Registry

if TYPE_CHECKING:
    from training.export.pipeline import Request

_EXAMPLE = "facesphere-train export --checkpoint runs/lfw --out bundles --id lfw-1 --int8 --calibration-data aligned"


@click.command(epilog=f"Example: {_EXAMPLE}")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="A run's folder, or one file of it.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Bundles become OUT/ID.")
@click.option("--id", "model_id", required=True, help="The bundle's name; variants are ID-fp16 and ID-int8.")
@click.option("--fp16", is_flag=True, help="Also a variant of 16-bit floats, if it passes its gate.")
@click.option("--int8", is_flag=True, help="Also a variant of 8-bit integers, if it passes its gate.")
@click.option("--calibration-data", type=click.Path(path_type=Path), help="Aligned set to compare and to measure on.")
@click.option("--mirror", is_flag=True, help="Serve each crop with its mirror image added: twice the work.")
@click.option("--metric", type=click.Choice(["lda"]), help="Learn a metric on top, from --calibration-data.")
@click.option("--template", help="Alignment of the crops; the one that fits the run or the size if left out.")
@click.option("--licence", default="unknown", show_default=True, help="SPDX identifier of the weights' licence.")
@click.option("--licence-note", default="", help="A sentence on the terms, for manifest and card.")
@click.option("--commercial-use", is_flag=True, help="The licence allows it.")
@click.option("--registry", type=click.Path(path_type=Path), help="Also add the bundles to this registry of models.")
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), help="Gate: of 10-fold accuracy, for each variant.")
@click.option("--max-tar-drop", type=click.FloatRange(0, 1), help="Gate: of TAR at FMR 1e-3.")
@click.option("--min-cosine", type=click.FloatRange(-1, 1), help="Gate: mean cosine to the float vectors.")
def export(checkpoint: Path, out: Path, calibration_data: Path | None, registry: Path | None, **options: Any) -> None:
    """Make bundles that the service loads out of a trained network."""
    request = _request(options)
    if request.kinds and calibration_data is None:
        raise click.UsageError("--fp16 and --int8 need --calibration-data: a variant is kept for what it loses there")
    if request.metric and calibration_data is None:
        raise click.UsageError("--metric needs --calibration-data: it is learned from the people there")
    from training.data.aligned import AlignedSet
    from training.export.checkpoint import load_trained
    from training.export.errors import VariantRefusedError
    from training.export.pipeline import export_model

    data = AlignedSet.open(calibration_data) if calibration_data else None
    refused = None
    try:
        export_model(load_trained(checkpoint), request, out, data, click.echo)
    except VariantRefusedError as error:
        refused = error
    if registry is not None:
        _register(registry, out, request)
    if refused is not None:
        raise refused


def _request(options: dict[str, Any]) -> "Request":
    from training.export.gate import GATES, Gate
    from training.export.pipeline import Request
    from training.export.variants import KINDS

    def chosen(gate: Gate) -> Gate:
        given = (options["max_accuracy_drop"], options["max_tar_drop"], options["min_cosine"])
        defaults = (gate.accuracy_drop, gate.tar_drop, gate.mean_cosine)
        return Gate(*(own if other is None else other for own, other in zip(defaults, given, strict=True)))

    return Request(
        id=options["model_id"],
        licence=Licence(
            spdx=options["licence"], commercial_use=options["commercial_use"], note=options["licence_note"]
        ),
        template=options["template"],
        mirror=options["mirror"],
        metric=options["metric"] is not None,
        kinds=tuple(kind for kind in KINDS if options[kind]),
        gates={kind: chosen(gate) for kind, gate in GATES.items()},
    )


def _register(root: Path, out: Path, request: "Request") -> None:
    from models import bundle as bundles

    registry = Registry(root)
    names = (request.id, *(f"{request.id}-{kind}" for kind in request.kinds))
    for folder in (out / name for name in names):
        if folder.is_dir():
            bundle: Bundle = bundles.load(folder)
            registry.add(bundle.model_path.read_bytes(), bundle.manifest, bundle.card())
            click.echo(f"{bundle.manifest.id}: added to {root}")
