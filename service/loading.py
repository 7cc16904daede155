"""Both networks loaded, warmed and with threads of their own: what a server needs before it opens a gallery."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models import zoo
from models.buckets import batch_limit
from models.bundle import Bundle
from models.errors import CalibrationError, DeviceUnavailableError, InvalidBundleError, ModelNotFoundError
from models.image import ImageLimits, Pixels
from models.registry import Registry
from models.runtime import Session, SessionOptions, route
from service.domain import ModelInfo, Vector
from service.faces import Faces, embed_function
from service.inference.batcher import Batcher, BatcherOptions
from service.inference.crew import ON_THE_PROCESSOR, Crew, crews_for
from service.inference.detector import Detector, DetectorOptions
from service.inference.embedder import Embedder
from service.inference.looks import SharedLooks
from service.inference.observed import ObservedDetector, ObservedFinder, observed_embed
from service.inference.pool import PhotoPool, Pool
from service.inference.warming import warm_up
from service.metrics import Metrics
from service.served import Loaded, Served, check_decides
from service.settings import Settings
from service.threads import Threads, hold_libraries
from service.tracing import NO_TRACES, Tracer

log = logging.getLogger("facesphere")

# Where batches gain nothing, several crops are still embedded one after the other, and what is done before and after
# it for as many requests in a row: each finds the code of the one before in the caches. For so long at most.
_IN_A_ROW_S = 0.125


@dataclass(frozen=True, slots=True)
class Inference:
    """Both networks, loaded and warm, and what runs them; embedders may come and go."""

    served: Served
    detector: Bundle
    device: str
    pool: Pool
    crews: tuple[Crew, ...]
    metrics: Metrics

    @property
    def faces(self) -> Faces:
        """What embeds by default."""
        return self.served.default

    def close(self) -> None:
        """Finish what was accepted and stop the threads."""
        self.pool.close()
        self.served.close()
        for crew in self.crews:
            crew.close()


def open_registry(settings: Settings, report: Callable[[str], None]) -> Registry:
    """The registry, with the default models fetched where they are missing and `auto_pull` allows it."""
    registry = Registry(settings.registry_dir)
    if settings.auto_pull:
        for kind, asked, default in (
            ("detector", settings.detector, zoo.DEFAULT_DETECTOR),
            ("embedder", settings.model, zoo.DEFAULT_EMBEDDER),
        ):
            _pull_if_missing(registry, kind, asked, default, report)
    return registry


def build_inference(settings: Settings, registry: Registry, tracer: Tracer = NO_TRACES) -> Inference:
    """Load both networks, warm them, and start their threads."""
    hold_libraries()
    detector_bundle = registry.resolve("detector", settings.detector)
    # Photos have many shapes, for which all but the plain kernels of a processor prepare themselves anew.
    device = settings.detector_device
    options = SessionOptions(device, Threads.session, free_batch=device != "cpu")
    try:
        session = Session(detector_bundle.model_path, options)
    except DeviceUnavailableError as error:
        if device == "cpu":
            raise
        raise DeviceUnavailableError(f"detector_device {device}: {error.message}") from error
    metrics = Metrics(tracer)
    detector = ObservedDetector(session, detector_bundle.manifest.input, metrics)
    detector.detect(np.zeros((640, 640, 3), np.uint8))
    embedders = _Embedders(settings, registry, detector, metrics)
    first = _first(embedders, registry, settings.model)
    served = Served(
        first, embedders.load, embedders.find, settings.request_timeout_s, embedders.tell, registry.version_of
    )
    embedders.served = served
    if session.device not in ON_THE_PROCESSOR:
        if embedders.session.device in ON_THE_PROCESSOR:
            raise DeviceUnavailableError(
                f"detector_device {session.device} is for servers that embed on a GPU too; this one embeds on "
                f"{embedders.session.device}"
            )
        looks = SharedLooks(session, embedders.crews[-1], settings.max_batch, tracer)
        looks.warm_up(DetectorOptions().sides)
        detector.run_by(looks.run)
    about = detector_bundle.manifest
    metrics.serves(about.kind, about.id, about.contract_id, session.device)
    named = route(embedders.session, session)
    return Inference(served, detector_bundle, named, embedders.pool, embedders.crews, metrics)


def _first(embedders: "_Embedders", registry: Registry, asked: str | None) -> Loaded:
    """The promoted model; where it cannot be served, the one before it, as a running server would go on with.

    Raises:
        FaceError: neither can, or the one that was asked for by name.
    """
    loaded = None
    try:
        loaded = embedders.load(asked)
        check_decides(loaded.faces)
    except (CalibrationError, InvalidBundleError, ModelNotFoundError) as error:
        if loaded is not None:
            loaded.close()
        previous = registry.previous("embedder") if asked is None else None
        if previous is None:
            raise
        log.error("%s cannot be served: %s; serving %s", registry.champion("embedder"), error.message, previous)
        return embedders.load(previous)
    return loaded


class _Embedders:
    """Loads one embedder after another, each with a queue of its own; they share detector, threads and photos."""

    pool: PhotoPool
    crews: tuple[Crew, ...] = ()
    session: Session  # of the newest
    served: Served | None = None

    def __init__(self, settings: Settings, registry: Registry, detector: Detector, metrics: Metrics) -> None:
        self._settings, self._registry = settings, registry
        self._detector, self._metrics = detector, metrics

    def load(self, model_id: str | None) -> Loaded:
        """A model of the registry, warm; the promoted one if none is named."""
        settings, bundle = self._settings, self._registry.resolve("embedder", model_id)
        manifest = bundle.manifest
        threads = Threads(settings.cores)
        engines = settings.data_dir / "engines"
        options = SessionOptions(
            settings.device,
            Threads.session,
            manifest.precision,
            engines,
            streams=threads.crew,
            graphs=settings.cuda_graphs,
        )
        session = Session(bundle.model_path, options)
        most = batch_limit(session.device, settings.max_batch)
        embedder = Embedder(session, manifest, most)
        grey = np.full((embedder.template.height, embedder.template.width, 3), 127, np.uint8)
        at_once = warm_up(lambda size: embedder.embed([grey] * size), session.device, most)
        embedder.run_at_once(at_once)
        self.crews = self.crews or crews_for(session.device, threads.crew)
        batcher: Batcher[Pixels, Vector] = Batcher(
            "embed",
            observed_embed(embed_function(embedder.embed), manifest.id, self._metrics),
            BatcherOptions(
                most,
                settings.max_queue,
                max_delay_s=settings.max_queue_delay_s if at_once > 1 else 0.0,
                max_run_s=math.inf if at_once > 1 else _IN_A_ROW_S,
                # Photos that wait are looked at first, until their crops are a whole one.
                full=most,
                # A photo was let in by what both stages cost: to refuse its crops would be late and waste the first.
                predict=False,
            ),
            self.crews[-1],
            tracer=self._metrics.tracer,
        )
        self.session = session
        if not hasattr(self, "pool"):
            self.pool = PhotoPool(self.crews[0], settings.max_queue, self._cost_s, self._metrics.tracer)
        limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        finder = ObservedFinder(self._detector, embedder.template, limits, self._metrics)
        faces = Faces(finder, manifest, batcher, self.pool, settings.target_fmr, self._metrics)
        return Loaded(faces, lambda: batcher.waiting, batcher.cost_s, batcher.close)

    def _cost_s(self) -> float:
        """What a photo costs once it is cut: by the default model, which embeds most of them."""
        return self.served.cost_s() if self.served is not None else 0.0

    def tell(self, model: ModelInfo) -> None:
        """Say in the metrics which one is the default."""
        self._metrics.serves("embedder", model.id, model.contract_id, self.session.device)

    def find(self, model: ModelInfo) -> str | None:
        """The name of a model of some contract: the one that is named, or another that makes the same vectors."""
        there = [each.id for each in self._registry.list() if each.contract_id == model.contract_id]
        return model.id if model.id in there else next(iter(there), None)


def _pull_if_missing(
    registry: Registry, kind: str, asked: str | None, default: str, report: Callable[[str], None]
) -> None:
    try:
        registry.resolve(kind, asked)
    except ModelNotFoundError:
        if asked not in (None, *zoo.known_ids()):
            raise
        zoo.pull(registry, asked or default, report=report)
