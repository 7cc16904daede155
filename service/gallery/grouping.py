"""Makes large collections searchable approximately, on a thread of its own that lets everybody else go first."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from service.gallery.contract import SearchState
from service.gallery.tiers import TieredIndex

log = logging.getLogger("facesphere.gallery")
CHECK_EVERY_S = 3600.0
GROUP_FROM = 200_000  # faces; fewer are gone through in a few milliseconds
_GROWN = 1.1  # times the faces of the last check, at which the next one is due
_NICE = 10


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Threads of one search, and what share of the near faces it has to find where there are many (1: all)."""

    threads: int = 1
    recall: float = 1.0
    approximate_from: int = GROUP_FROM


EXACT = SearchOptions()


class Grouping:
    """Looks at all indexes when it is told to."""

    def __init__(self, indexes: Callable[[], Collection[TieredIndex]], options: SearchOptions) -> None:
        self._indexes = indexes
        self._recall = options.recall
        self._from_faces = options.approximate_from
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Look now, and return at once."""
        if self._recall >= 1 or self._stopped:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="facesphere-grouping", daemon=True)
            self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Give up what is being made."""
        self._stopped = True
        self._wake.set()

    def close(self) -> None:
        """Stop, and wait until nothing is done any more."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    @property
    def state(self) -> SearchState:
        """The least recall of any index that is searched approximately, and how many faces are in those."""
        grouped = [(index.recall, len(index)) for index in self._indexes()]
        used = [(recall, size) for recall, size in grouped if recall is not None]
        return SearchState(min((recall for recall, _ in used), default=1.0), sum(size for _, size in used))

    def do_due(self) -> None:
        """Group what has become large, and check what is grouped."""
        for index in list(self._indexes()):
            if self._stopped:
                return
            if len(index) < self._from_faces:
                index.ungroup()
            elif self._due(index):
                self._group_and_check(index)

    def _due(self, index: TieredIndex) -> bool:
        size, at = len(index), index.checked_faces
        changed = max(size, at) > _GROWN * min(size, at)
        return changed or (index.approximate and time.monotonic() - index.checked_at > CHECK_EVERY_S)

    def _group_and_check(self, index: TieredIndex) -> None:
        began, before = time.monotonic(), index.approximate
        if not before and not index.group(lambda: self._stopped):
            return
        if index.check(self._recall):
            if not before:
                took = time.monotonic() - began
                log.info("searching %d faces approximately: recall %.4f, %.0f s", len(index), index.recall, took)
        else:
            index.ungroup()
            log.warning(
                "searching %d faces exactly: an approximate search does not find the share %s that search_recall asks"
                " for, but %.4f",
                len(index),
                self._recall,
                index.reached,
            )

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + _NICE)
        while not self._stopped:
            self._wake.wait()
            self._wake.clear()
            try:
                self.do_due()
            except Exception:  # search stays exact, and it is tried again
                log.exception("an index could not be grouped")
