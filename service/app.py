"""The composition root: settings to objects, objects to a running server; the networks by loading.py."""

import asyncio
import contextlib
import gc
import json
import logging
import math
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import uvicorn
import uvloop
from fastapi import FastAPI

from models.errors import FaceError
from models.registry import Registry
from service.activation import Activation
from service.admin import Admin, ModelJobs
from service.catalogue import Catalogue
from service.errors import InvalidRequestError, StorageError
from service.gallery.contract import Gallery
from service.gallery.embedded import EmbeddedGallery
from service.gallery.engine import postgres_gallery
from service.gallery.grouping import SearchOptions
from service.grpc_api.server import GrpcOptions, GrpcParts, GrpcServer
from service.inference.pool import Pool
from service.loading import Inference, build_inference, open_registry
from service.metrics import Metrics
from service.people import People
from service.rest.app import VERSION, RestOptions, RestParts, create_app
from service.rest.deadline import Uploads
from service.rest.protocol import HttpProtocol
from service.security.access import Access, is_loopback
from service.security.keyfolder import KeyFolder, open_keys
from service.security.master import write_new
from service.security.receipts import ReceiptSigner
from service.settings import PREFIX, Settings
from service.shadow import Shadow
from service.threads import Threads
from service.tracing import NO_TRACES, Tracer

log = logging.getLogger("facesphere")
SWEEP_EVERY_S = 3600.0
NOTE_USED_EVERY_S = 30.0
TIDY_EVERY_S = 300.0
COUNT_EVERY_S = 15.0


def raise_file_limit() -> None:
    """Allow as many open connections as the system does; the usual default is a thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems name a limit that they then refuse
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(settings: Settings) -> None:
    """Run both servers until SIGTERM or SIGINT; open requests are finished first.

    Raises:
        FaceError: a model, the device, the data folder or a port cannot be used.
    """
    raise_file_limit()
    if settings.tls is not None:
        settings.tls.check()
    keys = open_keys(settings.key_folder, settings.master_key_source)
    _adopt_signing_key(settings, keys)
    with contextlib.ExitStack() as open_things:
        tracer = _tracer(settings)
        open_things.callback(tracer.close)
        gallery = _open_gallery(settings, keys)
        open_things.callback(gallery.close)
        access = _access(settings, gallery, keys)
        http_socket = listen(settings.host, settings.port)
        if settings.grpc_port:  # gRPC binds its port itself, later; a port in use is told now, and in one line
            listen(settings.host, settings.grpc_port).close()
        registry = open_registry(settings, log.info)
        inference = open_things.enter_context(contextlib.closing(build_inference(settings, registry, tracer)))
        server = _Server(settings, registry, gallery, keys, access, inference, http_socket)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.run())


def _leave_alone_what_stays() -> None:
    """Spare the garbage collector what was made so far: it would stop all threads to go through it again and again."""
    gc.collect()
    gc.freeze()


def _tracer(settings: Settings) -> Tracer:
    """What keeps traces, if any are wanted; OpenTelemetry's SDK is loaded only then."""
    if not settings.tracing:
        return NO_TRACES
    try:
        from service.otlp import otlp_tracer
    except ImportError as error:
        raise InvalidRequestError(f"tracing needs its extra: pip install 'facesphere[tracing]' ({error})") from error
    return otlp_tracer(VERSION)


def _open_gallery(settings: Settings, keys: KeyFolder) -> Gallery:
    if settings.gallery_urls is None:
        options = SearchOptions(Threads(settings.cores).search, settings.search_recall)
        return EmbeddedGallery(settings.data_dir, keys, search=options)
    url, replica_url = settings.gallery_urls
    return postgres_gallery(url, keys, replica_url)


def _access(settings: Settings, gallery: Gallery, keys: KeyFolder) -> Access:
    """Who may call; without any key, nobody but this machine."""
    access = Access(settings.api_key.get_secret_value() if settings.api_key else None, gallery.keys, keys.vault.pepper)
    if not access.required and not is_loopback(settings.host):
        raise InvalidRequestError(
            f"host {settings.host!r} can be reached by others: make a key with `facesphere keys create`, set "
            f"{PREFIX}API_KEY, or use --host 127.0.0.1"
        )
    return access


