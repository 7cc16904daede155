"""What time it is, as far as erasing for good is concerned: a clock that jumps must not empty a gallery.

A sweep erases what is older than its collection keeps it. A wall clock that is set wrong, ten years ahead for an hour,
would make it erase everybody. So nothing is swept while the clock is in doubt: it is after a jump, ahead or back, until
it has stood by the very same jump for a day. What is known of it is kept over a restart, where the monotonic clock
begins anew; a week without a server is no jump.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

JUMP = timedelta(hours=1)
LONGEST_STOP = timedelta(days=7)
BELIEVED_AFTER = timedelta(days=1)


class Kept(Protocol):
    """Where a text is kept over a restart."""

    def sweep_clock(self) -> str | None:
        """The text that was kept last."""
        ...

    def keep_sweep_clock(self, text: str) -> None:
        """Keep another."""
        ...


@dataclass(frozen=True, slots=True)
class _Belief:
    """The time that is believed, and for how long and by how much the clock has said another."""

    time: datetime
    offset_s: float = 0.0
    doubted_s: float = 0.0

    @property
    def doubtful(self) -> bool:
        return self.offset_s != 0.0


class SweepClock:
    """Asked before every sweep."""

    def __init__(self, now: Callable[[], datetime], monotonic: Callable[[], float], kept: Kept) -> None:
        self._now = now
        self._monotonic = monotonic
        self._kept = kept
        self._belief = _read(kept.sweep_clock())
        self._asked_at = monotonic()
        self._stopped = self._belief is not None  # a restart: how long the stop was is not known

    def now(self) -> datetime | None:
        """The time to sweep by; None while it is in doubt."""
        wall, count = self._now(), self._monotonic()
        passed = timedelta(seconds=count - self._asked_at)
        belief = self._belief or _Belief(wall)
        self._belief = self._judged(belief, wall, passed)
        self._asked_at, self._stopped = count, False
        self._kept.keep_sweep_clock(json.dumps({**asdict(self._belief), "time": self._belief.time.isoformat()}))
        return None if self._belief.doubtful else self._belief.time

    def _judged(self, belief: _Belief, wall: datetime, passed: timedelta) -> _Belief:
        expected = belief.time + passed
        offset = (wall - expected).total_seconds()
        allowed = LONGEST_STOP if self._stopped else JUMP
        if -JUMP.total_seconds() <= offset <= allowed.total_seconds():
            return _Belief(wall)
        doubted = belief.doubted_s + passed.total_seconds()
        same = belief.doubtful and abs(offset - belief.offset_s) <= allowed.total_seconds()
        if same and doubted >= BELIEVED_AFTER.total_seconds():
            return _Belief(wall)
        return replace(belief, time=expected, offset_s=offset, doubted_s=doubted if same else 0.0)


def _read(text: str | None) -> _Belief | None:
    """What was kept; None if nothing was, or if it cannot be read: then the clock is believed at first sight."""
    try:
        values = json.loads(text or "")
        time = datetime.fromisoformat(values["time"])
        belief = _Belief(time, float(values["offset_s"]), float(values["doubted_s"]))
    except (ValueError, KeyError, TypeError):
        return None
    return belief if time.tzinfo else None
