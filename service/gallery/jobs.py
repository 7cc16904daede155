"""Jobs about models, in the records' file: what was asked for and how far it is, whoever is stopped in between."""

import contextlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace

from service.domain import OPEN_STATES, Job, JobKind
from service.errors import NotFoundError, StorageError
from service.gallery.database import Database, Row
from service.security.vault import Cipher

COLUMNS = "id, kind, model_id, actor, state, progress, error, result, created_at, updated_at"
KEPT = 1000  # the newest


class SqliteJobs:
    """Jobs of an embedded gallery."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        """`cipher` makes the tags of their rows."""
        self._database = database
        self._cipher = cipher

    def create(self, kind: JobKind, model_id: str, actor: str) -> Job:
        """A new job, queued."""
        job = new_job(kind, model_id, actor, self._database.now())
        with self._database.transaction():
            ((number,),) = self._database.read("SELECT coalesce(max(number), 0) + 1 FROM jobs")
            self._database.write(
                f"INSERT INTO jobs (number, {COLUMNS}, mac) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
                (number, *values(job), job_mac(job, self._cipher)),
            )
            self._database.write("DELETE FROM jobs WHERE number <= ?", (number - KEPT,))
        return job

    def get(self, job_id: str) -> Job:
        """One job; NotFoundError if there is none of that id."""
        row = self._database.one(f"SELECT {COLUMNS}, mac FROM jobs WHERE id = ?", (job_id,))  # noqa: S608
        if row is None:
            raise NotFoundError(f"there is no job {job_id!r}", job=job_id)
        return job_of(row, self._cipher)

    def list(self, limit: int = 100) -> Sequence[Job]:
        """The newest jobs, newest first."""
        rows = self._database.read(
            f"SELECT {COLUMNS}, mac FROM jobs ORDER BY number DESC LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [job_of(row, self._cipher) for row in rows]

    def update(self, job: Job) -> Job:
        """Write down how far a job is, unless it was cancelled meanwhile; the job as it is now."""
        with self._database.transaction():
            there = self.get(job.id)
            if there.state not in OPEN_STATES:
                return there
            changed = replace(job, updated_at=self._database.now())
            self._write(changed)
        return changed

    def conclude(self, job_id: str, uid: str, outcome: dict[str, object]) -> Job:
        """What became of a collection, in a job that may be over by now; the job as it is now."""
        with self._database.transaction():
            there = self.get(job_id)
            changed = replace(there, result={**there.result, uid: outcome}, updated_at=self._database.now())
            self._write(changed)
        return changed

    def cancel_open(self) -> None:
        """Cancel all that are queued or running."""
        with self._database.transaction():
            for job in self.list(KEPT):
                if job.state in OPEN_STATES:
                    self._write(replace(job, state="cancelled", updated_at=self._database.now()))

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """One process has the file: it is always its turn."""
        yield True

    def _write(self, job: Job) -> None:
        self._database.write(
            "UPDATE jobs SET state=?, progress=?, error=?, result=?, updated_at=?, mac=? WHERE id=?",
            (
                job.state,
                job.progress,
                job.error,
                result_text(job),
                job.updated_at,
                job_mac(job, self._cipher),
                job.id,
            ),
        )


def new_job(kind: JobKind, model_id: str, actor: str, now: str) -> Job:
    """A job that nobody has begun."""
    return Job(uuid.uuid4().hex, kind, model_id, actor, "queued", 0.0, None, {}, now, now)


def result_text(job: Job) -> str:
    """The one form of a result."""
    return json.dumps(job.result, sort_keys=True, separators=(",", ":"))


def values(job: Job) -> tuple[object, ...]:
    """In the order of COLUMNS."""
    about = (job.id, job.kind, job.model_id, job.actor, job.state, float(job.progress), job.error)
    return (*about, result_text(job), job.created_at, job.updated_at)


def job_mac(job: Job, cipher: Cipher) -> bytes:
    """The tag of its row."""
    return cipher.mac("job", *values(job))


def job_of(row: Row, cipher: Cipher) -> Job:
    """The job in a row of COLUMNS with the tag behind it.

    Raises:
        StorageError: it was changed outside of this program.
    """
    if cipher.mac("job", *row[:10]) != bytes(row[10]):
        raise StorageError(f"the gallery is damaged: job {row[0]} is not what was stored; restore a backup")
    job_id, kind, model, actor, state, progress, error, result, created_at, updated_at = row[:10]
    return Job(job_id, kind, model, actor, state, progress, error, json.loads(result), created_at, updated_at)
