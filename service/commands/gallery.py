"""facesphere gallery check | accept-loss | migrate | export-crops, facesphere backup, facesphere restore."""

import contextlib
from pathlib import Path
from typing import Any

import click

from service.commands.common import (
    data_dir,
    embedded_only,
    keys_dir,
    opened_gallery,
    opened_store,
    progress,
    settings_and_keys,
)
from service.commands.crops import export_crops
from service.errors import InvalidRequestError
from service.gallery.backup import accept, back_up
from service.gallery.backup import restore as put_back
from service.gallery.engine import copy_to_postgres
from service.gallery.folder import lock, mark_moved
from service.settings import read_settings


@click.group()
def gallery() -> None:
    """The gallery on disk."""


gallery.add_command(export_crops)


@gallery.command(epilog="Example: facesphere gallery check")
@data_dir
@keys_dir
def check(**flags: Any) -> None:
    """Read everything and check it: each row, each vector, each entry of the log. A server may be running."""
    with opened_gallery(flags) as store:
        faces = 0
        for name, count in store.records.check():
            click.echo(f"{name}: {count} faces")
            faces += count
        proof = store.audit.verify()
    click.echo(f"whole: {faces} faces, audit log up to entry {proof.last}")


@gallery.command("accept-loss", epilog="Example: facesphere gallery accept-loss")
@data_dir
@keys_dir
def accept_loss(**flags: Any) -> None:
    """Take a gallery whose newest part is missing as it is, where there is no backup to restore.

    What was lost is lost; the audit log says that this was done. The server must be stopped.
    """
    embedded_only(flags, "put the database itself back to a point in time")
    settings, keys = settings_and_keys(flags)
    with contextlib.closing(lock(settings.data_dir)):
        again = accept(settings.data_dir, keys)
    click.echo(f"taken as it is{f'; {again} erasures since were applied again' if again else ''}", err=True)


@gallery.command(epilog="Example: facesphere gallery migrate --to postgresql://facesphere@db.example/faces")
@click.option(
    "--to", "url", help="Of the database; FACESPHERE_GALLERY_URL if left out, which keeps a password from view."
)
@data_dir
@keys_dir
def migrate(url: str | None, **flags: Any) -> None:
    """Copy a gallery out of files into PostgreSQL, and compare both. Stop the server first.

    It may be stopped at any moment and run again: it goes on where it was. The files stay as they are.
    """
    settings = read_settings(**flags, gallery_url=url)
    if settings.gallery_urls is None:
        raise InvalidRequestError("say where to: --to postgresql://...")
    with contextlib.closing(lock(settings.data_dir)), opened_store(flags) as source:
        _, keys = settings_and_keys(flags)
        copied = copy_to_postgres(source, settings.gallery_urls[0], keys, progress("migrate"))
    mark_moved(settings.data_dir)
    for name, each in copied.items():
        click.echo(f"{name}: {each.subjects} people, {each.faces} faces, digest {each.digest} on both sides")
    click.echo("done: start servers with FACESPHERE_GALLERY_URL, and remove the files when you trust them", err=True)


@click.command(epilog="Example: facesphere backup /backups/faces-2026-11-26.tar")
@click.argument("file", type=click.Path(path_type=Path))
@data_dir
def backup(file: Path, data_dir: Path | None) -> None:
    """Write a consistent backup of the gallery into one new file; the server goes on.

    It holds no keys. Back the folder of the keys up as well, somewhere else: without it nobody can read the faces.
    """
    embedded_only({"data_dir": data_dir}, "back the database up, with pg_basebackup and its write-ahead log")
    settings = read_settings(data_dir=data_dir)
    size = back_up(settings.data_dir, file, progress("backup"))
    click.echo(f"{file}: {size:,} bytes; the keys in {settings.key_folder} are not in it", err=True)


@click.command(epilog="Example: facesphere restore /backups/faces-2026-11-26.tar --replace")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put it in place of the gallery that is there.")
@data_dir
@keys_dir
def restore(file: Path, replace: bool, **flags: Any) -> None:
    """Put a backup back and check all of it; who was erased since is erased from it again. Stop the server first."""
    embedded_only(flags, "put the database itself back, with pg_basebackup and its write-ahead log")
    settings, keys = settings_and_keys(flags)
    done = put_back(file, settings.data_dir, keys, replace, progress("restore"))
    again = f", {done.erasures} erasures since were applied again" if done.erasures else ""
    click.echo(f"{settings.data_dir}: {done.subjects} people, {done.faces} faces{again}", err=True)
