"""Prometheus metrics, one registry a server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """What both adapters count. Labels are route templates, never paths: names of people stay out of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "facesphere_requests", "Requests answered", ["protocol", "route", "code"], registry=self.registry
        )
        self.open = Gauge("facesphere_requests_open", "Requests not answered yet", ["protocol"], registry=self.registry)
        self.seconds = Histogram(
            "facesphere_request_seconds", "Time to answer", ["protocol", "route"], registry=self.registry
        )

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A value that is read when it is asked for."""
        Gauge(f"facesphere_{name}", description, registry=self.registry).set_function(value)

    def observe(self, protocol: str, route: str, code: str, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(protocol, route, code).inc()
        self.seconds.labels(protocol, route).observe(seconds)
