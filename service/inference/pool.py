"""A bounded pool of threads for work that is not batched: decoding, detection, alignment, records on disk."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from service.errors import NotReadyError, OverloadedError

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """`threads` run at once, up to `max_waiting` more wait, the next one is refused."""

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + max_waiting
        self._pending = 0
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """Calls that run or wait."""
        return self._pending

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread. A caller that is cancelled while its call still waits frees the place.

        Raises:
            OverloadedError: all places are taken.
            NotReadyError: closed.
        """
        with self._lock:
            if self._pending >= self._limit:
                raise OverloadedError(f"{self._pending} calls are waiting already")
            self._pending += 1
        try:
            future = self._executor.submit(function, *args, **kwargs)
        except RuntimeError as error:
            self._release()
            raise NotReadyError("the server is stopping") from error
        future.add_done_callback(lambda _: self._release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what was accepted, then stop."""
        self._executor.shutdown(wait=True)

    def _release(self) -> None:
        with self._lock:
            self._pending -= 1
