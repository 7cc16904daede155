"""Small servers that refuse, break off or talk nonsense before they answer: one of HTTP, one of gRPC."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc

from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc

MODEL = {"id": "m", "contract_id": "0123456789abcdef", "dimension": 4}


@dataclass
class Answer:
    """Status, body and Retry-After; no status: the connection is closed without an answer."""

    status: int | None
    body: Any = b""
    retry_after: str | None = None


def refusal(status: int, code: str, **details: Any) -> Answer:
    """An error as Facesphere answers it."""
    retry_after = details.pop("retry_after", None)
    return Answer(
        status, {"error": {"code": code, "message": code, "details": details}, "request_id": "r"}, retry_after
    )


@dataclass
class Http:
    """Answers in turn, the last one again and again, and notes what was asked."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def script(self, *answers: Answer) -> None:
        """Begin anew."""
        self.answers, self.asked = list(answers), []


@contextlib.contextmanager
def http_server() -> Iterator[Http]:
    """One that answers by its script."""
    state, lock = Http(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            with lock:
                state.asked.append(f"{self.command} {self.path}")
                answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            if answer.status is None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            if answer.retry_after is not None:
                self.send_header("retry-after", answer.retry_after)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


Behaviour = Callable[[Any, grpc.ServicerContext], Any]


@dataclass
class Rpc:
    """What each method does with a request, and every request that came."""

    address: str = ""
    unary: Behaviour | None = None
    item: Behaviour | None = None
    asked: list[Any] = field(default_factory=list)

    def script(self, unary: Behaviour | None = None, item: Behaviour | None = None) -> None:
        """Begin anew."""
        self.unary, self.item, self.asked = unary, item, []


@contextlib.contextmanager
def grpc_server() -> Iterator[Rpc]:
    """One that does what it is told."""
    state = Rpc()

    def unary(request: Any, context: grpc.ServicerContext) -> Any:
        state.asked.append(request)
        assert state.unary is not None
        return state.unary(request, context)

    def stream(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            state.asked.append(request.id)
            assert state.item is not None
            yield state.item(request, context)

    class Faces(pb_grpc.FaceEmbeddingServicer):
        Embed = staticmethod(unary)
        EmbedStream = staticmethod(stream)

    class Gallery(pb_grpc.GalleryServicer):
        Enroll = staticmethod(unary)
        EnrollStream = staticmethod(stream)
        DeleteSubject = staticmethod(unary)

    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_FaceEmbeddingServicer_to_server(Faces(), server)  # type: ignore[no-untyped-call]
    pb_grpc.add_GalleryServicer_to_server(Gallery(), server)  # type: ignore[no-untyped-call]
    state.address = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield state
    finally:
        server.stop(0).wait()


def embedded(value: float = 1.0) -> pb.EmbedResponse:
    """An answer of Embed."""
    model = pb.Model(id="m", contract_id="0123456789abcdef", dimension=1)
    return pb.EmbedResponse(model=model, faces=[pb.Face(embedding=[value])])


def abort(context: grpc.ServicerContext, status: grpc.StatusCode, code: str | None, retry_after: str = "0") -> None:
    """Refuse, as Facesphere does where there is a code."""
    if code is not None:
        context.set_trailing_metadata((("error-code", code), ("x-request-id", "r"), ("retry-after", retry_after)))
    context.abort(status, code or "no code")
