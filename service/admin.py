"""The application layer for whoever runs the server: keys, the audit log."""

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from service.errors import InvalidRequestError
from service.gallery.contract import Gallery
from service.inference.pool import Pool
from service.security.access import caller
from service.security.keys import ApiKey, KeyGrant

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
