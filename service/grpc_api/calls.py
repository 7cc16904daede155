"""What every RPC passes: the key, an id, a deadline, metrics, and the one place where errors become a status."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from models.errors import FaceError
from service.errors import DeadlineExceededError
from service.grpc_api.errors import STATUS
from service.metrics import Metrics
from service.security.access import Access

log = logging.getLogger("facesphere.grpc")
T = TypeVar("T")
Context = Any  # grpc.aio.ServicerContext is generic over the messages of each RPC

# Items of one stream that are worked on at once; reading pauses beyond it, which slows the sender down.
STREAM_WINDOW = 16
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Calls:
    """Runs the body of an RPC."""

    def __init__(self, access: Access, metrics: Metrics, timeout_s: float) -> None:
        self._access = access
        self._metrics = metrics
        self._timeout_s = timeout_s

    async def unary(self, name: str, context: Context, work: Callable[[], Awaitable[T]]) -> T:
        """One request, one answer.

        Raises:
            grpc.aio.AbortError: with the status of the error, after the key was refused or the work failed.
        """
        began, request_id, code = time.perf_counter(), _request_id(context), "ok"
        try:
            with self._metrics.open.labels("grpc").track_inprogress():
                self._authorize(context)
                return await self._within_deadline(work())
        except FaceError as error:
            code = error.code
            await _abort(context, error, request_id)
        except Exception:
            code = "internal"
            log.exception("request %s failed", request_id)
            await _abort(context, _unexpected(), request_id)
        finally:
            self._metrics.observe("grpc", name, code, time.perf_counter() - began)

    async def stream(
        self, name: str, context: Context, requests: AsyncIterator[Any], answer: Callable[[Any], Awaitable[T]]
    ) -> AsyncIterator[T]:
        """Many requests, one answer each, in the order in which they are done. `answer` never raises a FaceError."""
        request_id = _request_id(context)
        try:
            self._authorize(context)
        except FaceError as error:
            await _abort(context, error, request_id)
        window: set[asyncio.Future[T]] = set()
        reader = _Reader(requests)
        try:
            while window or not reader.done:
                waiting = {*window, *reader.next_if(len(window) < STREAM_WINDOW)}
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for request in reader.taken(done):
                    window.add(asyncio.ensure_future(self._timed(name, answer(request))))
                for future in done & window:
                    window.discard(future)
                    yield future.result()
        finally:
            for future in {*window, *reader.next_if(True)}:
                future.cancel()

    def error_code(self, error: Exception, context: Context) -> tuple[str, str]:
        """Code and message for an item of a stream that failed."""
        if isinstance(error, FaceError):
            return error.code, error.message
        log.error("an item of stream %s failed", _request_id(context), exc_info=error)
        return _unexpected().code, _unexpected().message

    def _authorize(self, context: Context) -> None:
        self._access.check(_metadata(context).get("authorization"))

    async def _timed(self, name: str, work: Awaitable[T]) -> T:
        began = time.perf_counter()
        try:
            return await work
        finally:
            self._metrics.observe("grpc", name, "item", time.perf_counter() - began)

    async def _within_deadline(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError as error:
            raise DeadlineExceededError(f"the request took longer than {self._timeout_s:g} s") from error


class _Reader:
    """Reads a request stream one message ahead, so that waiting for it can be mixed with waiting for answers."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self._next: asyncio.Future[Any] | None = None
        self.done = False

    def next_if(self, wanted: bool) -> "list[asyncio.Future[Any]]":
        """The read that is under way, or a new one if wanted."""
        if self._next is None and wanted and not self.done:
            self._next = asyncio.ensure_future(anext(self._requests, None))
        return [self._next] if self._next is not None else []

    def taken(self, done: "set[asyncio.Future[Any]]") -> list[Any]:
        """The message, if the read is among those that are done."""
        if self._next is None or self._next not in done:
            return []
        message, self._next = self._next.result(), None
        if message is None:
            self.done = True
            return []
        return [message]


async def _abort(context: Context, error: FaceError, request_id: str) -> NoReturn:
    trailing = [("error-code", error.code), ("x-request-id", request_id)]
    if "retry_after_s" in error.details:
        trailing.append(("retry-after", str(error.details["retry_after_s"])))
    await context.abort(STATUS[error.code], error.message, tuple(trailing))
    raise AssertionError("abort raises")


def _unexpected() -> FaceError:
    return FaceError("an unexpected error; the log names the request")


def _metadata(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _request_id(context: Context) -> str:
    asked = _metadata(context).get("x-request-id", "")
    return asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
