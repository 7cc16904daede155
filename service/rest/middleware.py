"""What every HTTP request passes: an id, a size limit, a check of its origin, and a net for what nobody foresaw."""

import logging
import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import FaceError, PayloadTooLargeError
from service.errors import OverloadedError, PermissionDeniedError
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


def request_id(scope: Scope) -> str:
    """The id that RequestId gave the request."""
    return str(scope["state"]["request_id"])


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
