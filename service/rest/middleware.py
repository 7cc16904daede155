"""What every HTTP request passes: an id, a size limit, a deadline, a check of its origin, and an ear for hanging up."""

import asyncio
import logging
import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import FaceError, PayloadTooLargeError
from service.errors import DeadlineExceededError, NotReadyError, OverloadedError, PermissionDeniedError
from service.inference.urgency import due_in
from service.logs import belongs_to
from service.rest.errors import error_response
from service.security.access import is_loopback

log = logging.getLogger("facesphere.rest")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HOST = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9._-]+)(?::[0-9]+)?")


class RequestId:
    """Takes the caller's x-request-id, or makes one, and returns it with every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        belongs_to(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class SameSite:
    """Keeps other web sites from using a visitor's browser as a way in.

    A page of another origin may send simple POSTs to 127.0.0.1, and by rebinding its name to that address even read the
    answers. So a request whose Origin is another site is refused, and a server without keys answers only to names of
    this machine.
    """

    def __init__(self, app: ASGIApp, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await error_response(PermissionDeniedError(problem), request_id(scope))(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if self._loopback_only and not is_loopback(_host_name(host)):
            return f"without a key this server answers only to this machine's own names, not to {host!r}"
        origin = headers.get("origin")
        if origin is not None and _site(origin) != host.lower():
            return f"requests from the site {origin} are not accepted"
        return None


class Unexpected:
    """What nobody foresaw: a 500 for the caller, the traceback with the request's id for the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception:
            if scope["type"] != "http":
                raise
            log.exception("request %s failed", request_id(scope))
            if not started:
                error = FaceError("an unexpected error; the log names the request")
                await error_response(error, request_id(scope))(scope, receive, send)


class BodyLimit:
    """Refuses a body over the limit: at once if its length is stated, else as soon as it is passed.

    Bodies of all open requests together are bounded too, so that many uploads cannot fill the memory.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_pending_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_pending_bytes = max_pending_bytes
        self._pending = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        if stated.isdigit() and int(stated) > self._max_bytes:
            await error_response(self._error(), request_id(scope))(scope, receive, send)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._pending += size
            if received > self._max_bytes:
                raise self._error()
            if self._pending > self._max_pending_bytes and self._pending > received:  # one alone may be that large
                raise OverloadedError(f"{self._pending} bytes of uploads are being worked on already")
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            self._pending -= received

    def _error(self) -> FaceError:
        return PayloadTooLargeError(f"the request is larger than {self._max_bytes} bytes", limit=self._max_bytes)


UPLOAD_GRACE_S = 8.0
UPLOAD_BYTES_PER_S = 1000


class Deadline:
    """Ends a request after `seconds` with 504, upload included, and at once when the caller hangs up.

    An upload has eight seconds, and one more for each thousand bytes that came: a few hundred callers who send a byte
    now and then would hold as many connections until the deadline. When the server stops, an upload that is not whole
    yet is not waited for. A connection whose request was answered before it was read to its end is closed.
    """

    def __init__(self, app: ASGIApp, seconds: float, stopping: asyncio.Event) -> None:
        self._app = app
        self._seconds = seconds
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        line = _Line(receive)
        headers = Headers(scope=scope)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and has_body and not line.read_to_the_end:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        with due_in(self._seconds):
            work = asyncio.ensure_future(self._app(scope, line.receive, send_noting))
        hung_up = asyncio.ensure_future(line.hung_up())
        too_late = asyncio.ensure_future(line.cut_off_by(self._stopping))
        try:
            ends = {work, hung_up, too_late}
            await asyncio.wait(ends, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
            elif not hung_up.done() and not started:
                await _cancel(work)
                await error_response(self._error(too_late.done()), request_id(scope))(scope, receive, send_noting)
        finally:
            await _cancel(work, hung_up, too_late)

    def _error(self, stopping: bool) -> FaceError:
        if stopping:
            return NotReadyError("the server is stopping")
        return DeadlineExceededError(f"the request took longer than {self._seconds:g} s")


class _Line:
    """The connection to the caller: gives the body to the application, then listens for the caller hanging up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._body_read = asyncio.Event()
        self._gone = asyncio.Event()
        self._ends = asyncio.get_running_loop().time() + UPLOAD_GRACE_S

    @property
    def read_to_the_end(self) -> bool:
        """Whether the whole body was taken off the connection."""
        return self._body_read.is_set()

    async def receive(self) -> Message:
        if self._body_read.is_set():
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._next()
        if message["type"] == "http.disconnect":
            self._gone.set()
        if not message.get("more_body", False):
            self._body_read.set()
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError as error:
            raise DeadlineExceededError(f"the upload is slower than {UPLOAD_BYTES_PER_S} bytes/s") from error
        self._ends += len(message.get("body", b"")) / UPLOAD_BYTES_PER_S
        return message

    async def cut_off_by(self, stopping: asyncio.Event) -> None:
        """Returns when the server stops while the body is not read to its end; else never."""
        await stopping.wait()
        if self._body_read.is_set():
            await asyncio.Future()

    async def hung_up(self) -> None:
        await self._body_read.wait()
        while not self._gone.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()


def request_id(scope: Scope) -> str:
    """The id that RequestId gave the request."""
    return str(scope["state"]["request_id"])


async def _cancel(*tasks: "asyncio.Future[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _site(origin: str) -> str | None:
    """Host and port of an Origin header; None if it is no address of a site."""
    try:
        return urlsplit(origin.lower()).netloc or None
    except ValueError:
        return None


def _host_name(host: str) -> str:
    """The name in a Host header, or nothing if it is not of the form NAME or NAME:PORT."""
    match = _HOST.fullmatch(host.lower())
    return match[1] if match else ""
