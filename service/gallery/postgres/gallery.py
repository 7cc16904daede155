"""The gallery of several servers: one database, of which each of them may be killed at any moment."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from models.errors import FaceError
from service.domain import (
    Collection,
    CollectionSettings,
    Coverage,
    ModelInfo,
    NewFace,
    Page,
    StoredCrop,
    StoredFace,
    Subject,
    SubjectExport,
    TwoVectors,
    Vector,
)
from service.errors import StorageError
from service.gallery.contract import SYSTEM, Erased, Least, Match, SearchState
from service.gallery.postgres.changes import Changes
from service.gallery.postgres.connections import Connections
from service.gallery.postgres.contracts import Contracts
from service.gallery.postgres.database import Database, TableGoneError
from service.gallery.postgres.indexes import Indexes
from service.gallery.postgres.jobs import PostgresJobs
from service.gallery.postgres.key_table import PostgresKeyTable
from service.gallery.postgres.keyring import Keyring
from service.gallery.postgres.records import Records, counted
from service.gallery.postgres.replica import Replica
from service.gallery.postgres.rows import Tally
from service.gallery.postgres.schema import prepare
from service.gallery.postgres.search import Search
from service.gallery.postgres.signing import share_signing_key
from service.gallery.postgres.sweep import Sweep
from service.gallery.postgres.trail import PostgresTrail
from service.gallery.postgres.vectors import Vectors
from service.gallery.store import utc_now
from service.security.vault import MasterKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """The parts of a database, opened together; what the command line works on."""

    connections: Connections
    database: Database
    keyring: Keyring
    records: Records
    changes: Changes
    contracts: Contracts
    trail: PostgresTrail
    keys: PostgresKeyTable
    jobs: PostgresJobs

    @property
    def audit(self) -> PostgresTrail:
        """The log, as it is read."""
        return self.trail

    def close(self) -> None:
        """Close it; what of the log waits to be written is."""
        self.keys.close()
        self.trail.flush()
        self.connections.close()


def open_store(
    url: str, master: MasterKey, now: Callable[[], datetime] = utc_now, unfinished: bool = False
) -> PostgresStore:
    """Open the gallery of a database, whose tables are made at first use; `unfinished`: or one that is being copied.

    Raises:
        InvalidRequestError: `url` is none.
        GalleryUnavailableError: it cannot be reached.
        StorageError: it lacks something, was begun with another master key, or is not all there yet.
    """
    connections = Connections(url, "read-write")
    try:
        database = Database(connections, now)
        prepare(database, master)
        if not unfinished and database.one("SELECT migrating FROM store") != (None,):
            raise StorageError(
                "a gallery is being copied into this database, and not all of it is there: finish it with: "
                "facesphere gallery migrate"
            )
        keyring = Keyring(database, master)
        records = Records(database, keyring)
        trail = PostgresTrail(database, master.audit_key)
        vectors = Vectors(database, keyring)
        changes = Changes(database, keyring, records, vectors, trail)
        contracts = Contracts(database, keyring, records, vectors, changes, trail)
        keys = PostgresKeyTable(database, master, trail)
        jobs = PostgresJobs(database, master.store)
    except BaseException:
        connections.close()
        raise
    return PostgresStore(connections, database, keyring, records, changes, contracts, trail, keys, jobs)


class PostgresGallery:
    """Collections of enrolled people in a database. Calls may come from several threads."""

    def __init__(
        self,
        url: str,
        master: MasterKey,
        replica_url: str | None = None,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a gallery, or begin one.

        Args:
            url: of the database; with several hosts, the one that takes writes is used.
            master: what the keys of collections are wrapped with; the same for every server.
            replica_url: of a standby, which searches may be answered from.
            now: the time.
            monotonic: seconds that no change of the clock touches.

        Raises:
            FaceError: as `open_store`.
        """
        with contextlib.ExitStack() as undo:
            store = open_store(url, master, now)
            undo.callback(store.close)
            self._master = master
            self._store, self._records, self._changes = store, store.records, store.changes
            self._contracts = store.contracts
            self._replica = Replica(replica_url) if replica_url else None
            self._search = Search(store.database, store.keyring, store.records, self._replica)
            self._sweep = Sweep(store.database, store.records, store.changes, now, monotonic)
            self.indexes = Indexes(store.connections, store.records)
            self.keys, self.audit, self.jobs = store.keys, store.trail, store.jobs
            self.keys.start()
            self.indexes.start()
            undo.pop_all()

    def give_up(self) -> None:
        """End the building of indexes; the next server begins anew."""
        self.indexes.close()

    def close(self) -> None:
        """Stop what runs beside, and close all connections."""
        self.indexes.close()
        self._store.close()
        if self._replica is not None:
            self._replica.close()

    def share_signing_key(self, file: Path) -> None:
        """Have all servers sign receipts with one key, of which each has a copy in `file`."""
        share_signing_key(self._store.database, self._master, file)

    def put_collection(
        self, name: str, settings: CollectionSettings, model: ModelInfo, actor: str = SYSTEM
    ) -> tuple[Collection, bool]:
        """Create a collection, or change its settings; True if it was created."""
        row, created = self._changes.put_collection(name, settings, model, actor)
        return counted(row), created

    def collections(self) -> list[Collection]:
        """All collections by name."""
        return [counted(row) for row in self._records.all()]

    def models(self) -> list[tuple[str, str, ModelInfo]]:
        """Name, uid and model of every collection."""
        return [(row.name, row.uid, row.model) for row in self._records.all()]

    def collection(self, name: str) -> Collection:
        """One collection; NotFoundError if there is none of that name."""
        return counted(self._records.look_up(name))

    def collection_info(self, name: str) -> tuple[CollectionSettings, ModelInfo]:
        """Settings and model of a collection; NotFoundError if there is none."""
        row = self._records.look_up(name)
        return row.settings, row.model

    def size(self, collection: str) -> int:
        """Number of faces that a search would look at; NotFoundError if there is no such collection."""
        return Tally.of(self._records.look_up(collection)).faces

    def enrol(
        self, collection: str, contract_id: str, subject: str, faces: Sequence[NewFace], actor: str = SYSTEM
    ) -> list[StoredFace]:
        """Store faces durably, all or none; every server finds them from then on.

        Raises:
            NotFoundError: no such collection.
            ContractMismatchError: the vectors are not of the collection's contract.
            StorageFullError: no room; nothing changed.
            GalleryUnavailableError: `details["outcome"]` says what became of it.
        """
        return self._changes.enrol(collection, contract_id, subject, faces, actor)

    def note(
        self, actor: str, event: str, collection: str | None = None, subject: str | None = None, **detail: Any
    ) -> None:
        """A decision, in the audit log; collection and subject by name, which are not written there."""
        if collection is not None:
            row = self._records.look_up(collection)
            detail["collection"] = row.uid
            if subject is not None:
                person = self._records.find_subject(row, subject)
                detail["subject"] = person.uid if person else None
        self._store.trail.note(actor, event, **detail)

    def subject(self, collection: str, name: str) -> Subject:
        """A person and their faces, without vectors."""
        return self._records.subject(collection, name)

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name."""
        return self._records.subjects(collection, after, limit)

    def vectors_of(self, collection: str, contract_id: str, subject: str) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person."""
        return _twice(lambda: self._records.vectors_of(collection, contract_id, subject))

    def search(
        self, collection: str, contract_id: str, vector: Vector, limit: int, least: Least | None = None
    ) -> tuple[list[Match], int]:
        """The `limit` people nearest to a probe, each by their best face, and the number of faces searched.

        The names come with the rows here, so nobody is left out.

        Raises:
            NotFoundError: no such collection.
            ContractMismatchError: the probe is not of the collection's contract.
        """
        return self._search.nearest(collection, contract_id, vector, limit)

    def erase(
        self, collection: str, subject: str | None = None, face_id: str | None = None, actor: str = SYSTEM
    ) -> Erased:
        """Erase a collection, a person or a face.

        `overwritten` is never true here: the database's files, its log and its backups keep old rows, encrypted, for a
        time that is up to whoever runs it (docs/security.md).

        Raises:
            NotFoundError: there is no such thing.
        """
        if subject is None:
            face_ids = self._changes.erase_collection(collection, actor)
            with contextlib.suppress(FaceError):  # it is erased; `tidy` comes back to this
                self._store.keyring.forget_erased()
        else:
            face_ids = self._changes.erase_subject(collection, subject, face_id, actor)
        return Erased(face_ids, overwritten=False)

    def export(self, collection: str, subject: str, actor: str = SYSTEM) -> SubjectExport:
        """All that is kept of a person. The log tells that it was asked for.

        Raises:
            NotFoundError: no such collection or person.
        """
        document = _twice(lambda: self._exported(collection, subject))
        self.note(actor, "export", collection, subject)
        return document

    def erase_expired(self, now: datetime | None = None) -> int:
        """Erase the faces whose retention is over, and people who have no other; the number of faces.

        Without a time the clock is asked; nothing is erased while it is in doubt, nor while another server is at it.
        """
        return self._sweep.run(now)

    def uid(self, collection: str) -> str:
        """The name by which jobs and the log know a collection; NotFoundError if there is none."""
        return self._records.look_up(collection).uid

    def coverage(self, collection: str, contract_id: str) -> Coverage:
        """How many faces have no vector under a contract."""
        return _twice(lambda: self._contracts.coverage(collection, contract_id))

    def uncovered(self, collection: str, contract_id: str, after: int, limit: int) -> list[StoredCrop]:
        """Crops of faces that have no vector under a contract."""
        return _twice(lambda: self._contracts.uncovered(collection, contract_id, after, limit))

    def cover(self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors under another contract, durably, in a table of their own."""
        self._contracts.cover(collection, model, vectors)

    def two_vectors(self, collection: str, contract_id: str, limit: int) -> TwoVectors:
        """Vectors of the same faces under two contracts."""
        return _twice(lambda: self._contracts.two_vectors(collection, contract_id, limit))

    def switch(
        self,
        collection: str,
        model: ModelInfo,
        embed: Callable[[Sequence[StoredCrop]], Sequence[Vector]],
        actor: str = SYSTEM,
    ) -> bool:
        """Make another model the collection's. A large one is indexed for it first, beside searches and enrolments.

        Raises:
            NotFoundError: no such collection.
            GalleryUnavailableError: `details["outcome"]` says what became of it.
        """
        row, place = self._contracts.place_of(collection, model.contract_id)
        if place is not None and _twice(lambda: self._contracts.near(collection, model.contract_id)):
            self.indexes.build_before(row, model, place)
        return self._contracts.switch(collection, model, embed, actor)

    def keep_contracts(self, collection: str, contract_ids: Sequence[str]) -> None:
        """Erase vectors under other contracts than these and the collection's own."""
        self._contracts.keep(collection, contract_ids)

    def tidy(self) -> None:
        """Forget keys of what others have erased, and index what has grown."""
        self._store.keyring.forget_erased()
        self.indexes.look()

    def search_state(self) -> SearchState:
        """Not measured: the database searches, by an index of its own."""
        return SearchState(None, 0)

    def _exported(self, collection: str, subject: str) -> SubjectExport:
        with self._store.database.snapshot():
            row = self._records.look_up(collection)
            person = self._records.subject(collection, subject)
            vectors = dict(self._records.vectors_of(collection, None, subject))
            crops = self._records.crops_of(collection, subject)
            others = self._contracts.other_vectors_of(collection, subject)
        return SubjectExport(collection, row.settings.purpose, person, vectors, crops, row.model, others)


def _twice(read: Callable[[], T]) -> T:
    """What is read, from another table if one went meanwhile with the contract it was of."""
    try:
        return read()
    except TableGoneError:
        return read()
