"""Jobs about models, in the database: one server works on them at a time, each may be asked."""

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from service.domain import OPEN_STATES, Job, JobKind
from service.errors import NotFoundError
from service.gallery import jobs
from service.gallery.jobs import COLUMNS, job_mac, job_of, new_job, result_text, values
from service.gallery.postgres.database import Database
from service.security.vault import Cipher

_WORKING = zlib.crc32(b"facesphere jobs")


class PostgresJobs:
    """Calls may come from several threads, and from several servers."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        """`cipher` makes the tags of their rows."""
        self._database = database
        self._cipher = cipher

    def create(self, kind: JobKind, model_id: str, actor: str) -> Job:
        """A new job, queued."""
        job = new_job(kind, model_id, actor, self._database.now())
        with self._database.transaction():
            self._database.write(
                f"INSERT INTO jobs (number, {COLUMNS}, mac)"  # noqa: S608
                " VALUES (nextval('numbers'), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (*values(job), job_mac(job, self._cipher)),
            )
            self._database.write(
                "DELETE FROM jobs WHERE number <= (SELECT number FROM jobs ORDER BY number DESC OFFSET %s LIMIT 1)",
                (jobs.KEPT,),
            )
        return job

    def get(self, job_id: str) -> Job:
        """One job; NotFoundError if there is none of that id."""
        return self._get(job_id, "")

    def list(self, limit: int = 100) -> Sequence[Job]:
        """The newest jobs, newest first."""
        return self._list(limit, "")

    def update(self, job: Job) -> Job:
        """Write down how far a job is, unless it was cancelled meanwhile; the job as it is now."""
        with self._database.transaction():
            there = self._get(job.id, " FOR UPDATE")
            if there.state not in OPEN_STATES:
                return there
            changed = replace(job, updated_at=self._database.now())
            self._write(changed)
        return changed

    def conclude(self, job_id: str, uid: str, outcome: dict[str, object]) -> Job:
        """What became of a collection, in a job that may be over by now; the job as it is now."""
        with self._database.transaction():
            there = self._get(job_id, " FOR UPDATE")
            changed = replace(there, result={**there.result, uid: outcome}, updated_at=self._database.now())
            self._write(changed)
        return changed

    def cancel_open(self) -> None:
        """Cancel all that are queued or running."""
        with self._database.transaction():
            for job in self._list(jobs.KEPT, " FOR UPDATE"):
                if job.state in OPEN_STATES:
                    self._write(replace(job, state="cancelled", updated_at=self._database.now()))

    def turn(self) -> AbstractContextManager[bool]:
        """False while another server works on jobs; inside of it, none does."""
        return self._database.holding_lock(_WORKING)

    def _get(self, job_id: str, lock: str) -> Job:
        row = self._database.one(f"SELECT {COLUMNS}, mac FROM jobs WHERE id = %s{lock}", (job_id,))  # noqa: S608
        if row is None:
            raise NotFoundError(f"there is no job {job_id!r}", job=job_id)
        return job_of(row, self._cipher)

    def _list(self, limit: int, lock: str) -> Sequence[Job]:
        rows = self._database.read(
            f"SELECT {COLUMNS}, mac FROM jobs ORDER BY number DESC LIMIT %s{lock}",  # noqa: S608
            (limit,),
        )
        return [job_of(row, self._cipher) for row in rows]

    def _write(self, job: Job) -> None:
        self._database.write(
            "UPDATE jobs SET state = %s, progress = %s, error = %s, result = %s, updated_at = %s, mac = %s"
            " WHERE id = %s",
            (
                *(job.state, float(job.progress), job.error, result_text(job), job.updated_at),
                *(job_mac(job, self._cipher), job.id),
            ),
        )
