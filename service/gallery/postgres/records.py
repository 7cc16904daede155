"""Reading collections, people and faces. Every row that is answered with is checked against its tag."""

from collections.abc import Iterator

from service.domain import Collection, Page, Subject, SubjectSummary, Vector
from service.errors import NotFoundError, StorageError
from service.gallery.contract import same_contract
from service.gallery.postgres.database import Database, Row, Witness
from service.gallery.postgres.keyring import Keyring
from service.gallery.postgres.rows import (
    COLLECTION,
    FACE,
    SUBJECT,
    CollectionRow,
    Place,
    Tally,
    checked_face,
    checked_subject,
    newest_change,
    opened_vector,
    stored,
    unchecked_collection,
    vector_under,
)
from service.gallery.sealing import FaceRow, SubjectRow, checked, crop_context

_CHUNK = 2000


class Records:
    """Calls may come from several threads."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    def find(self, name: str, lock: str = "") -> CollectionRow | None:
        """A collection, if there is one of that name; `lock` as SQL has it."""
        found = self.find_with_change(name, lock)
        return None if found is None else found[0]

    def find_with_change(self, name: str, lock: str = "") -> tuple[CollectionRow, Witness] | None:
        """The same, and what tells of its newest change."""
        row = self._database.one(f"SELECT {COLLECTION} FROM collections c WHERE c.name = %s{lock}", (name,))  # noqa: S608
        return None if row is None else (self._checked(row), newest_change(row))

    def look_up(self, name: str, lock: str = "") -> CollectionRow:
        """A collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        row = self.find(name, lock)
        if row is None:
            raise not_found(name)
        return row

    def all(self) -> list[CollectionRow]:
        """All collections by name."""
        rows = self._database.read(f"SELECT {COLLECTION} FROM collections c ORDER BY c.name")  # noqa: S608
        return [self._checked(row) for row in rows]

    def find_subject(self, collection: CollectionRow, name: str) -> SubjectRow | None:
        """A person, if there is one of that name."""
        row = self._database.one(
            f"SELECT {SUBJECT} FROM subjects s WHERE s.collection = %s AND s.name = %s",  # noqa: S608
            (collection.id, name),
        )
        return None if row is None else checked_subject(row, collection.uid, self._keyring.cipher(collection.uid))

    def look_up_subject(self, collection: CollectionRow, name: str) -> SubjectRow:
        """A person.

        Raises:
            NotFoundError: there is none of that name.
        """
        person = self.find_subject(collection, name)
        if person is None:
            raise NotFoundError(f"there is no subject {name!r} in {collection.name!r}", subject=name)
        return person

    def uids(self, collection: str, subject: str | None = None) -> tuple[str, str | None]:
        """The names that a collection and a person of it have in the audit log; None where there is no such person.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.snapshot():
            row = self.look_up(collection)
            found = None if subject is None else self.find_subject(row, subject)
        return row.uid, found.uid if found else None

    def subject(self, collection: str, name: str) -> Subject:
        """A person and what is kept of their faces, oldest first."""
        with self._database.snapshot():
            row = self.look_up(collection)
            person = self.look_up_subject(row, name)
            faces = [face for face, _ in self.faces_of(row, person, "")]
        return Subject(name, person.created_at, [stored(face) for face in faces])

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name, those after `after`, at most `limit`."""
        with self._database.snapshot():
            row = self.look_up(collection)
            rows = self._database.read(
                f"SELECT {SUBJECT}, (SELECT count(*) FROM faces_{row.id} f WHERE f.subject = s.id) FROM subjects s"  # noqa: S608
                " WHERE s.collection = %s AND s.name > %s ORDER BY s.name LIMIT %s",
                (row.id, after, limit + 1),
            )
        cipher = self._keyring.cipher(row.uid)
        people = [(checked_subject(each, row.uid, cipher), each[5]) for each in rows[:limit]]
        shown = [SubjectSummary(person.name, person.created_at, count) for person, count in people]
        return Page(shown, shown[-1].name if len(rows) > limit else None)

    def vectors_of(self, collection: str, contract_id: str | None, subject: str) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person; a contract that is not the collection's is refused."""
        with self._database.snapshot():
            row = self.look_up(collection)
            if contract_id is not None:
                same_contract(row.name, row.model, contract_id)
            faces = self.faces_of(row, self.look_up_subject(row, subject), f", {row.place.vector}")
        cipher = self._keyring.cipher(row.uid)
        return [(face.face_id, opened_vector(face, sealed, row, cipher)) for face, (sealed,) in faces]

    def crops_of(self, collection: str, subject: str) -> dict[str, bytes]:
        """The stored crop, a PNG, of each face of a person that has one, by face_id."""
        with self._database.snapshot():
            row = self.look_up(collection)
            faces = self.faces_of(row, self.look_up_subject(row, subject), ", f.crop")
        cipher = self._keyring.cipher(row.uid)
        return {
            face.face_id: cipher.open(bytes(crop), crop_context(face.face_id))
            for face, (crop,) in faces
            if crop is not None
        }

    def check(self) -> Iterator[tuple[str, int]]:
        """Read and check every row, vectors under other contracts too: each collection's name and number of faces.

        Raises:
            StorageError: a row was changed, or is missing.
        """
        with self._database.snapshot():
            for row in self.all():
                yield row.name, self._check(row)

    def _check(self, row: CollectionRow) -> int:
        cipher = self._keyring.cipher(row.uid)
        found = Tally()
        people: dict[int, str] = {}
        for each in self._database.read(f"SELECT {SUBJECT} FROM subjects s WHERE s.collection = %s", (row.id,)):  # noqa: S608
            people[each[0]] = checked_subject(each, row.uid, cipher).uid
            found = found.changed(1, 0, [bytes(each[4])])
        others = self._other_places(row)
        for each in self.faces_by_chunk(row, *others.values()):
            face = checked_face(each, people.get(each[8], ""), cipher)
            opened_vector(face, each[9], row, cipher)
            for contract, sealed in zip(others, each[11:], strict=True):
                if sealed is not None:
                    vector_under(contract, face, sealed, cipher)
            found = found.changed(0, 1, [bytes(each[7])])
        if found != Tally.of(row):
            raise StorageError(f"the gallery is damaged: people or faces of collection {row.name} are missing")
        return found.faces

    def _other_places(self, row: CollectionRow) -> dict[str, Place]:
        rows = self._database.read(
            "SELECT contract_id, place FROM contracts WHERE collection = %s AND contract_id <> %s ORDER BY place",
            (row.id, row.model.contract_id),
        )
        return {contract: Place(row.id, number) for contract, number in rows}

    def faces_by_chunk(self, row: CollectionRow, *others: Place) -> Iterator[Row]:
        """Rows of all faces of a collection: each with the number of its person, its vector, its crop and its vectors
        in other places."""
        more = "".join(f", {place.vector}" for place in others)
        last = 0
        while True:
            rows = self._database.read(
                f"SELECT {FACE}, f.subject, {row.place.vector}, f.crop{more} FROM faces_{row.id} f"  # noqa: S608
                " WHERE f.collection = %s AND f.id > %s ORDER BY f.id LIMIT %s",
                (row.id, last, _CHUNK),
            )
            if not rows:
                return
            yield from rows
            last = rows[-1][0]

    def faces_of(self, row: CollectionRow, person: SubjectRow, more: str) -> list[tuple[FaceRow, Row]]:
        """Faces of a person, oldest first, with more columns of each."""
        rows = self._database.read(
            f"SELECT {FACE}{more} FROM faces_{row.id} f WHERE f.subject = %s ORDER BY f.id",  # noqa: S608
            (person.id,),
        )
        cipher = self._keyring.cipher(row.uid)
        return [(checked_face(each, person.uid, cipher), each[8:]) for each in rows]

    def _checked(self, row: Row) -> CollectionRow:
        collection = unchecked_collection(row)
        checked(collection, bytes(row[13]), self._keyring.open(row[1], row[16]))
        return collection


def counted(row: CollectionRow) -> Collection:
    """A collection as callers see it."""
    tally = Tally.of(row)
    return Collection(row.name, row.settings, row.model, tally.subjects, tally.faces, row.created_at)


def not_found(name: str) -> NotFoundError:
    """There is no such collection."""
    return NotFoundError(f"there is no collection {name!r}", collection=name)
