"""The application layer for whoever runs the server: keys, the audit log, models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from service.activation import Activation
from service.domain import Job
from service.errors import InvalidRequestError, NotFoundError
from service.gallery.contract import Gallery
from service.inference.pool import Pool
from service.security.access import caller
from service.security.keys import ApiKey, KeyGrant
from service.shadow import Shadow, ShadowSummary

P = ParamSpec("P")
T = TypeVar("T")
MAX_ENTRIES = 1000


class Admin:
    """Everything that the scope `admin` is for, but people."""

    def __init__(self, gallery: Gallery, pool: Pool) -> None:
        self._keys = gallery.keys
        self._audit = gallery.audit
        self._pool = pool

    async def create_key(self, grant: KeyGrant) -> tuple[ApiKey, str]:
        """A new key, and the text of it, which nobody can ask for again."""
        return await self._run(self._keys.create, grant, caller().id)

    async def keys(self) -> Sequence[ApiKey]:
        """All keys, oldest first, those revoked too."""
        return await self._run(self._keys.list)

    async def revoke_key(self, key_id: str) -> ApiKey:
        """From now on the key opens nothing.

        Raises:
            NotFoundError: no such key.
        """
        return await self._run(self._keys.revoke, key_id, caller().id)

    async def audit(self, before: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Entries of the audit log, newest first, those before entry `before`."""
        if not 1 <= limit <= MAX_ENTRIES:
            raise InvalidRequestError(f"limit must be between 1 and {MAX_ENTRIES}, got {limit}", field="limit")
        return await self._run(self._audit.page, before, limit)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._pool.run(function, *args, **kwargs)


class ModelJobs:
    """Which model is served, as an administrator changes it."""

    def __init__(self, activation: Activation, shadow: Shadow, pool: Pool, reading: Pool) -> None:
        """`pool` is where models are loaded, which takes long; `reading` where jobs are looked up."""
        self._activation = activation
        self._shadow = shadow
        self._pool, self._reading = pool, reading

    async def activate(self, model_id: str) -> Job:
        """Serve a model, and have the collections follow.

        Raises:
            FaceError: as `Activation.activate`.
        """
        return await self._pool.run(self._activation.activate, model_id, caller().id)

    async def roll_back(self) -> Job:
        """Serve the model before the present one.

        Raises:
            FaceError: as `Activation.roll_back`.
        """
        return await self._pool.run(self._activation.roll_back, caller().id)

    async def begin_shadow(self, model_id: str, share: float) -> ShadowSummary:
        """Compare a share of the 1:1 decisions with those of a candidate, from now on.

        Raises:
            FaceError: as `Shadow.begin`.
        """
        return await self._shadow.begin(model_id, share)

    def shadow(self) -> ShadowSummary:
        """What was found so far.

        Raises:
            NotFoundError: no model is in shadow.
        """
        if self._shadow.summary is None:
            raise NotFoundError("no model is in shadow")
        return self._shadow.summary

    async def end_shadow(self) -> ShadowSummary:
        """No candidate any more; what was found.

        Raises:
            NotFoundError: no model is in shadow.
        """
        return await self._shadow.end()

    async def job(self, job_id: str) -> tuple[Job, Mapping[str, str]]:
        """One job, and the names of collections by their uid.

        Raises:
            NotFoundError: no such job.
        """
        job = await self._reading.run(self._activation.job, job_id)
        return job, await self._reading.run(self._activation.collection_names)

    async def jobs(self, limit: int) -> tuple[Sequence[Job], Mapping[str, str]]:
        """The newest jobs, newest first, and the same names."""
        jobs = await self._reading.run(self._activation.jobs, limit)
        return jobs, await self._reading.run(self._activation.collection_names)