def _adopt_signing_key(settings: Settings, keys: KeyFolder) -> None:
    """Earlier versions kept it among the data; receipts that it signed must go on being told as this server's."""
    before = settings.data_dir / "keys" / "receipts.pem"
    if before.exists() and not keys.receipts.exists():
        try:
            write_new(keys.receipts, before.read_bytes())
            before.unlink()
        except OSError as error:
            raise StorageError(f"cannot move {before} to {keys.receipts}: {error.strerror}") from error


class _Server(uvicorn.Server):
    """uvicorn with gRPC beside it in the same loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        gallery: Gallery,
        keys: KeyFolder,
        access: Access,
        inference: Inference,
        http_socket: socket.socket,
    ) -> None:
        self._settings = settings
        self._http_socket = http_socket
        host = http_socket.getsockname()[0]  # an address: a name could be another one for gRPC
        self._inference = inference
        self._registry = registry
        self._ready = False
        self._uploads = Uploads()
        self._grpc_stopped: asyncio.Future[None] | None = None
        self._gallery_pool = Pool("gallery", Threads.gallery, settings.max_queue, inference.metrics.tracer)
        self._model_pool = Pool("models", Threads.models, 16)  # nobody's search waits behind one that is loaded
        signer = ReceiptSigner(keys.receipts)
        self._shadow = Shadow(inference.served)
        self._people = People(
            inference.served,
            self._shadow,
            gallery,
            self._gallery_pool,
            signer,
            settings.target_fpir,
            inference.metrics,
        )
        self._activation = Activation(
            registry, inference.served, gallery, settings.model, settings.target_fmr, settings.target_fpir
        )
        self._access = access
        self._gallery = gallery
        self._metrics = self._build_metrics(inference)
        self._catalogue = Catalogue(registry, inference.served, self._shadow, inference.detector.manifest.id)
        self._model_jobs = ModelJobs(self._activation, self._shadow, self._model_pool, self._gallery_pool)
        self._grpc = GrpcServer(
            GrpcParts(inference.served, self._people, self._catalogue, self._model_jobs, self._access, self._metrics),
            GrpcOptions(
                host,
                settings.grpc_port,
                settings.max_body_bytes,
                settings.request_timeout_s,
                settings.max_pending_bytes,
                settings.tls,
            ),
        )
        super().__init__(self._config())

    async def run(self) -> None:  # type: ignore[override]
        """Serve until a signal comes."""
        await self._grpc.start()
        await self.serve([self._http_socket])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the signal anew at the end: stopping on request is a success."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield
        # From here on the process only closes its files; a second signal must not interrupt that.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """After uvicorn's own start-up, say where the server is reached."""
        await super().startup(sockets)
        if self.started:
            _leave_alone_what_stays()
            self._ready = True
            await self._grpc.set_serving(True)
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Turn the probes to not ready, then let both servers finish what they have accepted."""
        self._ready = False
        self._uploads.end()
        await self._grpc.set_serving(False)
        self._grpc_stopped = asyncio.ensure_future(self._grpc.stop(self._settings.shutdown_grace_s))
        await super().shutdown(sockets)
        await self._grpc_stopped

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._activation.start()
        housekeeping = [asyncio.ensure_future(each) for each in self._housekeeping()]
        try:
            yield
        finally:
            for each in housekeeping:
                each.cancel()
            # uvicorn comes here when HTTP is idle; calls over gRPC may still be open, and have their grace.
            await (self._grpc_stopped or self._grpc.stop(0))
            await self._shadow.close()
            await asyncio.to_thread(self._activation.close)
            self._model_pool.close()
            self._gallery_pool.close()

    def _housekeeping(self) -> Iterator[Coroutine[None, None, None]]:
        yield from (self._sweep(), self._note_used_keys(), self._tidy(), self._count_enrolled())

    async def _sweep(self) -> None:
        """Erase what is past its retention, now and then once an hour."""
        while True:
            try:
                count = await self._people.erase_expired()
                if count:
                    log.info("erased %d faces past their retention", count)
            except FaceError as error:
                log.error("retention sweep: %s", error.message)
            except Exception:  # whatever it is, the next sweep is tried
                log.exception("retention sweep")
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _note_used_keys(self) -> None:
        """Write down now and then when each key was used last."""
        while True:
            await asyncio.sleep(NOTE_USED_EVERY_S)
            try:
                await self._gallery_pool.run(self._gallery.keys.note_used, self._access.last_used())
            except FaceError as error:
                log.error("last use of keys: %s", error.message)
            except Exception:
                log.exception("last use of keys")

    async def _tidy(self) -> None:
        """Keep a growing gallery as it should be: snapshots, indexes, a log that is not too long."""
        while True:
            try:
                await self._gallery_pool.run(self._gallery.tidy)
            except FaceError as error:
                log.error("tidying the gallery: %s", error.message)
            except Exception:
                log.exception("tidying the gallery")
            await asyncio.sleep(TIDY_EVERY_S)

    async def _count_enrolled(self) -> None:
        """Keep the figures of the gallery for the metrics; asked for now and then, not by each scrape."""
        while True:
            try:
                found = await self._gallery_pool.run(self._gallery.collections)
                self._metrics.enrolled(
                    collections=len(found),
                    subjects=sum(each.subjects for each in found),
                    faces=sum(each.faces for each in found),
                )
            except FaceError as error:
                log.error("counting the gallery: %s", error.message)
            except Exception:
                log.exception("counting the gallery")
            await asyncio.sleep(COUNT_EVERY_S)

    def _config(self) -> uvicorn.Config:
        settings = self._settings
        loopback_only = not self._access.required
        app = create_app(
            RestParts(
                self._inference.served,
                self._people,
                Admin(self._gallery, self._gallery_pool),
                self._model_jobs,
                self._access,
                self._catalogue,
                self._metrics,
                lambda: self._ready,
            ),
            RestOptions(settings.max_body_bytes, settings.max_pending_bytes, settings.request_timeout_s, loopback_only),
            self._uploads,
            self._lifespan,
        )
        return uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            http=HttpProtocol,
            ws="none",
            timeout_graceful_shutdown=int(settings.shutdown_grace_s) or 1,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            ssl_ca_certs=str(settings.tls_client_ca) if settings.tls_client_ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
        )

    def _build_metrics(self, inference: Inference) -> Metrics:
        metrics = inference.metrics
        metrics.gauge("embed_queue", "Faces waiting for the embedder", lambda: inference.served.waiting)
        metrics.gauge("photos_pending", "Photos being decoded or waiting for it", lambda: inference.pool.pending)
        metrics.gauge("search_recall", "Share of near faces that approximate searches find", self._search_recall)
        metrics.gauge(
            "search_approximate_faces",
            "Faces in collections that are searched approximately",
            lambda: self._gallery.search_state().approximate_faces,
        )
        for name in ("compared", "same", "flipped_to_match", "flipped_to_non_match", "failed", "left_out"):
            metrics.gauge(f"shadow_{name}", f"Decisions of the model in shadow: {name}", self._shadow_count(name))
        return metrics

    def _search_recall(self) -> float:
        recall = self._gallery.search_state().recall
        return math.nan if recall is None else recall

    def _shadow_count(self, name: str) -> Callable[[], float]:
        return lambda: float(getattr(self._shadow.summary, name, 0))

    def _announce(self) -> None:
        host, port = self._http_socket.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        model = self._inference.faces.model
        log.info("serving %s (contract %s) on %s", model.id, model.contract_id, self._inference.device)
        scheme = "https" if self._settings.tls else "http"
        line = {"ready": True, "http": f"{scheme}://{name}:{port}", "grpc": f"{name}:{self._grpc.port}"}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; taken before anything slow starts, so that a port in use is told at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InvalidRequestError(f"host {host!r} is no address of this machine: {error}") from error
    # asyncio turns off the delay of small packets only where the protocol is named; with it, each call on a connection
    # that is kept open waits 40 ms for an acknowledgement.
    http_socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    http_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        http_socket.bind(address)
        http_socket.listen(2048)  # bound alone, a second server could bind it too
    except OSError as error:
        http_socket.close()
        raise InvalidRequestError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return http_socket
