"""What the records answer: collections, people, and whose face a row is."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from service.domain import Collection, CollectionSettings, ModelInfo, Page, Subject, SubjectSummary, Vector
from service.gallery.contract import same_contract
from service.gallery.rows import (
    COLLECTION,
    FACE,
    SUBJECT,
    VECTOR,
    Rows,
    checked_face,
    checked_subject,
    face_and_vector,
    stored,
)
from service.gallery.sealing import CollectionRow, crop_context


class Named(NamedTuple):
    """Whose face a row is."""

    subject: str
    face_id: str
    subject_uid: str


class Reading(Rows):
    """Calls may come from several threads; none waits for a writer."""

    def collections(self, name: str | None = None) -> list[Collection]:
        """All collections by name, or the one of that name."""
        with self._database.holding():
            rows = self._database.read(
                f"SELECT {COLLECTION} FROM collections WHERE ?1 IS NULL OR name = ?1 ORDER BY name",  # noqa: S608
                (name,),
            )
            return [self._counted(self._checked_collection(row)) for row in rows]

    def models(self) -> list[tuple[str, str, ModelInfo]]:
        """Name, uid and model of every collection by name; nobody is counted."""
        with self._database.holding():
            rows = [
                self._checked_collection(row)
                for row in self._database.read(f"SELECT {COLLECTION} FROM collections ORDER BY name")  # noqa: S608
            ]
        return [(row.name, row.uid, row.model) for row in rows]

    def collection(self, name: str) -> Collection:
        """One collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.holding():
            return self._counted(self._look_up(name))

    def collection_info(self, name: str) -> tuple[CollectionSettings, ModelInfo]:
        """Settings and model of a collection, in a time that does not grow with its people.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.holding():
            row = self._look_up(name)
        return row.settings, row.model

    def model_of(self, name: str) -> ModelInfo:
        """The model of a collection, as cheaply.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self.collection_info(name)[1]

    def people(self, collection: str) -> int:
        """How many people there are in a collection, those without a face too; 0 if there is no such collection."""
        row = self._database.one(
            "SELECT count(*) FROM subjects s JOIN collections c ON c.id = s.collection WHERE c.name = ?", (collection,)
        )
        return row[0] if row else 0

    def uids(self, collection: str, subject: str | None = None) -> tuple[str, str | None]:
        """The names that a collection and a person of it have in the audit log; None where there is no such person.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            found = None if subject is None else self._find_subject(row, subject)
        return row.uid, found.uid if found else None

    def identity(self, name: str) -> tuple[str, ModelInfo]:
        """uid and model of a collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.holding():
            row = self._look_up(name)
        return row.uid, row.model

    def subject(self, collection: str, name: str) -> Subject:
        """A person and what is kept of their faces, oldest first.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():
            row = self._look_up(collection)
            person = self._look_up_subject(row, name)
            rows = self._database.read(f"SELECT {FACE} FROM faces f WHERE f.subject = ? ORDER BY f.id", (person.id,))  # noqa: S608
            cipher = self._vault.cipher(row.uid)
            faces = [checked_face(each, person.uid, cipher) for each in rows]
        return Subject(name, person.created_at, [stored(face) for face in faces])

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name, those after `after`, at most `limit`.

        Raises:
            NotFoundError: no such collection.
        """
        with self._database.holding():
            row = self._look_up(collection)
            rows = self._database.read(
                f"SELECT {SUBJECT}, (SELECT count(*) FROM faces f WHERE f.subject = s.id) FROM subjects s"  # noqa: S608
                " WHERE s.collection = ? AND s.name > ? ORDER BY s.name LIMIT ?",
                (row.id, after, limit + 1),
            )
            cipher = self._vault.cipher(row.uid)
            people = [(checked_subject(each, row.uid, cipher), each[5]) for each in rows[:limit]]
        shown = [SubjectSummary(person.name, person.created_at, count) for person, count in people]
        return Page(shown, shown[-1].name if len(rows) > limit else None)

    def vectors_of(self, collection: str, subject: str, contract_id: str | None = None) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person.

        Raises:
            NotFoundError: no such collection or person.
            ContractMismatchError: a contract is named that is not the collection's.
        """
        with self._database.holding():
            row = self._look_up(collection)
            if contract_id is not None:
                same_contract(row.name, row.model, contract_id)
            person = self._look_up_subject(row, subject)
            rows = self._database.read(
                f"SELECT {FACE}, {VECTOR} FROM faces f WHERE f.subject = ?2 ORDER BY f.id",  # noqa: S608
                (row.model.contract_id, person.id),
            )
            cipher = self._vault.cipher(row.uid)
            return [face_and_vector(each, person.uid, row, cipher) for each in rows]

    def crops_of(self, collection: str, subject: str) -> dict[str, bytes]:
        """The stored crop, a PNG, of each face of a person that has one, by face_id.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():
            row = self._look_up(collection)
            person = self._look_up_subject(row, subject)
            rows = self._database.read(
                "SELECT face_id, crop FROM faces WHERE subject = ? AND crop IS NOT NULL ORDER BY id", (person.id,)
            )
            cipher = self._vault.cipher(row.uid)
            return {face_id: cipher.open(crop, crop_context(face_id)) for face_id, crop in rows}

    def names_of(self, rows: Sequence[int]) -> dict[int, Named]:
        """Whose face it is, of those of the rows that still exist."""
        found = self._database.read(
            f"SELECT {FACE}, {SUBJECT}, c.uid FROM faces f JOIN subjects s ON s.id = f.subject"  # noqa: S608
            " JOIN collections c ON c.id = s.collection WHERE f.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(rows)),),
        )
        names = {}
        for each in found:
            if not self._vault.knows(each[13]):
                continue  # its collection is being erased
            cipher = self._vault.cipher(each[13])
            person = checked_subject(each[8:13], each[13], cipher)
            names[each[0]] = Named(person.name, checked_face(each, person.uid, cipher).face_id, person.uid)
        return names

    def _counted(self, row: CollectionRow) -> Collection:
        counts = self._database.one(
            "SELECT (SELECT count(*) FROM subjects WHERE collection = ?1),"
            " (SELECT count(*) FROM subjects s JOIN faces f ON f.subject = s.id WHERE s.collection = ?1)",
            (row.id,),
        )
        subjects, faces = counts or (0, 0)
        return Collection(row.name, row.settings, row.model, subjects, faces, row.created_at)
