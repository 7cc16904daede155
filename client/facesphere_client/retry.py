"""When a call is made again, and after how long.

Only where the server cannot have done it already: it said so (429, 503 and their like in gRPC), the connection was
never made, or doing it twice is the same as once.
"""

import random
from dataclasses import dataclass

from facesphere_client.errors import (
    ConnectionFailedError,
    FacesphereError,
    GalleryUnavailableError,
    ProtocolError,
    TimedOutError,
    TryLaterError,
)

_TOO_MANY_REQUESTS = 429
_OF_A_GATEWAY = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Retry:
    """Up to `attempts` in all, and no more than `total_s` seconds of waiting between them.

    The n-th wait is drawn at random up to `first_s * 2 ** (n - 1)`, at most `longest_s`, so that callers who were
    refused together do not come back together. What the server asks for in Retry-After comes before that.
    """

    attempts: int = 5
    first_s: float = 0.2
    longest_s: float = 10.0
    total_s: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_s, self.longest_s, self.total_s) < 0:
            raise ValueError("attempts is at least 1, and no time is negative")


NEVER = Retry(attempts=1)


class Attempts:
    """The attempts at one call."""

    def __init__(self, retry: Retry, repeatable: bool) -> None:
        """`repeatable`: doing it twice is the same as once."""
        self._retry = retry
        self._repeatable = repeatable
        self._made = 0
        self._waited_s = 0.0

    def after(self, error: FacesphereError) -> float:
        """How many seconds to wait before the next attempt; raises the error where there is none."""
        self._made += 1
        retry = self._retry
        if self._made >= retry.attempts or not _worth_it(error, self._repeatable):
            raise error
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        # Spreads callers out; nothing secret is made of it.
        wait_s = asked_s + random.uniform(0, min(retry.longest_s, retry.first_s * 2 ** (self._made - 1)))  # noqa: S311
        if self._waited_s + wait_s > retry.total_s:
            raise error
        self._waited_s += wait_s
        return wait_s


def _worth_it(error: FacesphereError, repeatable: bool) -> bool:
    if isinstance(error, TryLaterError):
        return True
    if isinstance(error, GalleryUnavailableError):
        return repeatable or error.outcome == "nothing changed"
    if isinstance(error, TimedOutError):
        return False  # whoever is too slow already is not helped by being asked once more
    if isinstance(error, ConnectionFailedError):
        return repeatable or not error.sent
    if isinstance(error, ProtocolError):
        return error.status == _TOO_MANY_REQUESTS or (repeatable and error.status in _OF_A_GATEWAY)
    return False
