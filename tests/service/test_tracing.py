"""Traces: of one request through queues and stages, of many requests through one run, and what is never in them."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from collector import Collector, Span, collecting
from live_server import LiveServer, command, environment, live_server, wait_until
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.errors import InvalidRequestError
from service.inference.batcher import Batcher, BatcherOptions
from service.metrics import Metrics
from service.otlp import OtlpTracer, otlp_tracer
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.tracing import Answer

KEY = "a-key-of-their-own-0123456789"
PERSON, PLACE, FORM = "Ann-Uncommon", "uncommon-lab", "form-uncommon"
CALLER = "00f067aa0ba902b7"
SAID = {
    "facesphere.request_id",
    "facesphere.code",
    "facesphere.model",
    "facesphere.batch",
    "error.type",
    "http.request.method",
    "http.route",
    "http.response.status_code",
    "rpc.system",
    "rpc.service",
    "rpc.method",
    "rpc.grpc.status_code",
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[LiveServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")  # its spans have paths in them
        folder = tmp_path_factory.mktemp("data")
        with live_server(folder, models_dir=str(models_dir), tracing="true", api_key=KEY) as running:
            running.client.headers["authorization"] = f"Bearer {KEY}"
            yield running


def _parent(trace_id: str) -> str:
    return f"00-{trace_id}-{CALLER}-01"


def _tree(spans: list[Span]) -> dict[str, set[str]]:
    """Names of spans, by the name of the span that they are in."""
    names = {span.span_id: span.name for span in spans} | {CALLER: "caller"}
    tree: dict[str, set[str]] = {}
    for span in spans:
        tree.setdefault(names[span.parent_id], set()).add(span.name)
    return tree


def _one(spans: list[Span], name: str) -> Span:
    (span,) = [each for each in spans if each.name == name]
    return span


def test_a_call_over_rest_is_a_trace_from_its_caller_to_the_network_and_the_gallery(
    server: LiveServer, collector: Collector, face_photo: bytes
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    server.client.put(f"/collections/{PLACE}", json={"purpose": "uncommon purpose"})
    subject = f"/collections/{PLACE}/subjects/{PERSON}"
    server.client.post(f"{subject}/faces", files={"images": face_photo}, data={"consent": FORM})
    answer = server.client.post(
        f"/collections/{PLACE}/identify",
        files={"image": face_photo},
        headers={"traceparent": _parent(trace_id), "x-request-id": "r-1"},
    )
    assert answer.json()["decision"] == "known"
    spans = collector.trace(trace_id)
    name = "POST /collections/{collection}/identify"

    assert _tree(spans) == {
        "caller": {name},
        name: {"gallery queue", "read", "photo queue", "photo", "embed queue", "embed", "search", "commit"},
        "photo": {"decode", "detect", "align"},
    }
    request, run = _one(spans, name), _one(spans, "embed")
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/collections/{collection}/identify",
        "http.response.status_code": 200,
        "facesphere.request_id": "r-1",
        "facesphere.code": "ok",
    }
    assert run.attributes == {"facesphere.model": "sface-2021dec", "facesphere.batch": 1}
    assert run.links == {request.span_id}
    assert all(0 <= span.seconds <= request.seconds for span in spans)


def test_a_call_over_grpc_is_a_trace_as_well(server: LiveServer, collector: Collector, face_photo: bytes) -> None:
    trace_id = "5bf92f3577b34da6a3ce929d0e0e4736"
    probe = pb.Probe(image=face_photo)
    metadata = (
        ("authorization", f"Bearer {KEY}"),
        ("traceparent", _parent(trace_id)),
        ("x-request-id", "r-2"),
    )
    assert server.faces.Verify(pb.VerifyRequest(a=probe, b=probe), metadata=metadata).matched
    spans = collector.trace(trace_id)
    name = "face_embedding.v1.FaceEmbedding/Verify"

    tree = _tree(spans)
    assert tree["caller"] == {name}
    assert {"photo queue", "photo", "embed queue", "embed", "commit"} <= tree[name]
    assert tree["photo"] == {"decode", "detect", "align"}
    assert sum(span.name == "photo" for span in spans) == 2
    request = _one(spans, name)
    assert request.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "face_embedding.v1.FaceEmbedding",
        "rpc.method": "Verify",
        "rpc.grpc.status_code": 0,
        "facesphere.request_id": "r-2",
        "facesphere.code": "ok",
    }
    assert all(span.links == {request.span_id} for span in spans if span.name == "embed")


def test_each_item_of_a_stream_is_a_request_of_its_own(
    server: LiveServer, collector: Collector, face_photo: bytes
) -> None:
    trace_id = "bbf92f3577b34da6a3ce929d0e0e4736"
    items = [
        pb.EmbedStreamRequest(id=name, request=pb.EmbedRequest(image=data))
        for name, data in (
            ("a", face_photo),
            ("b", b"no image"),
        )
    ]
    metadata = (("authorization", f"Bearer {KEY}"), ("traceparent", _parent(trace_id)))
    assert len(list(server.faces.EmbedStream(iter(items), metadata=metadata))) == 2

    def requests() -> list[Span]:
        return [span for span in list(collector.spans) if span.trace_id == trace_id and span.kind == 2]

    wait_until(lambda: len(requests()) == 2)
    assert {span.attributes["facesphere.code"] for span in requests()} == {"ok", "invalid_image"}
    assert {span.parent_id for span in requests()} == {CALLER}


def test_a_refused_call_says_its_code_and_no_message(server: LiveServer, collector: Collector) -> None:
    trace_id = "6bf92f3577b34da6a3ce929d0e0e4736"
    body = {"embedding": [1.0] * 3}
    path = f"/collections/{PLACE}/subjects/{PERSON}-of-nowhere/verify"
    answer = server.client.post(path, json=body, headers={"traceparent": _parent(trace_id)})
    assert answer.status_code == 404
    spans = collector.trace(trace_id)

    request = next(span for span in spans if span.kind == 2)
    assert request.attributes["facesphere.code"] == "not_found"
    assert request.attributes["http.response.status_code"] == 404
    assert request.status == 0  # it is no fault of the server
    assert {span.attributes.get("error.type") for span in spans} <= {"not_found", None}


def test_a_call_that_the_caller_does_not_sample_leaves_no_trace(
    server: LiveServer, collector: Collector, face_photo: bytes
) -> None:
    unwanted = "7bf92f3577b34da6a3ce929d0e0e4736"
    server.client.post("/detect", files={"image": face_photo}, headers={"traceparent": f"00-{unwanted}-{CALLER}-00"})
    wanted = "8bf92f3577b34da6a3ce929d0e0e4736"
    server.client.post("/detect", files={"image": face_photo}, headers={"traceparent": _parent(wanted)})

    assert collector.trace(wanted)
    assert not [span for span in collector.spans if span.trace_id == unwanted]


def test_nothing_personal_is_in_a_trace_and_nobody_else_sends_any(
    server: LiveServer, collector: Collector, face_photo: bytes
) -> None:
    server.client.put(f"/collections/{PLACE}", json={"purpose": "uncommon purpose"})
    person = f"/collections/{PLACE}/subjects/{PERSON}"
    server.client.post(f"{person}/faces", files={"images": face_photo}, data={"consent": FORM})
    embedded = server.client.post("/embed?encoding=base64", files={"image": face_photo}).json()
    vector = embedded["faces"][0]["embedding"]
    server.client.post("/verify", json={"a": {"embedding": [1.0] * 3}, "b": {"image": "uncommon"}})  # refused
    identify = {"image": base64.b64encode(face_photo).decode()}
    server.client.post(f"/collections/{PLACE}/identify", json=identify)
    server.client.get(f"{person}/export")
    last = "9bf92f3577b34da6a3ce929d0e0e4736"
    receipt = server.client.delete(person, headers={"traceparent": _parent(last)}).json()
    assert collector.trace(last)

    secrets = [KEY, PERSON, PLACE, FORM, "uncommon", vector[:40], base64.b64encode(face_photo)[200:260].decode()]
    secrets += receipt["face_ids"]
    assert collector.spans
    for span in collector.spans:
        assert set(span.attributes) <= SAID, span
        assert span.events == 0
        assert span.message == ""
        text = json.dumps([span.name, span.attributes])
        assert not any(secret in text for secret in secrets), span
    assert {resource["service.name"] for resource in collector.resources} == {"facesphere"}
    assert collector.scopes == {"facesphere"}
    assert collector.paths == {"/v1/traces"}


def test_one_run_for_several_requests_is_linked_with_each_of_them() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OtlpTracer(provider, "1")
    metrics = Metrics(tracer)
    hold, holding = threading.Event(), threading.Event()

    def run(items: list[int]) -> list[int]:
        holding.set()
        hold.wait(10)
        with metrics.run("a-model", len(items)):
            return items

    batcher: Batcher[int, int] = Batcher("embed", run, BatcherOptions(max_batch=3, predict=False), tracer=tracer)
    (blocking,) = batcher.submit([0])  # for no request: warming up, for one
    assert holding.wait(10)
    answers, futures = [Answer(name=name) for name in ("a", "b")], list[Future[int]]()
    with tracer.request({}, "r-a", answers[0]):
        futures += batcher.submit([1, 2])  # two faces of one photo
        with tracer.request({}, "r-b", answers[1]):
            futures += batcher.submit([3])
            hold.set()
            assert [future.result(10) for future in [blocking, *futures]] == [0, 1, 2, 3]
            batcher.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}

    assert sorted(span.name for span in exporter.get_finished_spans()) == [
        "a",
        "b",
        "embed",
        "embed queue",
        "embed queue",
    ]
    run_id = spans["embed"].context
    assert {link.context.span_id for link in spans["embed"].links} == {
        spans["a"].context.span_id,
        spans["b"].context.span_id,
    }
    assert spans["embed"].parent.span_id == spans["a"].context.span_id
    assert [link.context.span_id for link in spans["b"].links] == [run_id.span_id]
    assert spans["a"].context.trace_id != spans["b"].context.trace_id
    assert spans["embed"].attributes == {"facesphere.model": "a-model", "facesphere.batch": 3}


_SAYS = """
import logging
from opentelemetry.sdk.trace import TracerProvider
from service.logs import log_to_stderr
from service.otlp import OtlpTracer
from service.tracing import Answer
log_to_stderr("info", "json")
with OtlpTracer(TracerProvider(), "1").request({"traceparent": "%s"}, "r", Answer()):
    logging.getLogger("facesphere.test").info("told")
"""


def test_a_line_of_the_log_says_of_which_trace_it_is() -> None:
    trace_id = "abf92f3577b34da6a3ce929d0e0e4736"
    says = _SAYS % _parent(trace_id)
    run = subprocess.run([sys.executable, "-c", says], capture_output=True, text=True, check=True)

    assert json.loads(run.stderr)["trace_id"] == trace_id


def test_the_sdk_is_not_loaded_where_nothing_is_traced() -> None:
    asks = "import sys, service.app; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    run = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True)

    assert run.stdout == "[]\n"


def test_tracing_without_its_packages_is_an_error_of_one_line(tmp_path: Path) -> None:
    without = "import sys; sys.modules['opentelemetry.sdk'] = None; from service.__main__ import main; main()"
    serve = [sys.executable, "-c", without, *command("serve")[3:], "--data-dir", str(tmp_path / "data")]
    run = subprocess.run(serve, capture_output=True, text=True, env=environment(tracing="true"))

    assert run.returncode == 2
    assert "pip install 'facesphere[tracing]'" in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, name, value)

    with pytest.raises(InvalidRequestError, match="OTEL_"):
        otlp_tracer("1")
