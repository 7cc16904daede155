"""uvicorn's HTTP protocol, with a limit on how long a connection may take to say what it wants, and word of its end."""

import asyncio
from collections.abc import Callable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_TIMEOUT_S = 8.0
_HUNG_UP = "hung_up"


def when_hung_up(scope: Scope, tell: Callable[[], None] | None) -> None:
    """Have `tell` called when the caller of this request hangs up before it is answered; None for nothing any more."""
    scope["state"][_HUNG_UP] = tell


class HttpProtocol(HttpToolsProtocol):
    """Closes a connection that has not sent a whole header within eight seconds.

    uvicorn itself waits for ever for a first request, and for the rest of a header; a few thousand such connections use
    up a server's file handles.
    """

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        super().connection_made(transport)
        self._expect_header()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._expect_header()

    def on_headers_complete(self) -> None:
        """The header is whole; what follows is under the deadline of the request."""
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        super().on_message_complete()
        # Of a large one uvicorn stops reading until it is asked for more, and who does not read hears of no hanging up.
        if not self.pipeline:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_timer()
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            tell: Callable[[], None] | None = self.cycle.scope.get("state", {}).get(_HUNG_UP)
            if tell is not None:
                tell()

    def _expect_header(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
