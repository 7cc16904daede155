"""How long a request may take, its upload included, and what becomes of it when its caller hangs up."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceededError, NotReadyError
from service.inference.urgency import due_in
from service.rest.errors import error_response
from service.rest.middleware import request_id
from service.rest.protocol import when_hung_up

log = logging.getLogger("facesphere.rest")

UPLOAD_GRACE_S = 8.0
UPLOAD_BYTES_PER_S = 1000


class Uploads:
    """The uploads of all requests that are waited for."""

    def __init__(self) -> None:
        self.ended = False
        self._limits: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Wait no longer for any that is not whole yet."""
        self.ended = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)

    @contextlib.contextmanager
    def waited_for(self, limit: asyncio.Timeout) -> Iterator[None]:
        """While it is open, `end` makes that time limit pass; after that it passes at once."""
        if self.ended:
            limit.reschedule(asyncio.get_running_loop().time())
        self._limits.add(limit)
        try:
            yield
        finally:
            self._limits.discard(limit)


class Deadline:
    """Ends a request after `seconds` with 504, upload included, and at once when the caller hangs up.

    An upload has eight seconds, and one more for each thousand bytes that came: a few hundred callers who send a byte
    now and then would hold as many connections until the deadline. When the server stops, an upload that is not whole
    yet is not waited for. A connection whose request was answered before it was read to its end is closed.

    All of it happens in the task of the request: several tasks for each cost as much as all else that is done here.
    """

    def __init__(self, app: ASGIApp, seconds: float, uploads: Uploads) -> None:
        self._app = app
        self._seconds = seconds
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        body = _Body(receive, self._uploads)
        headers = Headers(scope=scope)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and has_body and not body.read_to_the_end:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        with _HangingUp(scope), due_in(self._seconds):
            try:
                async with asyncio.timeout(self._seconds) as limit:
                    await self._app(scope, body.receive, send_noting)
            except Exception:  # mostly a TimeoutError, or whatever the application made of being cancelled
                if not limit.expired():
                    raise
                if not started:
                    error = DeadlineExceededError(f"the request took longer than {self._seconds:g} s")
                    await error_response(error, request_id(scope))(scope, receive, send_noting)


class _HangingUp:
    """While it is open: when the caller hangs up, what is done in it is cancelled, and nothing after it."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._task = asyncio.current_task()
        self._done = False

    def __enter__(self) -> None:
        when_hung_up(self._scope, self._cancel)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        when_hung_up(self._scope, None)
        if self._task is None or not self._done:
            return False
        self._task.uncancel()
        if isinstance(error, Exception):
            log.debug("request %s, whose caller hung up, ended in %r", request_id(self._scope), error)
        return error is None or isinstance(error, Exception | asyncio.CancelledError)

    def _cancel(self) -> None:
        if self._task is not None:
            self._done = True
            self._task.cancel()


class _Body:
    """The body of a request, as fast as its upload has to be."""

    def __init__(self, receive: Receive, uploads: Uploads) -> None:
        self._receive = receive
        self._uploads = uploads
        self._ends = asyncio.get_running_loop().time() + UPLOAD_GRACE_S
        self.read_to_the_end = False

    async def receive(self) -> Message:
        """ASGI's; after the body it waits for the caller to hang up."""
        if self.read_to_the_end:
            return await self._receive()
        message = await self._next()
        if not message.get("more_body", False):
            self.read_to_the_end = True
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._ends) as limit:
                with self._uploads.waited_for(limit):
                    message = await self._receive()
        except TimeoutError as error:
            if self._uploads.ended:
                raise NotReadyError("the server is stopping") from error
            raise DeadlineExceededError(f"the upload is slower than {UPLOAD_BYTES_PER_S} bytes/s") from error
        self._ends += len(message.get("body", b"")) / UPLOAD_BYTES_PER_S
        return message
