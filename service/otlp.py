"""Traces by OpenTelemetry, sent as OTLP over HTTP. Loaded only where tracing is on: the SDK is an extra.

Where they go, with which headers, and how many of them are the standard OTEL_* variables' to say. The global tracer
provider is left alone: what libraries would trace on their own, paths in which people are named, goes nowhere.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from models.errors import FaceError
from service.errors import InvalidRequestError
from service.logs import traced_as
from service.tracing import Answer, Attribute, Origin, Tracer

_SERVED = contexts.create_key("facesphere-served")
GIVE_UP_AFTER_S = 2.0
_FORM = "http/protobuf"
_NOTHING = contextlib.nullcontext()


def otlp_tracer(version: str) -> Tracer:
    """The tracer that the OTEL_* variables describe.

    Raises:
        InvalidRequestError: they ask for what this server cannot do, or one has a value that it cannot have.
    """
    for name, only in (
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", _FORM),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", _FORM),
    ):
        if os.environ.get(name, only) not in ("", only):
            raise InvalidRequestError(f"{name} is {os.environ[name]!r}; traces are sent as {only} only")
    ours = {"service.name": "facesphere", "service.version": version}
    try:
        resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise InvalidRequestError(f"an OTEL_* variable: {error}") from error
    return OtlpTracer(provider, version, exporter.shutdown)


class OtlpTracer(Tracer):
    """Spans of requests, of the stages of their work, and of the queues between them."""

    def __init__(self, provider: TracerProvider, version: str, give_up: Callable[[], None] = lambda: None) -> None:
        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("facesphere", version)
        self._propagator = TraceContextTextMapPropagator()

    @contextlib.contextmanager
    def request(self, headers: Mapping[str, str], request_id: str, answer: Answer) -> Iterator[None]:
        """As Tracer.request; the trace is the caller's, or a new one."""
        context = self._propagator.extract(headers, contexts.Context())
        # Neither the message of an exception nor its traceback: both name people.
        with self._tracer.start_as_current_span(
            "request", context, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            traced_as(trace.format_trace_id(span.get_span_context().trace_id))
            try:
                yield
            finally:
                span.update_name(answer.name)
                said = {"facesphere.request_id": request_id, "facesphere.code": answer.code}
                span.set_attributes({**answer.says, **said})
                if answer.failed:
                    span.set_status(Status(StatusCode.ERROR))

    def stage(self, name: str) -> AbstractContextManager[None]:
        """As Tracer.stage; what is done for no request, such as warming up, is no trace of its own."""
        return self._span(name) if trace.get_current_span().is_recording() else _NOTHING

    def shared(self, name: str, **says: Attribute) -> AbstractContextManager[None]:
        """As Tracer.shared: a span of the request that waited longest, linked with all of them in both directions."""
        served: tuple[Span, ...] = contexts.get_value(_SERVED) or ()  # type: ignore[assignment]
        return self._span(name, served, **says) if served else _NOTHING

    def here(self) -> Origin:
        """As Tracer.here."""
        span = trace.get_current_span()
        return span if span.is_recording() else None

    def taken(self, queue: str, waited: Sequence[tuple[Origin, float]]) -> AbstractContextManager[None]:
        """As Tracer.taken: a span of each request for its longest wait."""
        longest: dict[Span, float] = {}
        for span, seconds in waited:
            if span is not None and span.is_recording():  # not of one that has been given up
                longest[span] = max(seconds, longest.get(span, 0.0))
        return self._serving(queue, longest) if longest else _NOTHING

    def close(self) -> None:
        """As Tracer.close; where no collector answers, no longer than a few seconds."""
        giving_up = threading.Timer(GIVE_UP_AFTER_S, self._give_up)
        giving_up.daemon = True
        giving_up.start()
        self._provider.shutdown()
        giving_up.cancel()

    @contextlib.contextmanager
    def _serving(self, queue: str, longest: dict[Span, float]) -> Iterator[None]:
        now = time.time_ns()
        for span, seconds in longest.items():
            began = now - int(seconds * 1e9)
            parent = trace.set_span_in_context(span, contexts.Context())
            self._tracer.start_span(f"{queue} queue", parent, start_time=began).end(now)
        first = max(longest, key=lambda span: longest[span])
        served = (first, *(span for span in longest if span is not first))
        token = contexts.attach(contexts.set_value(_SERVED, served, trace.set_span_in_context(first)))
        try:
            yield
        finally:
            contexts.detach(token)

    @contextlib.contextmanager
    def _span(self, name: str, served: Sequence[Span] = (), **says: Attribute) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name,
            links=[Link(each.get_span_context()) for each in served],
            attributes={f"facesphere.{key}": value for key, value in says.items()},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            for other in served[1:]:
                other.add_link(span.get_span_context())
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", error.code if isinstance(error, FaceError) else type(error).__name__)
                raise
