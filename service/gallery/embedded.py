"""The embedded gallery: SQLite records and FAISS indexes in one process, kept in step.

A change is committed to the records first and then shown in the index. What a search finds in the index is looked up
in the records before it is answered, so a face that was erased in between is never named.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

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
from service.errors import GalleryUnavailableError, StorageError
from service.gallery.contract import LAST, SYSTEM, Erased, Least, Match, SearchState, same_contract
from service.gallery.folder import lock, refuse_moved, remove_scratch
from service.gallery.grouping import EXACT, Grouping, SearchOptions
from service.gallery.retention import SweepClock
from service.gallery.sharing import Lanes
from service.gallery.snapshots import Snapshots
from service.gallery.store import open_store, utc_now
from service.gallery.tiers import TieredIndex
from service.security.keyfolder import KeyFolder

log = logging.getLogger("facesphere.gallery")
SWEEP_CHUNK = 1000  # faces erased while others wait
_INDEXED_AT_ONCE = 512  # vectors that go into the index of another contract while others wait
_FACES_A_PERSON = 4  # that are asked of the index to begin with, for each person
_ATTEMPTS = 5  # at an index of another contract, beside which others cover and drop contracts


class EmbeddedGallery:
    """Collections of enrolled people in one folder, used by one process at a time."""

    def __init__(
        self,
        folder: Path,
        keys: KeyFolder,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        search: SearchOptions = EXACT,
    ) -> None:
        """Open a gallery, or begin one.

        Args:
            folder: of its files.
            keys: what they are encrypted with.
            now: the time.
            monotonic: seconds that no change of the clock touches.
            search: how it is searched.

        Raises:
            StorageError: another process uses the folder, or its files are damaged or not of these keys.
        """
        self._lock_file = lock(folder)
        self._given_up = False
        self._writing = threading.Lock()
        self._indexes: dict[str, TieredIndex] = {}
        self._others: dict[tuple[str, str], TieredIndex] = {}  # by collection and contract: not what is searched
        self._lanes = Lanes(search.threads)
        self._grouping = Grouping(lambda: list(self._indexes.values()), search)
        with contextlib.ExitStack() as undo:
            undo.callback(self._lock_file.close)
            refuse_moved(folder)
            remove_scratch(folder)
            self._snapshots = Snapshots(folder, keys.vault)
            store = open_store(folder, keys, now, before_erasure=self._snapshots.remove)
            undo.callback(store.close)
            self._store, self._database, self._errands, self._records = (
                store,
                store.database,
                store.errands,
                store.records,
            )
            self.keys, self.audit, self.jobs = store.keys, store.audit, store.jobs
            self._sweep_clock = SweepClock(now, monotonic, self._records)
            self._finish_erasing()  # an earlier process was stopped before it could
            self._build_indexes()
            undo.pop_all()

    def give_up(self) -> None:
        """End the making of indexes."""
        self._given_up = True
        self._grouping.stop()

    def close(self) -> None:
        """Close the files and give the folder free; what the next start is spared by is written first."""
        self._grouping.close()
        with self._writing:
            self.write_snapshots()
            self._store.close()
            self._lock_file.close()
        self._lanes.close()

    def put_collection(
        self, name: str, settings: CollectionSettings, model: ModelInfo, actor: str = SYSTEM
    ) -> tuple[Collection, bool]:
        """Create a collection, or change its settings; True if it was created."""
        with self._writing:
            created = self._records.put_collection(name, settings, model, actor)
            collection = self._records.collection(name)
            self._index(name, collection.model)
        return collection, created

    def collections(self) -> list[Collection]:
        """All collections by name."""
        return self._records.collections()

    def collection(self, name: str) -> Collection:
        """One collection; NotFoundError if there is none of that name."""
        return self._records.collection(name)

    def collection_info(self, name: str) -> tuple[CollectionSettings, ModelInfo]:
        """Settings and model of a collection, without counting its people; NotFoundError if there is none."""
        return self._records.collection_info(name)

    def size(self, collection: str) -> int:
        """Number of faces that a search would look at; NotFoundError if there is no such collection."""
        self._records.model_of(collection)
        index = self._indexes.get(collection)
        return 0 if index is None else len(index)

    def enrol(
        self, collection: str, contract_id: str, subject: str, faces: Sequence[NewFace], actor: str = SYSTEM
    ) -> list[StoredFace]:
        """Store faces durably, then make them searchable.

        Raises:
            NotFoundError: no such collection.
            ContractMismatchError: the vectors are not of the collection's contract.
            StorageFullError: no room; nothing changed.
        """
        with self._writing:
            same_contract(collection, self._records.model_of(collection), contract_id)
            stored = self._records.add_faces(collection, subject, faces, actor)
            new = [(row, face.embedding) for (row, _), face in zip(stored, faces, strict=True) if row is not None]
            if new:
                index = self._index(collection, self._records.model_of(collection))
                index.add([row for row, _ in new], np.stack([vector for _, vector in new]))
        return [face for _, face in stored]

    def note(
        self, actor: str, event: str, collection: str | None = None, subject: str | None = None, **detail: Any
    ) -> None:
        """A decision, in the audit log; collection and subject by name, which are not written there."""
        if collection is not None:
            detail["collection"], uid = self._records.uids(collection, subject)
            if subject is not None:
                detail["subject"] = uid
        self._store.trail.note(actor, event, **detail)

    def subject(self, collection: str, name: str) -> Subject:
        """A person and their faces, without vectors."""
        return self._records.subject(collection, name)

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name."""
        return self._records.subjects(collection, after, limit)

    def vectors_of(self, collection: str, contract_id: str, subject: str) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person."""
        return self._records.vectors_of(collection, subject, contract_id)

    def search(
        self, collection: str, contract_id: str, vector: Vector, limit: int, least: Least | None = None
    ) -> tuple[list[Match], int]:
        """The `limit` people nearest to a probe, each by their best face, and the number of faces searched.

        Whose face it is costs more to read than the face to find: of those below `least` only the nearest is named.

        Raises:
            NotFoundError: no such collection.
            ContractMismatchError: the probe is not of the collection's contract.
        """
        model = self._records.model_of(collection)
        # The index, and not what was just read, says what it is compared with: the model may change at any moment.
        index = self._indexes.get(collection) or self._new_index(model)
        same_contract(collection, model if index.contract_id == model.contract_id else _of(index), contract_id)
        size = len(index)
        threshold = -math.inf if least is None else least(size)
        wanted = _FACES_A_PERSON * limit
        while True:
            found = index.search(vector, wanted)
            near = [each for place, each in enumerate(found) if place == 0 or each[1] >= threshold]
            people = self._best_of_people(near, limit)
            if len(near) < len(found):  # whoever was not found is further away still
                return people, size
            # A person with many faces fills the list: look further until there are enough people, or all there are. How
            # many that is, what was found says, and not a size from before, to which others may have added.
            if len(people) >= limit or len(found) < wanted or len(people) == self._records.people(collection):
                return people, size
            wanted *= 4

    def erase(
        self, collection: str, subject: str | None = None, face_id: str | None = None, actor: str = SYSTEM
    ) -> Erased:
        """Erase a collection, a person or a face.

        Where another program reads the file, its bytes stay until the next erasure or sweep can overwrite them.

        Raises:
            NotFoundError: there is no such thing.
            StorageFullError, StorageError: it could not be written down. It may be erased already: then it is written
                down at the next erasure, sweep or start.
        """
        with self._writing:
            try:
                face_ids = self._erase(collection, subject, face_id, actor)
            except FaceError:
                with contextlib.suppress(FaceError):
                    self._finish_erasing()  # there may be bytes left of an earlier erasure
                raise
            return Erased(face_ids, self._finish_erasing())

    def export(self, collection: str, subject: str, actor: str = SYSTEM) -> SubjectExport:
        """All that is kept of a person. The log tells that it was asked for.

        Raises:
            NotFoundError: no such collection or person.
        """
        with self._database.holding():  # one state of it
            settings, model = self._records.collection_info(collection)
            person = self._records.subject(collection, subject)
            vectors = dict(self._records.vectors_of(collection, subject))
            crops = self._records.crops_of(collection, subject)
            others = self._records.other_vectors_of(collection, subject)
        self.note(actor, "export", collection, subject)
        return SubjectExport(collection, settings.purpose, person, vectors, crops, model, others)

    def erase_expired(self, now: datetime | None = None) -> int:
        """Erase the faces whose retention is over, and people who have no other; the number of faces.

        Without a time the clock is asked; nothing is erased while it is in doubt (retention.py).
        """
        moment, count, last = now or self._believed_now(), 0, SWEEP_CHUNK
        while moment is not None and last == SWEEP_CHUNK:
            last = self._erase_some_expired(moment)
            count += last
        with self._writing:
            self._finish_erasing()
        return count

    def models(self) -> list[tuple[str, str, ModelInfo]]:
        """Name, uid and model of every collection."""
        return self._records.models()

    def uid(self, collection: str) -> str:
        """The name by which jobs and the log know a collection; NotFoundError if there is none."""
        return self._records.uids(collection)[0]

    def coverage(self, collection: str, contract_id: str) -> Coverage:
        """How many faces have no vector under a contract."""
        return self._records.coverage(collection, contract_id)

    def uncovered(self, collection: str, contract_id: str, after: int, limit: int) -> list[StoredCrop]:
        """Crops of faces that have no vector under a contract."""
        return self._records.uncovered(collection, contract_id, after, limit)

    def cover(self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors under another contract, durably, and in an index of their own if there is one already."""
        with self._writing:
            self._add_to_other(collection, model, self._records.cover(collection, model, vectors))

    def two_vectors(self, collection: str, contract_id: str, limit: int) -> TwoVectors:
        """Vectors of the same faces under two contracts."""
        return self._records.two_vectors(collection, contract_id, limit)

    def switch(
        self,
        collection: str,
        model: ModelInfo,
        embed: Callable[[Sequence[StoredCrop]], Sequence[Vector]],
        actor: str = SYSTEM,
    ) -> bool:
        """Make another model the collection's. Its index is made beforehand, beside searches and enrolments.

        Raises:
            NotFoundError: no such collection.
            StorageFullError: no room; nothing was changed.
        """
        for _ in range(_ATTEMPTS):
            self._index_other(collection, model)
            with self._writing:
                coverage = self._records.coverage(collection, model.contract_id)
                if coverage.missing > LAST or coverage.without_crop:
                    return False
                if not self._index_is_whole(collection, model, coverage):
                    continue
                last = self._records.uncovered(collection, model.contract_id, 0, LAST) if coverage.missing else []
                vectors = embed(last) if last else []
                found = {crop.face_id: vector for crop, vector in zip(last, vectors, strict=True)}
                self._switch(collection, model, found, actor)
                return True
        return False

    def keep_contracts(self, collection: str, contract_ids: Sequence[str]) -> None:
        """Erase vectors under other contracts than these and the collection's own."""
        with self._writing:
            for contract in self._others_of(collection):
                if contract not in contract_ids:
                    self._others.pop((collection, contract), None)
            if self._records.drop_contracts(collection, contract_ids):
                self._finish_erasing()

    def _switch(self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector], actor: str) -> None:
        before = self._records.model_of(collection)
        if before.contract_id == model.contract_id:  # another name, of which no index and no snapshot knows
            self._records.set_model(collection, model, vectors, actor)
            return
        with self._snapshots.erasing():
            # Before the change: a snapshot of the old contract would be one of nothing, and would hold the old vectors.
            self._snapshots.remove(self._records.uids(collection)[0])
            added = self._records.set_model(collection, model, vectors, actor)
            self._add_to_other(collection, model, added)
            new = self._others.pop((collection, model.contract_id))
            old, self._indexes[collection] = self._index(collection, before), new
            old.ungroup()
            self._others[collection, before.contract_id] = old  # for the way back

    def _index_is_whole(self, collection: str, model: ModelInfo, coverage: Coverage) -> bool:
        """Whether the index of another contract holds all that is covered. It does not if somebody was covered behind
        the place that its making had come to, or if it was dropped meanwhile; then it is to be made anew."""
        if self._records.model_of(collection).contract_id == model.contract_id:
            return True
        index = self._others.get((collection, model.contract_id))
        if index is not None and len(index) == coverage.faces - coverage.missing:
            return True
        self._others.pop((collection, model.contract_id), None)
        return False

    def _index_other(self, collection: str, model: ModelInfo) -> None:
        """The index of vectors under another contract, made of the records if it is not there."""
        own = self._records.model_of(collection).contract_id == model.contract_id
        if own or (collection, model.contract_id) in self._others:
            return
        index, last = self._new_index(model), 0
        while True:
            with self._writing:  # so that nobody is erased between being read and being indexed
                numbers, vectors = self._records.vectors_under(collection, model, last, _INDEXED_AT_ONCE)
                if not numbers:
                    index.remove(list(index.rows() - self._index(collection, model).rows()))  # erased meanwhile
                    self._others[collection, model.contract_id] = index
                    return
                index.add(numbers, vectors)
                last = numbers[-1]
            if self._given_up:
                raise GalleryUnavailableError("the server is being stopped; nothing was changed")

    def _add_to_other(self, collection: str, model: ModelInfo, added: Sequence[tuple[int, Vector]]) -> None:
        index = self._others.get((collection, model.contract_id))
        if index is not None and added:
            index.add([number for number, _ in added], np.stack([vector for _, vector in added]))

    def write_snapshots(self) -> None:
        """Write down what spares the next start from reading the records, where much has changed (snapshots.py)."""
        self._snapshots.write_all(self._indexes, self._records.identity, self._records.tags_of)

    def tidy(self) -> None:
        """Archive the older part of a long audit log, and write snapshots."""
        self._grouping.look()
        self.audit.seal_if_long()
        self.write_snapshots()

    def search_state(self) -> SearchState:
        """How large collections are searched."""
        return self._grouping.state

    def _believed_now(self) -> datetime | None:
        with self._writing:
            moment = self._sweep_clock.now()
        if moment is None:
            log.warning("the clock has jumped: nothing is erased for its age until the clock has stood by it for a day")
        return moment

    def _erase_some_expired(self, now: datetime) -> int:
        """Erase a chunk and let others write in between."""
        count = 0
        with self._writing:
            if self._records.expired(now, 1):  # a sweep that erases nobody is no reason to give a snapshot up
                with self._snapshots.erasing():
                    for collection, rows in self._records.erase_expired(now, SWEEP_CHUNK):
                        self._forget(collection, rows)
                        count += len(rows)
        return count

    def _finish_erasing(self) -> bool:
        """Write down and overwrite what was erased, now or earlier; False if overwriting must wait."""
        try:
            self._errands.run()
        finally:
            if self._database.overwrite_pending:
                try:
                    self._database.overwrite_erased()
                except StorageError as error:
                    log.warning("%s; tried again at the next erasure or sweep", error.message)
        return not self._database.overwrite_pending

    def _erase(self, collection: str, subject: str | None, face_id: str | None, actor: str) -> list[str]:
        with self._snapshots.erasing():
            erased = self._records.erase(collection, subject, face_id, actor)
            if subject is None:
                self._indexes.pop(collection, None)
                for contract in self._others_of(collection):
                    self._others.pop((collection, contract), None)
            elif erased:
                self._forget(collection, [row for row, _ in erased])
        return [face for _, face in erased]

    def _index(self, collection: str, model: ModelInfo) -> TieredIndex:
        """The index of a collection; made if an error came between its first commit and this."""
        return self._indexes.setdefault(collection, self._new_index(model))

    def _forget(self, collection: str, rows: Sequence[int]) -> None:
        for index in (self._indexes.get(collection), *self._others_of(collection).values()):
            if index is not None:
                index.remove(rows)

    def _others_of(self, collection: str) -> dict[str, TieredIndex]:
        return {contract: index for (name, contract), index in self._others.items() if name == collection}

    def _build_indexes(self) -> None:
        for name, rows, vectors in self._records.vectors(self._snapshots):
            index = self._new_index(self._records.model_of(name))
            index.adopt(rows, vectors)
            self._indexes[name] = index
        self._snapshots.keep_only([self._records.uids(name)[0] for name in self._indexes])

    def _best_of_people(self, found: list[tuple[int, float]], limit: int) -> list[Match]:
        best: dict[str, Match] = {}
        for first in range(0, len(found), limit):  # best first, so the first face of a person is their best
            some = found[first : first + limit]
            names = self._records.names_of([row for row, _ in some])
            for row, similarity in some:
                if row in names and names[row].subject not in best:
                    subject, face_id, uid = names[row]
                    best[subject] = Match(subject, face_id, similarity, uid)
            if len(best) >= limit:
                break
        return list(best.values())[:limit]

    def _new_index(self, model: ModelInfo) -> TieredIndex:
        return TieredIndex(model.dimension, model.contract_id, self._lanes)


def _of(index: TieredIndex) -> ModelInfo:
    """What is known of the model of an index."""
    return ModelInfo("another model", index.contract_id, 0)
