"""facesphere gallery export-crops: faces of people who agreed to it, as photos to train on."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from service.commands.common import data_dir, keys_dir, opened_gallery, progress
from service.errors import InvalidRequestError, NotFoundError
from service.gallery.store import Store

if TYPE_CHECKING:
    from service.gallery.postgres.gallery import PostgresStore

_ACTOR = "cli"
_PAGE = 1000


class _Person(NamedTuple):
    name: str
    uid: str
    faces: tuple[str, ...]  # ids of those that may be exported


@click.command("export-crops", epilog="Example: facesphere gallery export-crops --collection lab --out crops/")
@click.option("--collection", required=True, help="Of people; it must store crops.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="New folder: PERSON/FACE.png, by their ids."
)
@click.option(
    "--require-consent/--no-require-consent",
    default=True,
    show_default=True,
    help="Only faces that were enrolled with a reference to a consent.",
)
@data_dir
@keys_dir
def export_crops(collection: str, out: Path, require_consent: bool, **flags: Any) -> None:
    """Write the stored crops of a collection into a folder, to train on. A server may be running.

    People are named by their ids, not by their names. The audit log tells of it. What is in the folder is no longer
    encrypted, and erasing somebody does not erase it there.
    """
    with opened_gallery(flags) as store:
        people = list(_exportable(store, collection, require_consent))
        faces = sum(len(person.faces) for person in people)
        if not faces:
            which = " and a reference to a consent" if require_consent else ""
            raise InvalidRequestError(f"collection {collection!r} has no face with a stored crop{which}")
        with _new_folder(out) as folder:
            # Before the first of them leaves: an export that is stopped half way is in the log as well.
            uid, _ = store.records.uids(collection)
            store.trail.note(
                _ACTOR,
                "export.crops",
                collection=uid,
                people=len(people),
                faces=faces,
                consent_required=require_consent,
            )
            counts = _write(store, collection, people, folder)
    click.echo(f"{out}: {sum(counts)} faces of {sum(count > 0 for count in counts)} people", err=True)


def _exportable(store: "Store | PostgresStore", collection: str, consent: bool) -> Iterator[_Person]:
    after: str | None = ""
    while after is not None:
        page = store.records.subjects(collection, after, _PAGE)
        for each in page.subjects:
            with contextlib.suppress(NotFoundError):  # erased since
                stored = store.records.subject(collection, each.name).faces
                _, uid = store.records.uids(collection, each.name)
                faces = tuple(face.face_id for face in stored if face.has_crop and (face.consent or not consent))
                if uid is not None and faces:
                    yield _Person(each.name, uid, faces)
        after = page.next_cursor


def _write(store: "Store | PostgresStore", collection: str, people: list[_Person], folder: Path) -> list[int]:
    """How many faces of each; who was erased since they were looked for has none."""
    show, counts = progress("export-crops"), []
    for person in people:
        crops: dict[str, bytes] = {}
        with contextlib.suppress(NotFoundError):
            crops = store.records.crops_of(collection, person.name)
        chosen = [face for face in person.faces if face in crops]
        for face in chosen:
            _write_private(folder / person.uid / f"{face}.png", crops[face])
        counts.append(len(chosen))
        show(len(counts), len(people))
    return counts


def _write_private(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Nobody else's to read; it appears under its name when all is in it, and else not at all."""
    if os.path.lexists(out):
        raise InvalidRequestError(f"{out} is there already; crops are written into a new folder")
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir(mode=0o700)
        try:
            yield partial
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise InvalidRequestError(f"cannot write {out}: {error.strerror}") from error
