"""Where the time of a request went, as spans of a trace. The tracer here keeps none; that of service/otlp.py does.

What a span says is chosen, never taken over: route templates, codes, counts, names of models. No path and no message
of an error, which name people; no image, vector or key.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

Attribute = str | int
Origin = Any  # what is waited for, as the tracer knows it; None where nothing is traced

_NOTHING = nullcontext()


@dataclass(slots=True)
class Answer:
    """What an adapter says of an answer, once it knows it.

    `label` is how metrics count it, `code` the domain's, `failed` that it is the server's fault.
    """

    route: str = "none"
    label: str = "cancelled"
    code: str = "cancelled"
    failed: bool = False
    name: str = "none"
    says: dict[str, Attribute] = field(default_factory=dict)


class Tracer:
    """Keeps nothing, and costs nothing. Calls may come from several threads."""

    def request(self, headers: Mapping[str, str], request_id: str, answer: Answer) -> AbstractContextManager[None]:
        """A request, from when it came until it is answered; in `headers` may be the caller's `traceparent`."""
        return _NOTHING

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Work for the request that is traced here, if one is."""
        return _NOTHING

    def shared(self, name: str, **says: Attribute) -> AbstractContextManager[None]:
        """Work for all the requests that `taken` named."""
        return _NOTHING

    def here(self) -> Origin:
        """What an item that is queued now is for."""
        return None

    def taken(self, queue: str, waited: Sequence[tuple[Origin, float]]) -> AbstractContextManager[None]:
        """Items leave a queue, each with its origin and the seconds that it waited; what follows is for these."""
        return _NOTHING

    def close(self) -> None:
        """Send what is left."""


NO_TRACES = Tracer()
