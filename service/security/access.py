"""Who calls, and whether they may: API keys, the one key of the settings, or, without any, this machine alone."""

import contextlib
import contextvars
import hmac
import ipaddress
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from service.errors import PermissionDeniedError, RateLimitedError, UnauthenticatedError
from service.security.keys import ApiKey, KeyTable, token_digest, token_id
from service.security.rules import RULES, SCOPES, UNKNOWN, Rule

_PEPPER = b"the key of the settings"  # only to compare two digests of one length


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `id` is that of a key, "settings" for the one of the settings, "local" where no key is needed."""

    id: str
    scopes: frozenset[str]
    collections: frozenset[str] | None

    def sees(self, collection: str) -> bool:
        """Whether the key may be used for this collection."""
        return self.collections is None or collection in self.collections


LOCAL = Caller("local", frozenset(SCOPES), None)
_SETTINGS = Caller("settings", frozenset(SCOPES), None)
_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=LOCAL)


def caller() -> Caller:
    """Who made the request that is being worked on."""
    return _caller.get()


class Access:
    """Checks every call against the table of rules."""

    def __init__(self, api_key: str | None, keys: KeyTable | None = None, pepper: bytes = b"") -> None:
        self._digest = token_digest(_PEPPER, api_key) if api_key else None
        self._keys = keys
        self._pepper = pepper
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._used: dict[str, datetime] = {}
        self._lock = threading.Lock()

    @property
    def required(self) -> bool:
        """Whether calls must carry a key: one is in the settings, or one was ever made here.

        A key that was revoked or has expired still counts: else revoking the last would open the server to everybody.
        """
        return self._digest is not None or bool(self._keys and self._keys.ever_made)

    def check(self, authorization: str | None, operation: str, collection: str | None = None) -> Caller:
        """Who calls, if they may do this.

        Args:
            authorization: value of an `Authorization` header or metadata entry.
            operation: as in the table: `POST /embed`, `Gallery/Identify`.
            collection: the one it is about, where it is known already.

        Raises:
            UnauthenticatedError: a key is required, and this is none, or not one that is valid now.
            PermissionDeniedError: the key is not for this operation or collection.
            RateLimitedError: it has been used too often.
        """
        rule = RULES.get(operation, UNKNOWN)
        who, key = self._authenticate(authorization)
        if not who.scopes & rule.scopes:
            raise PermissionDeniedError(f"this key lacks the scope for {operation}: {_listed(rule)}")
        if rule.whole and who.collections is not None:
            raise PermissionDeniedError(f"{operation} is not for a key that is kept to some collections")
        if collection is not None:
            check_collection(who, collection)
        if key is not None:
            self._count(key)
        return who

    def last_used(self) -> dict[str, datetime]:
        """When each key was used last, since this was asked before."""
        with self._lock:
            used, self._used = self._used, {}
        return used

    def _authenticate(self, authorization: str | None) -> tuple[Caller, ApiKey | None]:
        if not self.required:
            return LOCAL, None
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer":
            # Digests have one length, so the comparison tells nothing about the key's.
            if self._digest is not None and hmac.compare_digest(token_digest(_PEPPER, token), self._digest):
                return _SETTINGS, None
            key = self._find(token)
            if key is not None:
                return Caller(key.id, key.grant.scopes, key.grant.collections), key
        raise UnauthenticatedError("send a valid key as: Authorization: Bearer <key>")

    def _find(self, token: str) -> ApiKey | None:
        key_id = token_id(token)
        key = self._keys.current().get(key_id) if self._keys and key_id else None
        if key is None or not hmac.compare_digest(token_digest(self._pepper, token), key.digest):
            return None
        return key if key.usable(datetime.now(UTC)) else None

    def _count(self, key: ApiKey) -> None:
        for limit in _limits(key):
            if not self._limiter.hit(limit, key.id):
                wait = self._limiter.get_window_stats(limit, key.id).reset_time - time.time()
                raise RateLimitedError(f"this key is limited to {limit}", max(1, round(wait)))
        with self._lock:
            self._used[key.id] = datetime.now(UTC)


@contextlib.contextmanager
def acting(who: Caller) -> Iterator[None]:
    """While it is open, `caller()` is this one."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)


def act_as(who: Caller) -> None:
    """The same for the rest of a task, such as the one that works on a request."""
    _caller.set(who)


def check_collection(who: Caller, collection: str) -> None:
    """Raises PermissionDeniedError where a key is not for a collection, whether there is one of that name or not."""
    if not who.sees(collection):
        raise PermissionDeniedError(f"this key is not for the collection {collection!r}")


_LONGEST_NAME = 253  # of a host, by the rules of DNS


def is_loopback(host: str) -> bool:
    """Whether a server bound to this address is reachable from this machine only."""
    return len(host) <= _LONGEST_NAME and _is_loopback(host)


@lru_cache(maxsize=256)  # asked with each request, of the few names that the server is called by
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listed(rule: Rule) -> str:
    return " or ".join(scope for scope in SCOPES if scope in rule.scopes)


def _limits(key: ApiKey) -> list[RateLimitItem]:
    items: list[RateLimitItem] = []
    if key.grant.requests_per_minute is not None:
        items.append(RateLimitItemPerMinute(key.grant.requests_per_minute))
    if key.grant.requests_per_day is not None:
        items.append(RateLimitItemPerDay(key.grant.requests_per_day))
    return items
