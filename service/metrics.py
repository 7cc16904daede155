"""Prometheus metrics, one registry a server; what is timed here is traced too, where traces are kept."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.tracing import NO_TRACES, Answer, Tracer

_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SIMILARITIES = tuple(round(-0.2 + 0.1 * step, 1) for step in range(13))  # up to 1.0


class Metrics:
    """What both adapters count. Labels are route templates, never paths: names of people stay out of them."""

    def __init__(self, tracer: Tracer = NO_TRACES) -> None:
        self.tracer = tracer
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "facesphere_requests", "Requests answered", ["protocol", "route", "code"], registry=self.registry
        )
        self.open = Gauge("facesphere_requests_open", "Requests not answered yet", ["protocol"], registry=self.registry)
        self.seconds = Histogram(
            "facesphere_request_seconds", "Time to answer", ["protocol", "route"], registry=self.registry
        )

        self._stages = Histogram(
            "facesphere_stage_seconds",
            "Time of work itself, without waiting",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "facesphere_batch_faces", "Faces embedded in one go", buckets=_POWERS, registry=self.registry
        )
        self.faces = Histogram(
            "facesphere_photo_faces", "Faces found in a photo", buckets=(0, *_POWERS), registry=self.registry
        )
        self._similarity = Histogram(
            "facesphere_similarity",
            "Cosine of what was decided on",
            ["kind", "decision"],
            buckets=_SIMILARITIES,
            registry=self.registry,
        )
        self._gallery = Gauge(
            "facesphere_gallery", "What is enrolled, of all collections", ["what"], registry=self.registry
        )
        self._model = Gauge(
            "facesphere_model_info",
            "Models that are served",
            ["kind", "id", "contract_id", "device"],
            registry=self.registry,
        )
        self._served: dict[str, tuple[str, str, str, str]] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note how long a block took: photo, decode, detect, align, read, search or commit."""
        with self.tracer.stage(name), self._timed(name):
            yield

    @contextlib.contextmanager
    def run(self, model_id: str, batch: int) -> Iterator[None]:
        """A run of an embedder, the stage `embed`, for crops of one or of many requests."""
        self.batch.observe(batch)
        with self.tracer.shared("embed", model=model_id, batch=batch), self._timed("embed"):
            yield

    @contextlib.contextmanager
    def request(self, protocol: str, headers: Mapping[str, str], request_id: str) -> Iterator[Answer]:
        """A request from when it came; the adapter says in the answer what became of it."""
        answer, began = Answer(), time.perf_counter()
        with self.tracer.request(headers, request_id, answer):
            try:
                yield answer
            finally:
                self.observe(protocol, answer.route, answer.label, time.perf_counter() - began)

    def decided(self, kind: str, similarity: float, matched: bool) -> None:
        """Count a decision (verify, identify) with its cosine; no threshold has to be known to see one drift."""
        self._similarity.labels(kind, "match" if matched else "no_match").observe(similarity)

    def enrolled(self, **numbers: int) -> None:
        """How many collections, subjects and faces there are; of all together, so that no name is in a label."""
        for what, number in numbers.items():
            self._gallery.labels(what).set(number)

    def serves(self, kind: str, model_id: str, contract_id: str, device: str) -> None:
        """Say which model serves, in place of the one of its kind before."""
        labels = (kind, model_id, contract_id, device)
        if kind in self._served:
            self._model.remove(*self._served[kind])
        self._served[kind] = labels
        self._model.labels(*labels).set(1)

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"facesphere_{name}", description, registry=self.registry).set_function(value)

    def observe(self, protocol: str, route: str, code: str, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(protocol, route, code).inc()
        self.seconds.labels(protocol, route).observe(seconds)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.labels(stage).observe(time.perf_counter() - began)
