"""What every RPC passes: the key, an id, limits, metrics, and the one place where errors become a status."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc

from models.errors import FaceError
from service.errors import DeadlineExceededError, OverloadedError
from service.grpc_api.errors import STATUS
from service.grpc_api.received import Budget, Received
from service.grpc_api.window import Window
from service.inference.urgency import due_in
from service.logs import belongs_to
from service.metrics import Metrics
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.security.access import Access, act_as, caller, check_collection
from service.security.rules import RULES
from service.tracing import Answer

log = logging.getLogger("facesphere.grpc")
M = TypeVar("M")
T = TypeVar("T")
Headers = dict[str, str]
Context = Any  # grpc.aio.ServicerContext is generic over the messages of each RPC

# A status travels as metadata, of which clients take 8 KiB, and a character takes up to 12 bytes there. Over the limit,
# the client drops the status, code and all.
MAX_MESSAGE = 500
_OPERATIONS = {key.partition("/")[2]: key for key in RULES if " " not in key}
# What the server is to blame for, by the conventions of OpenTelemetry.
_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_PACKAGE = pb.DESCRIPTOR.package
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Calls:
    """Runs the body of an RPC."""

    def __init__(self, access: Access, metrics: Metrics, budget: Budget, timeout_s: float) -> None:
        self._access = access
        self._metrics = metrics
        self._open = metrics.open.labels("grpc")
        self._budget = budget
        self._timeout_s = timeout_s

    async def unary(
        self,
        name: str,
        context: Context,
        received: Received[M],
        work: Callable[[M], Awaitable[T]],
        check_room: Callable[[float], None] | None = None,
    ) -> T:
        """One request, one answer.

        `check_room` refuses what would not be answered in so many seconds, before anything is done about it: a refusal
        that costs a tenth of an answer would, at ten times the load, leave nothing for answers.

        Raises:
            grpc.aio.AbortError: with the status of the error, after the key was refused or the work failed.
        """
        headers = _metadata(context)
        request_id = _request_id(headers)

        async def authorized() -> T:
            left_s = self._left_s(context.time_remaining())
            if check_room is not None:
                self._check_room(check_room, left_s, name, headers)
            self._authorize(name, headers)
            return await self._limited(name, received, work, left_s)

        try:
            with self._open.track_inprogress():
                return await self._counted(name, request_id, headers, authorized)
        except FaceError as error:
            await _abort(context, error, request_id)

    async def stream(
        self, name: str, context: Context, work: Callable[[M], Awaitable[T]], failed: Callable[[M, pb.Error], T]
    ) -> None:
        """Many requests, one answer each, in the order in which they are done. One that fails does not end the stream.

        It writes the answers itself. A generator would stay suspended when the caller hangs up, until it is collected.

        Raises:
            grpc.aio.AbortError: the key was refused, or bytes came that are no request.
        """
        began, headers = time.perf_counter(), _metadata(context)
        request_id = _request_id(headers)

        def begin(received: Received[M]) -> Awaitable[T]:
            received.decoded()  # what cannot be decoded has no id to answer by: it ends the stream
            return self._item(name, request_id, headers, received, work, failed)

        try:
            with self._open.track_inprogress():
                self._authorize(name, headers)
                await _answer_all(context, begin)
        except FaceError as error:
            self._metrics.observe("grpc", name, error.code, time.perf_counter() - began)
            await _abort(context, error, request_id)

    async def _item(
        self,
        name: str,
        request_id: str,
        headers: Headers,
        received: Received[M],
        work: Callable[[M], Awaitable[T]],
        failed: Callable[[M, pb.Error], T],
    ) -> T:
        async def authorized() -> T:
            self._authorize(name, headers)  # anew: a key that was revoked ends what its streams do
            # The deadline of a stream is not that of its items.
            return await self._limited(name, received, work, self._timeout_s)

        try:
            return await self._counted(name, request_id, headers, authorized)
        except FaceError as error:
            return failed(received.decoded(), pb.Error(code=error.code, message=_cut(error.message)))

    async def _counted(self, name: str, request_id: str, headers: Headers, action: Callable[[], Awaitable[T]]) -> T:
        """Count the outcome, before the caller hears of it; whatever fails is raised as a FaceError."""
        with self._metrics.request("grpc", headers, request_id) as answer:
            # A caller who hangs up cancels this, which is neither an error nor an answer.
            _describe(answer, name, "cancelled", grpc.StatusCode.CANCELLED)
            try:
                done = await action()
                _describe(answer, name, "ok", grpc.StatusCode.OK)
                return done
            except Exception as problem:
                error = _visible(problem, request_id)
                _describe(answer, name, error.code, STATUS[error.code])
                if error is problem:
                    raise
                raise error from problem

    def _check_room(self, check_room: Callable[[float], None], left_s: float, name: str, headers: Headers) -> None:
        try:
            check_room(left_s)
        except OverloadedError:
            self._authorize(name, headers)  # a stranger is told that, and nothing of the load
            raise

    def _authorize(self, name: str, headers: Headers) -> None:
        act_as(self._access.check(headers.get("authorization"), _OPERATIONS.get(name, name)))

    def _left_s(self, waits_s: float | None) -> float:
        """How long there is for a call whose caller waits so long, or has not said."""
        return self._timeout_s if waits_s is None else min(waits_s, self._timeout_s)

    async def _limited(self, name: str, received: Received[M], work: Callable[[M], Awaitable[T]], left_s: float) -> T:
        """The work, within the memory and the time that there is for it."""
        with self._budget.hold(received.size):
            try:
                with due_in(left_s):
                    async with asyncio.timeout(self._timeout_s):
                        message = received.decoded()
                        _check_collection(name, message)
                        return await work(message)
            except TimeoutError as error:
                raise DeadlineExceededError(f"the request took longer than {self._timeout_s:g} s") from error


def _describe(answer: Answer, name: str, code: str, status: grpc.StatusCode) -> None:
    """Say what became of a call."""
    operation = f"{_PACKAGE}.{_OPERATIONS.get(name, name)}"
    answer.route, answer.label, answer.code, answer.name = name, code, code, operation
    answer.failed = status in _FAULTS
    service, _, method = operation.partition("/")
    number = status.value[0]
    answer.says = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": number}


def _check_collection(name: str, message: Any) -> None:
    """That the caller's key is for the collection that the message names."""
    path = RULES[_OPERATIONS[name]].collection if name in _OPERATIONS else ""
    if path:
        for part in path.split("."):
            message = getattr(message, part)
        check_collection(caller(), message)


async def _answer_all(context: Context, begin: Callable[[Received[M]], Awaitable[T]]) -> None:
    window = Window(context.read, begin)
    try:
        while window.open:
            for answer in await window.done():
                await context.write(answer)
    finally:
        await window.close()


async def _abort(context: Context, error: FaceError, request_id: str) -> NoReturn:
    trailing = [("error-code", error.code), ("x-request-id", request_id)]
    if "retry_after_s" in error.details:
        trailing.append(("retry-after", str(error.details["retry_after_s"])))
    await context.abort(STATUS[error.code], _cut(error.message), tuple(trailing))
    raise AssertionError("abort raises")


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"


def _visible(problem: Exception, request_id: str) -> FaceError:
    """What the caller gets to see; of a bug only that there is one."""
    if isinstance(problem, FaceError):
        return problem
    log.error("request %s failed", request_id, exc_info=problem)
    return FaceError("an unexpected error; the log names the request")


def _metadata(context: Context) -> Headers:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _request_id(headers: Headers) -> str:
    asked = headers.get("x-request-id", "")
    request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)
    belongs_to(request_id)
    return request_id
