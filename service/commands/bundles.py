"""facesphere models promote | rollback | precision | export | import: which serves, and carrying one elsewhere."""

from pathlib import Path
from typing import Any

import click

from models import archive
from models.bundle import Precision
from models.registry import Registry
from service.commands.common import data_dir
from service.import_onnx import in_precision
from service.settings import read_settings


@click.command(epilog="Example: facesphere models promote lfw-2")
@click.argument("model_id", metavar="ID")
@data_dir
def promote(model_id: str, **flags: Any) -> None:
    """Make a model the champion of its kind: servers use it from their next start on."""
    registry = _registry(flags)
    registry.resolve_any(model_id)  # a damaged one is refused now, and not at the next start
    manifest = registry.promote(model_id)
    click.echo(f"{model_id} is the {manifest.kind} from the next start on")


@click.command(epilog="Example: facesphere models rollback --kind embedder")
@click.option(
    "--kind", type=click.Choice(["embedder", "detector"]), default="embedder", show_default=True, help="Of model."
)
@data_dir
def rollback(kind: str, **flags: Any) -> None:
    """Make the champion before the present one champion again."""
    click.echo(f"{_registry(flags).roll_back(kind)} is the {kind} from the next start on")


@click.command("precision", epilog="Example: facesphere models precision sface-2021dec bfloat16")
@click.argument("model_id", metavar="ID")
@click.argument("precision", type=click.Choice(["float32", "bfloat16"]))
@data_dir
def set_precision(model_id: str, precision: Precision, **flags: Any) -> None:
    """Add a model that is the same network computed in another precision: another contract, with an id of its own."""
    manifest = in_precision(_registry(flags), model_id, precision)
    click.echo(f"{manifest.id}: added (contract {manifest.contract_id})")


@click.command("export", epilog="Example: facesphere models export lfw-2 --out lfw-2.tar")
@click.argument("model_id", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@data_dir
def export_model(model_id: str, out: Path, **flags: Any) -> None:
    """Write a model into one signed file, to be imported elsewhere."""
    registry = _registry(flags)
    manifest = archive.export_bundle(registry, model_id, out)
    click.echo(f"{out}: {manifest.id}, signed by {', '.join(registry.signers(model_id))}")


@click.command("import", epilog="Example: facesphere models import lfw-2.tar --trust 'base64 of its owner's key'")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--trust", metavar="KEY", help="Public key to trust from now on, as its owner told you.")
@data_dir
def import_model(path: Path, trust: str | None, **flags: Any) -> None:
    """Take such a file into the registry; signature and digest are checked before anything in it is parsed."""
    bundle = archive.import_bundle(_registry(flags), path, trust)
    click.echo(f"{bundle.manifest.id}: imported ({bundle.manifest.kind}, contract {bundle.manifest.contract_id})")


def _registry(flags: dict[str, Any]) -> Registry:
    return Registry(read_settings(**flags).registry_dir)
