"""Photos for which there is no room are refused before anything is done about them.

A refusal that costs a tenth of an answer would, at ten times the load, leave nothing for answers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import FaceError
from service.errors import OverloadedError
from service.rest.deadline import UPLOAD_GRACE_S
from service.rest.errors import error_response
from service.rest.middleware import request_id

# Routes that take photos and nothing else, whoever calls; what else they refuse, they refuse when there is room.
_PHOTO_ROUTES = frozenset(("/detect", "/embed"))
# So much is read and thrown away before the refusal: one that is sent while the caller still sends may never reach it.
# Of more, or where nobody knows how much it is, the application refuses, which reads all of it too.
_READ_BYTES = 2**20
Check = Callable[[float], None]
Authorize = Callable[[str | None, str], object]


@dataclass(frozen=True, slots=True)
class _Route:
    """As much of a route as is counted."""

    path: str


class Room:
    """Asks `check` before a photo is read; it refuses what would not be answered in so many seconds.

    Whom `authorize` refuses is told that, and nothing of the load. It is asked only of those who end here, since it
    counts the calls of a key.
    """

    def __init__(self, app: ASGIApp, check: Check, authorize: Authorize, seconds: float) -> None:
        self._app = app
        self._check = check
        self._authorize = authorize
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        refusal = self._refusal(scope) if _brings_photo(scope) else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = _Route(scope["path"])
        answer = error_response(refusal, request_id(scope))
        if not await _read_to_the_end(receive):
            answer.headers["connection"] = "close"
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> FaceError | None:
        try:
            self._check(self._seconds)
        except OverloadedError as overloaded:
            try:
                self._authorize(Headers(scope=scope).get("authorization"), f"POST {scope['path']}")
            except FaceError as unauthorized:
                return unauthorized
            return overloaded
        return None


def _brings_photo(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _PHOTO_ROUTES:
        return False
    length = Headers(scope=scope).get("content-length", "")
    return length.isascii() and length.isdigit() and len(length) < 16 and int(length) <= _READ_BYTES


async def _read_to_the_end(receive: Receive) -> bool:
    """Throw the body away; False where it does not come."""
    try:
        async with asyncio.timeout(UPLOAD_GRACE_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return False
    return True
