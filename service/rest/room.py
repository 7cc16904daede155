"""Photos for which there is no room are refused before anything is done about them.

A refusal that costs a tenth of an answer would, at ten times the load, leave nothing for answers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import OverloadedError
from service.rest.errors import error_response
from service.rest.middleware import UPLOAD_GRACE_S, request_id

# Routes that take photos and nothing else, whoever calls; what else they refuse, they refuse when there is room.
_PHOTO_ROUTES = frozenset(("/detect", "/embed"))
# So much is read and thrown away, so that the connection can be used again; for more it is closed.
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _Route:
    """As much of a route as is counted."""

    path: str


class Room:
    """Asks `check` before a photo is read; it refuses what would not be answered in so many seconds."""

    def __init__(self, app: ASGIApp, check: Callable[[float], None], seconds: float) -> None:
        self._app = app
        self._check = check
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        refusal = self._refusal() if _brings_photo(scope) else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = _Route(scope["path"])
        answer = error_response(refusal, request_id(scope))
        if not await _read_to_the_end(scope, receive):
            answer.headers["connection"] = "close"
        await answer(scope, receive, send)

    def _refusal(self) -> OverloadedError | None:
        try:
            self._check(self._seconds)
        except OverloadedError as error:
            return error
        return None


def _brings_photo(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in _PHOTO_ROUTES


async def _read_to_the_end(scope: Scope, receive: Receive) -> bool:
    """Throw the body away; False where it is too long, too slow, or of unknown length."""
    length = Headers(scope=scope).get("content-length", "")
    if not length.isdigit() or int(length) > _READ_BYTES:
        return False
    try:
        async with asyncio.timeout(UPLOAD_GRACE_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        return False
    return True
