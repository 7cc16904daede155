"""What time it is, as far as erasing for good is concerned: a clock that jumps must not empty a gallery.

A sweep erases what is older than its collection keeps it. A wall clock that is set wrong, ten years ahead for an
hour, would make it erase everybody. So a jump is believed only after the clock has stood by it for a day; until then
time goes on from what was believed before, as the monotonic clock counts it. Over a restart, where that clock begins
anew, the time of the last sweep takes its place, and a week without a server is no jump.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

JUMP = timedelta(hours=1)
LONGEST_STOP = timedelta(days=7)
BELIEVED_AFTER = timedelta(days=1)


class Kept(Protocol):
    """Where the time of the last sweep is kept over a restart."""

    def swept_at(self) -> datetime | None:
        """The time that was kept last."""
        ...

    def keep_swept_at(self, at: datetime) -> None:
        """Keep another."""
        ...


class SweepClock:
    """Asked before every sweep."""

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float], kept: Kept) -> None:
        self._now = now
        self._monotonic = monotonic
        self._kept = kept
        self._believed = kept.swept_at()
        self._asked_at = monotonic()
        self._allowed = LONGEST_STOP if self._believed else JUMP
        self._jumped_at: float | None = None

    def now(self) -> datetime:
        """The time to sweep by."""
        wall, count = self._now(), self._monotonic()
        expected = (self._believed or wall) + timedelta(seconds=count - self._asked_at)
        plausible = -JUMP <= wall - expected <= self._allowed
        stood_by = self._jumped_at is not None and count - self._jumped_at >= BELIEVED_AFTER.total_seconds()
        if plausible or stood_by:
            believed, self._jumped_at = wall, None
        else:
            believed, self._jumped_at = expected, count if self._jumped_at is None else self._jumped_at
        self._believed, self._asked_at, self._allowed = believed, count, JUMP
        self._kept.keep_swept_at(believed)
        return believed

    @property
    def doubtful(self) -> bool:
        """Whether the clock has jumped and is not believed yet."""
        return self._jumped_at is not None
