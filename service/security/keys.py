"""API keys: 256 random bits each, of which only an HMAC-SHA256 is kept; scopes, collections, expiry, limits.

A key reads `fs_ID_SECRET`: 8 and 43 letters, digits, - or _. The id finds the row, so that one comparison in constant
time is enough. (A slow hash, as for passwords, would protect guessable secrets; 256 random bits are not guessable.)
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.errors import InvalidRequestError
from service.security.rules import SCOPES

_TOKEN = re.compile(r"fs_([A-Za-z0-9]{8})_([A-Za-z0-9_-]{43})")
COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a new key may do. collections None: all; limits None: none."""

    name: str
    scopes: frozenset[str]
    collections: frozenset[str] | None = None
    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        unknown = sorted(self.scopes - set(SCOPES))
        if unknown or not self.scopes:
            asked = f"unknown scope {unknown[0]!r}" if unknown else "a key without scopes can do nothing"
            raise InvalidRequestError(f"{asked}; scopes are {', '.join(SCOPES)}", field="scopes")
        if not _NAME.fullmatch(self.name) or not self.name.strip():
            raise InvalidRequestError("a key's name has 1 to 100 printable characters", field="name")
        if self.collections is not None and not self.collections:
            raise InvalidRequestError(
                "name a collection, or leave collections out for all of them", field="collections"
            )
        for field, value in (
            ("requests_per_minute", self.requests_per_minute),
            ("requests_per_day", self.requests_per_day),
        ):
            if value is not None and not 1 <= value <= 10**9:
                raise InvalidRequestError(f"{field} must be between 1 and 1000000000", field=field)
        for collection in self.collections or ():
            if not COLLECTION_NAME.fullmatch(collection):
                raise InvalidRequestError(f"{collection!r} is no name of a collection", field="collections")
        if self.expires_at is not None:
            if self.expires_at.tzinfo is None:
                raise InvalidRequestError(
                    "expires_at needs a time zone, as in 2027-01-31T00:00:00Z", field="expires_at"
                )
            if not 1971 <= self.expires_at.year <= 9998:
                raise InvalidRequestError("expires_at must lie between the years 1971 and 9998", field="expires_at")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: everything but its secret. Times are ISO 8601, UTC."""

    id: str
    grant: KeyGrant
    digest: bytes
    created_at: str
    last_used_at: str | None = None
    revoked_at: str | None = None

    def usable(self, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.grant.expires_at is None or now < self.grant.expires_at)


class KeyTable(Protocol):
    """Where keys are kept."""

    @property
    def ever_made(self) -> bool:
        """Whether there ever was a key; it never becomes false again."""
        ...

    def current(self) -> Mapping[str, ApiKey]:
        """All keys by id, as they are at this moment, whichever program changed them; cheap enough for every call."""
        ...


def new_token() -> tuple[str, str]:
    """An id, and the whole key with it."""
    key_id = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(8))
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return key_id, f"fs_{key_id}_{secret}"


def token_id(token: str) -> str | None:
    """The id in a key; None if it is no key of this kind."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def token_digest(pepper: bytes, token: str) -> bytes:
    """What is kept of a key."""
    return hmac.digest(pepper, token.encode(), hashlib.sha256)
