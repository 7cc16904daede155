"""Enrols what a source holds through a running server, so that all of it is checked, logged and durable as always."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from facesphere_client import (
    ApiError,
    Client,
    FacesphereError,
    ImageError,
    NotFoundError,
    Tls,
)
from facesphere_client import (
    InvalidRequestError as Refused,
)

from service.commands.common import progress
from service.commands.importing.pictures import servable
from service.commands.importing.source import BadRecordError, NoPhotoError, Source
from service.errors import InvalidRequestError

_LISTED = 20  # people without a photo that are named; the others are counted


@dataclass(frozen=True, slots=True)
class Target:
    """Where to enrol."""

    collection: str
    server: str
    key: str | None = field(repr=False)
    purpose: str | None
    consent: str | None
    concurrency: int
    ca: Path | None


@dataclass(slots=True)
class _Tally:
    """What became of the photos."""

    enrolled: int = 0
    there: int = 0
    skipped: int = 0
    people: set[str] = field(default_factory=set)
    vectors: Counter[str] = field(default_factory=Counter)


def import_people(source: Source, target: Target | None) -> None:
    """Enrol all photos of a source, and say what became of it; without a target only what there is.

    Raises:
        InvalidRequestError: it cannot go on. What was enrolled is; when run again it goes on.
    """
    for problem in source.problems:
        _skip(problem)
    tally = _Tally(skipped=len(source.problems), vectors=Counter(source.vectors))
    with contextlib.closing(source):
        if target is not None:
            _enrol_or_say_why(source, target, tally)
    _summary(source, tally, dry=target is None)


def _enrol_or_say_why(source: Source, target: Target, tally: _Tally) -> None:
    try:
        _enrol(source, target, tally)
    except FacesphereError as error:
        done = f"; {tally.enrolled} photos were enrolled, run it again to go on" if tally.enrolled else ""
        raise InvalidRequestError(f"{target.server}: {error}{done}") from error
    except (ValueError, OSError) as error:
        raise InvalidRequestError(str(error)) from error


def _enrol(source: Source, target: Target, tally: _Tally) -> None:
    with Client(
        target.server,
        key=target.key,
        concurrency=target.concurrency,
        tls=Tls(target.ca) if target.ca is not None else None,
    ) as client:
        if target.purpose is not None:
            _create(client, target.collection, target.purpose)
        before = _faces_of(client, target.collection, source)
        whose = {photo.id: photo.subject for photo in source.photos}
        show, seen = progress("import"), 0
        outcomes = client.enrol_many(
            target.collection, _read(source, tally), consent=target.consent, idempotency_key=source.program
        )
        for outcome in outcomes:
            seen += 1
            show(seen + tally.skipped, len(source.photos) + len(source.problems))
            if isinstance(outcome.error, ImageError | Refused):
                _skip(f"photo {outcome.id} of {whose[outcome.id]!r}: {_short(outcome.error)}")
                tally.skipped += 1
                continue
            (face,) = outcome.get().faces
            tally.people.add(whose[outcome.id])
            tally.there += face.face_id in before
            tally.enrolled += face.face_id not in before


def _create(client: Client, collection: str, purpose: str) -> None:
    try:
        client.collection(collection)
    except NotFoundError:
        client.put_collection(collection, purpose)


def _faces_of(client: Client, collection: str, source: Source) -> set[str]:
    """face_ids of the source's people that are enrolled already."""
    client.collection(collection)  # if there is none, that is said before a photo is read
    there = {each.name for each in client.subjects(collection)} & source.subjects
    return {face.face_id for name in there for face in client.subject(collection, name).faces}


def _read(source: Source, tally: _Tally) -> Iterator[tuple[str, str, bytes]]:
    for photo in source.photos:
        try:
            yield photo.id, photo.subject, servable(photo.read())
        except NoPhotoError:
            tally.vectors[photo.subject] += 1
        except (BadRecordError, OSError) as error:
            tally.skipped += 1
            _skip(f"photo {photo.id} of {photo.subject!r}: {error}")


def _skip(problem: str) -> None:
    click.echo(f"skipped: {_plain(' '.join(problem.split()))}", err=True)


def _plain(text: str) -> str:
    """Names of a source may hold anything, and some characters are commands to a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _short(error: FacesphereError) -> str:
    return f"{error.code}: {error.message}" if isinstance(error, ApiError) else str(error)


def _summary(source: Source, tally: _Tally, dry: bool) -> None:
    click.echo(f"{len(source.subjects)} people in the source, {len(source.photos)} photos of them")
    if not dry:
        there = f", {tally.there} were there already" if tally.there else ""
        click.echo(f"enrolled: {tally.enrolled} photos{there}; {len(tally.people)} people")
    if tally.skipped:
        click.echo(f"skipped: {tally.skipped} photos or records, a line each above")
    with_photo = {photo.subject for photo in source.photos} if dry else tally.people
    lost = {name: count for name, count in tally.vectors.items() if name not in with_photo}
    beside = sum(tally.vectors.values()) - sum(lost.values())
    if lost:
        click.echo(
            f"not importable: {len(lost)} people of whom there are only vectors of {_plain(source.model)}"
            f" ({sum(lost.values())} of them); enrol them from new photos:"
        )
        for name in sorted(lost)[:_LISTED]:
            click.echo(f"  {_plain(name)} ({lost[name]})")
        if len(lost) > _LISTED:
            click.echo(f"  and {len(lost) - _LISTED} others")
    if beside:
        click.echo(
            f"left out: {beside} vectors of {_plain(source.model)} without a photo, of people who have other photos"
        )
