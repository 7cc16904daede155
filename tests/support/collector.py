"""A collector of traces: an HTTP server that reads OTLP."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from live_server import wait_until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """What came of one span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: frozenset[str]
    events: int
    status: int
    message: str
    kind: int
    seconds: float


@dataclass
class Collector:
    """What came, and by which paths."""

    url: str
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    scopes: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, once that of the request is there, which ends last."""

        def found() -> list[Span]:
            return [span for span in list(self.spans) if span.trace_id == trace_id]

        wait_until(lambda: any(span.kind == 2 for span in found()))
        return found()

    def take(self, path: str, body: bytes) -> None:
        """What a server sent."""
        self.paths.add(path)
        if path != "/v1/traces":
            return
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(_values(each.resource.attributes))
            for scope in each.scope_spans:
                self.scopes.add(scope.scope.name)
                self.spans.extend(_span(span) for span in scope.spans)


def _span(span: Any) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _values(span.attributes),
        frozenset(link.span_id.hex() for link in span.links),
        len(span.events),
        span.status.code,
        span.status.message,
        span.kind,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
