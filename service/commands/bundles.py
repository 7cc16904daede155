"""facesphere models promote | activate | rollback | jobs | precision | export | import: what serves, and where else."""

import time
from pathlib import Path
from typing import Any

import click

from models import archive
from models.bundle import Manifest, Precision
from models.registry import Registry
from service.commands.common import data_dir, keys_dir, opened_gallery, progress
from service.domain import OPEN_STATES, Job
from service.errors import InvalidRequestError
from service.import_onnx import in_precision
from service.servable import check_servable
from service.settings import read_settings

_LOOK_EVERY_S = 0.2
_TAKEN_UP_S = 45.0
_WORDS = {"there": "there already", "stays": "stay on their model"}


@click.command(epilog="Example: facesphere models promote lfw-2")
@click.argument("model_id", metavar="ID")
@data_dir
def promote(model_id: str, **flags: Any) -> None:
    """Make a model the champion of its kind. Running servers take an embedder up within seconds."""
    click.echo(_promoted(_promote(model_id, flags)))


@click.command(epilog="Example: facesphere models activate lfw-2")
@click.argument("model_id", metavar="ID")
@data_dir
@keys_dir
def activate(model_id: str, **flags: Any) -> None:
    """Promote an embedder and watch a running server embed its collections anew.

    Exit status 2 if that failed; collections that stay on their model, because faces of them have no crop, are no
    failure.
    """
    with opened_gallery(flags) as gallery:
        manifest = _promote(model_id, flags)
        click.echo(_promoted(manifest))
        if manifest.kind != "embedder":
            return
        job = gallery.jobs.create("activate", model_id, "cli")
        end = time.monotonic() + _TAKEN_UP_S
        while job.state == "queued" and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
            job = gallery.jobs.get(job.id)
        if job.state == "queued":
            click.echo("no server has begun to embed collections anew; one that starts later will")
            return
        show = progress("embedding anew")
        while job.state in OPEN_STATES:
            show(round(1000 * job.progress), 1000)
            time.sleep(_LOOK_EVERY_S)
            job = gallery.jobs.get(job.id)
    click.echo(_line(job))
    if job.state != "done":
        raise InvalidRequestError(job.error or f"the job was {job.state}")


@click.command(epilog="Example: facesphere models jobs")
@data_dir
@keys_dir
def jobs(**flags: Any) -> None:
    """List the newest changes of model, and how far they are."""
    with opened_gallery(flags) as gallery:
        for job in gallery.jobs.list(20):
            click.echo(_line(job))


@click.command(epilog="Example: facesphere models rollback --kind embedder")
@click.option(
    "--kind", type=click.Choice(["embedder", "detector"]), default="embedder", show_default=True, help="Of model."
)
@data_dir
def rollback(kind: str, **flags: Any) -> None:
    """Make the champion before the present one champion again."""
    registry = _registry(flags)
    click.echo(_promoted(registry.manifest(registry.roll_back(kind))))


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


def _promote(model_id: str, flags: dict[str, Any]) -> Manifest:
    settings = read_settings(**flags)
    registry = Registry(settings.registry_dir)
    manifest = registry.resolve_any(model_id).manifest  # a damaged one is refused now, and not when it is to be served
    champion = registry.champion(manifest.kind)
    if manifest.kind == "embedder":
        calibrated = champion is not None and registry.manifest(champion).calibration is not None
        check_servable(manifest, calibrated, settings.target_fmr)
    return registry.promote(model_id)


def _promoted(manifest: Manifest) -> str:
    when = "now, and running servers follow" if manifest.kind == "embedder" else "from the next start on"
    return f"{manifest.id} is the {manifest.kind} {when}"


def _line(job: Job) -> str:
    states = [str(each.get("state")) for each in job.result.values()]
    told = ", ".join(f"{states.count(state)} {_WORDS.get(state, state)}" for state in sorted(set(states)))
    why = f": {job.error}" if job.error else ""
    about = f"{job.created_at}  {job.kind} {job.model_id}  {job.state}  {100 * job.progress:.0f} %{why}"
    return f"{about}  (collections: {told})" if told else about


def _registry(flags: dict[str, Any]) -> Registry:
    return Registry(read_settings(**flags).registry_dir)
