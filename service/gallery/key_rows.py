"""API keys as rows, which are the same in both engines: what each column holds, and the tag over them."""

import json
from datetime import UTC, datetime
from typing import Any

from service.errors import StorageError
from service.security.keys import ApiKey, KeyGrant
from service.security.vault import Cipher

Row = tuple[Any, ...]
COLUMNS = (
    "id, name, digest, scopes, collections, requests_per_minute, requests_per_day, created_at, expires_at,"
    " last_used_at, revoked_at, mac"
)


def values(key: ApiKey) -> Row:
    """A key's columns, all but the tag."""
    grant = key.grant
    return (
        key.id,
        grant.name,
        key.digest,
        json.dumps(sorted(grant.scopes)),
        None if grant.collections is None else json.dumps(sorted(grant.collections)),
        grant.requests_per_minute,
        grant.requests_per_day,
        key.created_at,
        text(grant.expires_at),
        key.last_used_at,
        key.revoked_at,
    )


def tag(columns: Row, cipher: Cipher) -> bytes:
    """Over all columns but the last use, which is no change that the audit log tells of."""
    return cipher.mac("api key", *columns[:9], columns[10])


def checked(row: Row, cipher: Cipher) -> ApiKey:
    """The key of a row.

    Raises:
        StorageError: it is not what was stored.
    """
    if tag(row, cipher) != row[11]:  # before anything in it is taken for what it says
        raise StorageError(f"the gallery is damaged: key {row[0]} is not what was stored; restore a backup")
    collections = None if row[4] is None else frozenset(json.loads(row[4]))
    expires = None if row[8] is None else datetime.fromisoformat(row[8])
    grant = KeyGrant(row[1], frozenset(json.loads(row[3])), collections, row[5], row[6], expires)
    return ApiKey(row[0], grant, row[2], row[7], row[9], row[10])


def text(moment: datetime | None) -> str | None:
    """A date as it is stored: UTC, ISO 8601 with milliseconds."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds")
