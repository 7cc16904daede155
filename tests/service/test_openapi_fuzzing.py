"""Calls made up from the OpenAPI document, right ones and wrong ones: no answer but those that it promises."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from live_server import LiveServer, live_server
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

TORTURE = float(os.environ.get("TORTURE", "0"))
KEY = "a-key-for-everything-32-letters"
# Once there is a key, who has none is let in nowhere: without one, nothing makes one.
MAKES_KEYS = ("POST", "/keys")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MADE_UP = settings(
    max_examples=max(1, round(500 * TORTURE)) if TORTURE else 10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

pytestmark = pytest.mark.timeout(0 if TORTURE else 120)


@pytest.fixture(scope="module", params=["without a key", "with a key"])
def target(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, requests.Session]]:
    """A server, and who calls it."""
    options = {"api_key": KEY} if request.param == "with a key" else {}
    with (
        live_server(tmp_path_factory.mktemp("data"), models_dir=str(models_dir), **options) as server,
        requests.Session() as session,
    ):
        if options:
            session.auth = _authorized  # a header alone is left out of some of the calls that are made up
            server.client.headers["authorization"] = f"Bearer {KEY}"
        yield server, session


def _authorized(call: requests.PreparedRequest) -> requests.PreparedRequest:
    call.headers["authorization"] = f"Bearer {KEY}"
    return call


def _operations(server: LiveServer) -> Iterator[Any]:
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    schema.config.update(base_url=server.http)
    for result in schema.get_all_operations():
        operation = result.ok()
        if "authorization" in server.client.headers or (operation.method.upper(), operation.path) != MAKES_KEYS:
            yield operation


def _cases(server: LiveServer, operation: Any) -> Iterator[SearchStrategy[Any]]:
    """Right calls and wrong ones, of what is there and of what is not."""
    server.client.put("/collections/lab", json={"purpose": "p"})
    server.client.post("/collections/lab/subjects/Ann/faces", json={"embedding": [1.0] + [0.0] * 127})
    names = {each.name for each in operation.path_parameters}
    there = {name: value for name, value in {"collection": "lab", "subject": "Ann"}.items() if name in names}
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        yield operation.as_strategy(mode)
        if there and names == there.keys():
            yield operation.as_strategy(mode, path_parameters=there)


def test_calls_made_up_from_the_document_get_answers_that_it_promises(
    target: tuple[LiveServer, requests.Session],
) -> None:
    server, session = target
    statuses: Counter[int] = Counter()

    def call(case: Any) -> None:
        answer = case.call(session=session)
        case.validate_response(answer, checks=CHECKS)
        statuses[answer.status_code] += 1

    for operation in _operations(server):
        for cases in _cases(server, operation):
            with suppress(Unsatisfiable):  # what takes no parameter cannot be given a wrong one
                MADE_UP(given(cases)(call))()
    print(f"{statuses.total()} calls, by status: {dict(sorted(statuses.items()))}")
    assert statuses[200] > 0
    assert statuses[400] > 0
