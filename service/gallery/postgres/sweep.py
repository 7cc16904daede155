"""Erasing what is past its retention, at one server at a time, and not while the clock is in doubt."""

import logging
import zlib
from collections.abc import Callable
from datetime import datetime

from service.gallery.postgres.changes import Changes
from service.gallery.postgres.database import Database
from service.gallery.postgres.records import Records
from service.gallery.retention import SweepClock

log = logging.getLogger("facesphere.gallery")
SWEEP_CHUNK = 1000  # faces erased while others wait
_SWEEPING = zlib.crc32(b"facesphere sweep")


class Sweep:
    """What is known of the clock is kept in the database: it holds for whichever server sweeps next."""

    def __init__(
        self,
        database: Database,
        records: Records,
        changes: Changes,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._records = records
        self._changes = changes
        self._times = (now, monotonic)
        self._kept = self.sweep_clock()
        self._clock = SweepClock(now, monotonic, self)

    def run(self, now: datetime | None = None) -> int:
        """Erase; the number of faces. 0 while another server is at it."""
        with self._database.holding_lock(_SWEEPING) as mine:
            moment = (now or self._believed_now()) if mine else None
            if moment is None:
                return 0
            kept_for_a_time = [row.name for row in self._records.all() if row.settings.retention_days is not None]
            return sum(self._erase(name, moment) for name in kept_for_a_time)

    def sweep_clock(self) -> str | None:
        """What was kept of the time by the server that has swept last."""
        row = self._database.one("SELECT sweep_clock FROM store")
        return row[0] if row else None

    def keep_sweep_clock(self, text: str) -> None:
        """Keep it for the next."""
        with self._database.transaction():
            self._database.write("UPDATE store SET sweep_clock = %s", (text,))
        self._kept = text

    def _erase(self, collection: str, moment: datetime) -> int:
        count, last = 0, SWEEP_CHUNK
        while last == SWEEP_CHUNK:
            last = self._changes.erase_expired(collection, moment, SWEEP_CHUNK)
            count += last
        return count

    def _believed_now(self) -> datetime | None:
        if self.sweep_clock() != self._kept:  # another server has swept since: it is the one to go on from
            self._clock = SweepClock(*self._times, self)
        moment = self._clock.now()
        if moment is None:
            log.warning("the clock has jumped: nothing is erased for its age until the clock has stood by it for a day")
        return moment
