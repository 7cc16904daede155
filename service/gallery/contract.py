"""What a gallery is, whichever engine keeps it: one process's own files (embedded.py), or PostgreSQL (postgres/)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from service.domain import (
    Collection,
    CollectionSettings,
    Coverage,
    Job,
    JobKind,
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
from service.errors import ContractMismatchError
from service.security.keys import ApiKey, KeyGrant, KeyTable

SYSTEM = "system"  # who does what nobody asked for, such as the retention sweep


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased. Unless `overwritten`, its bytes may be on the disk for some time still."""

    face_ids: list[str]
    overwritten: bool


Least = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Match:
    """The best face of an enrolled person for a probe."""

    subject: str
    face_id: str
    similarity: float
    subject_uid: str


@dataclass(frozen=True, slots=True)
class SearchState:
    """The share of near faces that approximate searches find (1 if there are none, None if it is not measured), and how
    many faces are searched so."""

    recall: float | None
    approximate_faces: int


class Keys(KeyTable, Protocol):
    """API keys, and what may be done to them. When a change returns, every server goes by it."""

    def create(self, grant: KeyGrant, actor: str) -> tuple[ApiKey, str]:
        """A new key, and the text of it, which is kept nowhere."""
        ...

    def revoke(self, key_id: str, actor: str) -> ApiKey:
        """The key opens nothing from now on; NotFoundError if there is none of that id."""
        ...

    def rotate(self, key_id: str, grace: timedelta, actor: str) -> tuple[ApiKey, str]:
        """A new key with the rights of an old one, which goes on working for a while."""
        ...

    def list(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        ...

    def note_used(self, used: Mapping[str, datetime]) -> None:
        """When keys were used last."""
        ...


class Log(Protocol):
    """The audit log, as it is read."""

    def page(self, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` entries, newest first, those before entry `before`."""
        ...


class Jobs(Protocol):
    """What is done about models in the background, and was; it survives the program that does it."""

    def create(self, kind: JobKind, model_id: str, actor: str) -> Job:
        """A new job, queued."""
        ...

    def get(self, job_id: str) -> Job:
        """One job; NotFoundError if there is none of that id."""
        ...

    def list(self, limit: int = 100) -> Sequence[Job]:
        """The newest jobs, newest first."""
        ...

    def update(self, job: Job) -> Job:
        """Write down state, progress, error and result, unless it was cancelled meanwhile; the job as it is now."""
        ...

    def conclude(self, job_id: str, uid: str, outcome: dict[str, object]) -> Job:
        """What became of a collection, in a job that may be over by now; the job as it is now."""
        ...

    def cancel_open(self) -> None:
        """Cancel all that are queued or running."""
        ...

    def turn(self) -> AbstractContextManager[bool]:
        """False while another server works on jobs; inside of it, none does."""
        ...


LAST = 64  # faces that may be embedded while everybody who enrols waits


def same_contract(collection: str, model: ModelInfo, contract_id: str) -> None:
    """Raises ContractMismatchError where vectors are not of a collection's contract."""
    if model.contract_id != contract_id:
        raise ContractMismatchError(
            f"collection {collection!r} is of model {model.id} (contract {model.contract_id}), "
            f"the vector of contract {contract_id}",
            collection_contract_id=model.contract_id,
            server_contract_id=contract_id,
        )


class Gallery(Protocol):
    """Collections of enrolled people. Calls may come from several threads; what an answered call did is durable.

    Names that are not there are NotFoundError, vectors of another contract ContractMismatchError, a full disk
    StorageFullError and a database that cannot be reached GalleryUnavailableError, in every call.
    """

    @property
    def keys(self) -> Keys:
        """API keys."""
        ...

    @property
    def audit(self) -> Log:
        """What was done and decided."""
        ...

    @property
    def jobs(self) -> Jobs:
        """What is done about models."""
        ...

    def give_up(self) -> None:
        """End what takes long and can be begun anew, such as the making of an index: the program is about to end.

        A call that waits for it is a GalleryUnavailableError that changed nothing.
        """
        ...

    def close(self) -> None:
        """Finish and give everything free."""
        ...

    def put_collection(
        self, name: str, settings: CollectionSettings, model: ModelInfo, actor: str = SYSTEM
    ) -> tuple[Collection, bool]:
        """Create a collection, or change its settings; True if it was created."""
        ...

    def collections(self) -> list[Collection]:
        """All collections by name."""
        ...

    def collection(self, name: str) -> Collection:
        """One collection."""
        ...

    def collection_info(self, name: str) -> tuple[CollectionSettings, ModelInfo]:
        """Settings and model of a collection, in a time that does not grow with its people."""
        ...

    def size(self, collection: str) -> int:
        """Number of faces that a search would look at."""
        ...

    def enrol(
        self, collection: str, contract_id: str, subject: str, faces: Sequence[NewFace], actor: str = SYSTEM
    ) -> list[StoredFace]:
        """Store faces of a person, who is created if new: all of them or none. One that the same request has stored
        before is not stored again, and answered as it is."""
        ...

    def note(
        self, actor: str, event: str, collection: str | None = None, subject: str | None = None, **detail: Any
    ) -> None:
        """A decision, in the audit log; collection and subject by name, which are not written there."""
        ...

    def subject(self, collection: str, name: str) -> Subject:
        """A person and their faces, without vectors."""
        ...

    def subjects(self, collection: str, after: str, limit: int) -> Page:
        """People by name, those after `after`."""
        ...

    def vectors_of(self, collection: str, contract_id: str, subject: str) -> list[tuple[str, Vector]]:
        """face_id and vector of every face of a person."""
        ...

    def search(
        self, collection: str, contract_id: str, vector: Vector, limit: int, least: Least | None = None
    ) -> tuple[list[Match], int]:
        """The `limit` people nearest to a probe, each by their best face, and the number of faces searched.

        `least` says, of that number, from which similarity on people matter: those below, except for the nearest, may
        be left out.
        """
        ...

    def erase(
        self, collection: str, subject: str | None = None, face_id: str | None = None, actor: str = SYSTEM
    ) -> Erased:
        """Erase a collection, a person or a face."""
        ...

    def export(self, collection: str, subject: str, actor: str = SYSTEM) -> SubjectExport:
        """All that is kept of a person. The log tells that it was asked for."""
        ...

    def erase_expired(self, now: datetime | None = None) -> int:
        """Erase the faces whose retention is over, and people who have no other; the number of faces."""
        ...

    def models(self) -> list[tuple[str, str, ModelInfo]]:
        """Name, uid and model of every collection, by name, in a time that does not grow with their people."""
        ...

    def uid(self, collection: str) -> str:
        """The name by which jobs and the log know a collection."""
        ...

    def coverage(self, collection: str, contract_id: str) -> Coverage:
        """How many faces have no vector under a contract."""
        ...

    def uncovered(self, collection: str, contract_id: str, after: int, limit: int) -> list[StoredCrop]:
        """Crops of up to `limit` faces that have no vector under a contract, those with numbers above `after`."""
        ...

    def cover(self, collection: str, model: ModelInfo, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors under another contract beside the collection's own, by face_id; who was erased is left out."""
        ...

    def two_vectors(self, collection: str, contract_id: str, limit: int) -> TwoVectors:
        """Of up to `limit` faces that have a vector under both: the collection's own, and under another contract."""
        ...

    def switch(
        self,
        collection: str,
        model: ModelInfo,
        embed: Callable[[Sequence[StoredCrop]], Sequence[Vector]],
        actor: str = SYSTEM,
    ) -> bool:
        """Make another model the collection's, at once and for all its faces.

        Faces that have no vector of it yet are embedded first, while nobody enrols. False, and nothing is changed, if
        there are too many of them to wait for (`LAST`), or one has no crop.
        """
        ...

    def keep_contracts(self, collection: str, contract_ids: Sequence[str]) -> None:
        """Erase vectors under other contracts than these and the collection's own; what a face was enrolled with
        stays."""
        ...

    def tidy(self) -> None:
        """What keeps a gallery that grows as it should be; asked for now and then."""
        ...

    def search_state(self) -> SearchState:
        """How large collections are searched."""
        ...
