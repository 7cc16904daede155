"""An embedded gallery into PostgreSQL: copied in portions, each a transaction, and compared as a whole at the end.

It may be stopped at any moment: who is there already is left out when it goes on. Until all is there, and the same, no
server opens the database. People keep their names, ids and dates, and the random names that the log knows them by;
vectors are encrypted anew, under keys that only the database has. The old log stays where it is; the first entry of
the new one says how far it had come.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from service.domain import Collection, NewFace, Subject, Vector
from service.errors import StorageError
from service.gallery.contract import SYSTEM
from service.gallery.postgres.changes import DatedFace
from service.gallery.postgres.gallery import PostgresStore
from service.gallery.postgres.records import counted
from service.gallery.postgres.rows import CollectionRow, Tally, with_tally
from service.gallery.store import Store
from service.security.vault import canonical

_PORTION = 200  # people in a transaction
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Copied:
    """A collection as it is on both sides."""

    subjects: int
    faces: int
    digest: str


@dataclass(frozen=True, slots=True)
class _Person:
    """All that is kept of somebody."""

    uid: str | None
    subject: Subject
    vectors: Mapping[str, Vector]
    crops: Mapping[str, bytes]


def migrate(source: Store, target: PostgresStore, progress: Callable[[int, int], None]) -> dict[str, Copied]:
    """Copy everything and compare it.

    Args:
        source: an embedded gallery that nothing else writes to.
        target: a database, empty or with a part of the same gallery.
        progress: is told how many faces of how many are read or compared.

    Raises:
        StorageError: the database has something else in it, or in the end not the same.
    """
    _begin(source, target)
    for key in source.keys.list():
        with target.database.transaction():
            target.keys.adopt(key)
    collections = source.records.collections()
    counter = _Counter(3 * sum(each.faces for each in collections), progress)
    for collection in collections:
        _copy(source, target, collection, counter)
    copied = {each.name: _compared(source, target, each, counter) for each in collections}
    _check_all_there(source, target)
    with target.database.transaction():
        target.database.write("UPDATE store SET migrating = NULL")
        target.trail.add(SYSTEM, "store.migrated", collections=len(copied))
    return copied


def _check_all_there(source: Store, target: PostgresStore) -> None:
    """Collections and keys that were erased or changed in the files since the copy was begun."""
    here = {(each.name, source.records.uids(each.name)[0]) for each in source.records.collections()}
    there = {(row.name, row.uid) for row in target.records.all()}
    if here != there:
        name = min(name for name, _ in here ^ there)
        raise StorageError(
            f"collection {name} is on one side only, or another on each: the files were changed since the copy was "
            "begun; drop the schema facesphere of the database and begin anew"
        )
    keys = [{replace(each, last_used_at=None) for each in table.list()} for table in (source.keys, target.keys)]
    if keys[0] != keys[1]:
        raise StorageError("the API keys are not the same on both sides; drop the schema facesphere and begin anew")


class _Counter:
    """How far it is."""

    def __init__(self, total: int, show: Callable[[int, int], None]) -> None:
        self._done, self._total, self._show = 0, total, show

    def add(self, faces: int) -> None:
        self._done += faces
        self._show(self._done, self._total)


def _begin(source: Store, target: PostgresStore) -> None:
    uid = _uid(source)
    with target.database.transaction():
        (migrating,) = target.database.read("SELECT migrating FROM store FOR UPDATE")[0]
        if migrating == uid:
            return
        if migrating is not None or target.records.all() or target.keys.list():
            raise StorageError("the database has another gallery in it: name an empty one")
        seq, mac = source.trail.head()
        target.database.write("UPDATE store SET migrating = %s", (uid,))
        target.trail.add(SYSTEM, "store.migrate", source=uid, entry=seq, tag=mac.hex())


def _uid(source: Store) -> str:
    ((uid,),) = source.database.read("SELECT uid FROM store")
    return str(uid)


def _copy(source: Store, target: PostgresStore, collection: Collection, counter: _Counter) -> None:
    uid, _ = source.records.uids(collection.name)
    with target.database.transaction():
        if target.records.find(collection.name) is None:
            settings, model = collection.settings, collection.model
            target.changes.add_collection(collection.name, settings, model, collection.created_at, SYSTEM, uid)
    portion: list[_Person] = []
    for person in _people_in_files(source, collection.name):
        portion.append(person)
        if len(portion) == _PORTION:
            _add(target, collection.name, portion)
            counter.add(_faces(portion))
            portion = []
    _add(target, collection.name, portion)
    counter.add(_faces(portion))


def _add(target: PostgresStore, collection: str, people: Sequence[_Person]) -> None:
    """Those of them who are not there yet, in one transaction."""
    with target.database.transaction():
        row = target.records.look_up(collection, " FOR NO KEY UPDATE")
        there = {
            name
            for (name,) in target.database.read(
                "SELECT name FROM subjects WHERE collection = %s AND name = ANY(%s)",
                (row.id, [person.subject.name for person in people]),
            )
        }
        new = [person for person in people if person.subject.name not in there]
        if not new:
            return
        for person in new:
            row = _adopt(target, row, person)
        witness = target.trail.add(SYSTEM, "store.adopt", collection=row.uid, subjects=len(new), faces=_faces(new))
        target.changes.update_tally(row, Tally.of(row), witness)


def _adopt(target: PostgresStore, row: CollectionRow, person: _Person) -> CollectionRow:
    faces = [
        DatedFace(
            face.face_id,
            face.created_at,
            NewFace(person.vectors[face.face_id], face.quality, face.consent, person.crops.get(face.face_id)),
        )
        for face in person.subject.faces
    ]
    subject = person.subject
    _, _, tally = target.changes.add_faces(row, subject.name, subject.created_at, faces, person.uid)
    return with_tally(row, tally)


def _faces(people: Sequence[_Person]) -> int:
    return sum(len(person.subject.faces) for person in people)


def _people_in_files(source: Store, collection: str) -> Iterator[_Person]:
    cursor: str | None = ""
    while cursor is not None:
        page = source.records.subjects(collection, cursor, _PAGE)
        for each in page.subjects:
            yield _Person(
                source.records.uids(collection, each.name)[1],
                source.records.subject(collection, each.name),
                dict(source.records.vectors_of(collection, each.name)),
                source.records.crops_of(collection, each.name),
            )
        cursor = page.next_cursor


def _people_in_database(target: PostgresStore, collection: str) -> Iterator[_Person]:
    cursor: str | None = ""
    while cursor is not None:
        page = target.records.subjects(collection, cursor, _PAGE)
        for each in page.subjects:
            yield _Person(
                None,
                target.records.subject(collection, each.name),
                dict(target.records.vectors_of(collection, None, each.name)),
                target.records.crops_of(collection, each.name),
            )
        cursor = page.next_cursor


def _compared(source: Store, target: PostgresStore, collection: Collection, counter: _Counter) -> Copied:
    row = target.records.look_up(collection.name)
    one = _digest(collection, _people_in_files(source, collection.name), counter)
    other = _digest(counted(row), _people_in_database(target, collection.name), counter)
    if one != other:
        raise StorageError(
            f"collection {collection.name} is not the same on both sides: {one.subjects} people and {one.faces} faces "
            f"here, {other.subjects} and {other.faces} there; drop the schema facesphere of the database and begin anew"
        )
    return one


def _digest(collection: Collection, people: Iterator[_Person], counter: _Counter) -> Copied:
    """SHA-256 over the content of a collection, in order of names and of face_ids, as it is without any encryption."""
    settings, model = collection.settings, collection.model
    about = (settings.purpose, settings.retention_days, settings.store_crops, settings.require_consent)
    digest = hashlib.sha256(
        canonical((*about, settings.target_fmr, model.id, model.contract_id, model.dimension, collection.created_at))
    )
    subjects = faces = 0
    for person in people:
        digest.update(canonical((person.subject.name, person.subject.created_at, len(person.subject.faces))))
        for face in sorted(person.subject.faces, key=lambda each: each.face_id):
            vector = person.vectors[face.face_id].astype("<f4").tobytes()
            about_face = (face.face_id, face.quality, face.consent, face.created_at)
            digest.update(canonical((*about_face, vector, person.crops.get(face.face_id))))
        subjects, faces = subjects + 1, faces + len(person.subject.faces)
        counter.add(len(person.subject.faces))
    return Copied(subjects, faces, digest.hexdigest()[:32])
