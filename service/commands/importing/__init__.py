"""facesphere import compreface | insightface: people out of other programs, by their photos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from service.commands.importing import compreface, insightface
from service.commands.importing.source import Source

F = TypeVar("F", bound=Callable[..., Any])


@click.group("import")
def import_people_from() -> None:
    """People out of other programs. Photos are embedded anew; vectors of other models are never taken over."""


def _target_options(command: F) -> F:
    for option in (
        click.option("--dry-run", is_flag=True, help="Only say what there is."),
        click.option(
            "--ca", type=click.Path(path_type=Path), help="Authority of the server's certificate, a PEM file."
        ),
        click.option(
            "--concurrency", type=click.IntRange(1, 256), default=16, show_default=True, help="Photos at once."
        ),
        click.option("--consent", help="Reference to the consent of all these people."),
        click.option("--purpose", help="Create the collection for this, if it is not there; needs an admin's key."),
        click.option("--key", envvar="FACESPHERE_API_KEY", help="Key with scope enroll; or in FACESPHERE_API_KEY."),
        click.option(
            "--server",
            default="http://127.0.0.1:8000",
            show_default=True,
            help="Running server; grpc://host:50051 sends the photos over one stream.",
        ),
        click.option("--collection", required=True, help="Where they are enrolled."),
    ):
        command = option(command)
    return command


@import_people_from.command(
    "compreface",
    epilog="Example: facesphere import compreface compreface.sql --collection staff --purpose 'door of the lab'",
)
@click.argument("source")
@click.option("--service", help="Name, id or API key of the recognition service, where the dump has several.")
@click.option(
    "--source-key",
    envvar="COMPREFACE_API_KEY",
    help="API key of the recognition service, where SOURCE is a running CompreFace; or in COMPREFACE_API_KEY.",
)
@_target_options
def import_compreface(source: str, service: str | None, source_key: str | None, dry_run: bool, **target: Any) -> None:
    """Enrol the people of CompreFace 0.6 or later.

    SOURCE is a plain dump of its database (pg_dump), a folder with the answers of GET /api/v1/recognition/faces as
    *.json and the images by their ids, or the URL of a running CompreFace. It may be stopped and run again: nobody is
    enrolled twice.
    """
    _import(compreface.read(source, service, source_key), dry_run, target)


@import_people_from.command(
    "insightface", epilog="Example: facesphere import insightface server.db --collection staff --from employees"
)
@click.argument("database", type=click.Path(path_type=Path))
@click.option("--from", "collection_id", help="Id of its collection, where there are several.")
@click.option("--files", type=click.Path(path_type=Path), help="Its data folder; that of DATABASE if left out.")
@click.option(
    "--subject",
    "named_by",
    type=click.Choice(insightface.NAMES),
    default="id",
    show_default=True,
    help="What people are called here.",
)
@_target_options
def import_insightface(
    database: Path, collection_id: str | None, files: Path | None, named_by: str, dry_run: bool, **target: Any
) -> None:
    """Enrol the people of an InsightFace Server out of its SQLite file.

    It keeps no photos, at most crops of 112 x 112 pixels (save_face_crops): those are taken, and people without one are
    listed. It may be stopped and run again: nobody is enrolled twice.
    """
    _import(insightface.read(database, files, collection_id, named_by), dry_run, target)


def _import(source: Source, dry_run: bool, target: dict[str, Any]) -> None:
    # Here, so that no other command waits for the client to be loaded.
    from service.commands.importing.run import Target, import_people

    import_people(source, None if dry_run else Target(**target))
