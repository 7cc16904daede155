"""A bounded pool of threads for work that is not batched: decoding, detection, alignment, records on disk."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import Crew
from service.inference.urgency import Urgency, urgency
from service.tracing import NO_TRACES, Tracer

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """`threads` run at once, up to `max_waiting` more wait, the next one is refused.

    The calls are of no class and have no deadline: they are small, and a change that was accepted is made.
    """

    def __init__(self, name: str, threads: int, max_waiting: int, tracer: Tracer = NO_TRACES) -> None:
        options = BatcherOptions(max_batch=1, max_queue=max_waiting, workers=threads, predict=False)
        self._calls: Batcher[Callable[[], Any], Any] = Batcher(name, _call, options, tracer=tracer)

    @property
    def pending(self) -> int:
        """Calls that run or wait."""
        return self._calls.pending

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread. A caller that is cancelled while its call still waits frees the place.

        Raises:
            OverloadedError: all places are taken.
            NotReadyError: closed.
        """
        return await asyncio.wrap_future(self.start(partial(function, *args, **kwargs)))

    def start(self, function: Callable[[], T]) -> Future[T]:
        """As `run`, for those who do not wait in an event loop; cancelling the future frees the place."""
        (future,) = self._calls.submit([function], self._urgency())
        return cast("Future[T]", future)

    def check_room(self, within_s: float) -> None:
        """Raises OverloadedError where a call that came now, to be done within so many seconds, would be refused."""
        self._calls.check_room(Urgency(deadline=time.monotonic() + within_s))

    def close(self) -> None:
        """Finish what was accepted, then stop."""
        self._calls.close()

    def _urgency(self) -> Urgency:
        return Urgency()


class PhotoPool(Pool):
    """The first stage of a photo: by its class, and refused where its turn would come after its deadline.

    Args:
        crew: the threads, shared with the stages that follow.
        max_waiting: how many wait at most.
        then_s: what a photo costs a thread after this stage, in seconds.
        tracer: is told who waited, and for whom the work is.
    """

    def __init__(self, crew: Crew, max_waiting: int, then_s: Callable[[], float], tracer: Tracer = NO_TRACES) -> None:
        options = BatcherOptions(max_batch=1, max_queue=max_waiting, first_stage=True)
        self._calls = Batcher("photo", _call, options, crew, then_s, tracer=tracer)

    def _urgency(self) -> Urgency:
        return urgency()


def _call(calls: list[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]
