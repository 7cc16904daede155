"""The gRPC server: its services, health and reflection on one port."""

from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from service.admin import ModelJobs
from service.catalogue import Catalogue
from service.errors import InvalidRequestError
from service.grpc_api.calls import Calls
from service.grpc_api.face_embedding import FaceEmbedding
from service.grpc_api.gallery import Gallery
from service.grpc_api.models import Models
from service.grpc_api.received import Budget, Decoding
from service.metrics import Metrics
from service.pb.face_embedding.v1 import face_embedding_pb2 as pb
from service.pb.face_embedding.v1 import face_embedding_pb2_grpc as pb_grpc
from service.people import People
from service.security.access import Access
from service.security.tls import TlsFiles
from service.served import Served

SERVICES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())


@dataclass(frozen=True, slots=True)
class GrpcParts:
    """What the services stand on."""

    served: Served
    people: People
    catalogue: Catalogue
    model_jobs: ModelJobs
    access: Access
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """Where to listen, and limits."""

    host: str
    port: int
    max_message_bytes: int
    request_timeout_s: float
    max_pending_bytes: int = 2**30
    tls: TlsFiles | None = None


class GrpcServer:
    """Start and stop are called in the event loop that serves."""

    def __init__(self, parts: GrpcParts, options: GrpcOptions) -> None:
        self._parts = parts
        self._options = options
        self._health = HealthServicer()
        self._server: grpc.aio.Server | None = None
        self.port = options.port

    async def start(self) -> None:
        """Listen.

        Raises:
            InvalidRequestError: the port cannot be used.
        """
        options = self._options
        server = grpc.aio.server(
            interceptors=[Decoding(SERVICES)],
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second server would silently share the port
                # Whoever connects and says nothing, or stops in the middle without answering a ping, is gone in 9 s.
                ("grpc.server_handshake_timeout_ms", 8000),
                ("grpc.keepalive_time_ms", 5000),
                ("grpc.keepalive_timeout_ms", 4000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.max_pings_without_data", 0),  # no limit
                ("grpc.http2.min_time_between_pings_ms", 5000),
                ("grpc.http2.settings_timeout", 8000),
                ("grpc.max_concurrent_streams", 256),
            ],
        )
        self._register(server)
        host = f"[{options.host}]" if ":" in options.host else options.host
        try:
            address = f"{host}:{options.port}"
            tls = options.tls
            self.port = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidRequestError(f"gRPC cannot listen on {host}:{options.port}") from error
        await server.start()
        self._server = server

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give open ones `grace_s` seconds."""
        if self._server is not None:
            await self._server.stop(grace_s)

    async def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 answers."""
        status = health_pb2.HealthCheckResponse
        for name in ("", *SERVICES):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    def _register(self, server: grpc.aio.Server) -> None:
        parts = self._parts
        budget = Budget(self._options.max_pending_bytes)
        calls = Calls(parts.access, parts.metrics, budget, self._options.request_timeout_s)
        pb_grpc.add_FaceEmbeddingServicer_to_server(FaceEmbedding(parts.served, parts.people, calls), server)  # type: ignore[no-untyped-call]
        pb_grpc.add_GalleryServicer_to_server(  # type: ignore[no-untyped-call]
            Gallery(parts.people, calls), server
        )
        pb_grpc.add_ModelsServicer_to_server(  # type: ignore[no-untyped-call]
            Models(parts.catalogue, parts.model_jobs, calls), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    authority = tls.client_ca.read_bytes() if tls.client_ca else None
    pair = (tls.key.read_bytes(), tls.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
