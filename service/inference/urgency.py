"""How urgent the work of a request is: its class, and when nobody waits for it any more.

It travels with the request, as its caller does, so that no layer in between has to hand it on.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Urgency:
    """`bulk` work runs where no interactive work waits; `deadline` is a time of `time.monotonic()`."""

    bulk: bool = False
    deadline: float = math.inf


_CURRENT: ContextVar[Urgency] = ContextVar("urgency", default=Urgency())  # noqa: B039  it is frozen


def urgency() -> Urgency:
    """That of the request which is being worked on."""
    return _CURRENT.get()


@contextlib.contextmanager
def in_bulk() -> Iterator[None]:
    """What is asked for in here lets interactive requests go first."""
    with _as(replace(urgency(), bulk=True)):
        yield


@contextlib.contextmanager
def due_in(seconds: float) -> Iterator[None]:
    """A request begins, which is of no use to anybody after so many seconds; it is interactive until said otherwise.

    It inherits nothing: a connection that is kept open may hand the context of one request on to the next.
    """
    with _as(Urgency(deadline=time.monotonic() + seconds)):
        yield


@contextlib.contextmanager
def _as(changed: Urgency) -> Iterator[None]:
    token = _CURRENT.set(changed)
    try:
        yield
    finally:
        _CURRENT.reset(token)
