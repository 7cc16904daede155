"""A change of the model that is served: loaded beside the old one, then collections follow one by one, or stay.

What is promoted in the registry is what is served, whoever promoted it: a caller, the command line, a retrain job, or
another server that shares the registry. Each change is a job in the gallery, which is gone on with by the next program
if this one is stopped. A collection whose faces all have crops is embedded anew in the background and then changes its
model at once; one that lacks crops stays on its own model, which goes on being served for it.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from models.errors import FaceError, ModelNotFoundError
from models.registry import Registry
from service.domain import OPEN_STATES, Job, JobKind, ModelInfo
from service.errors import (
    GalleryUnavailableError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    StorageFullError,
)
from service.gallery.contract import SYSTEM, Gallery
from service.moving import Batches, Mover, StoppedError, Watch
from service.served import Served

log = logging.getLogger("facesphere.models")
KIND = "embedder"
LOOK_EVERY_S = 2.0
KEEP_READY_EVERY_S = 15.0
_RETRY_AFTER_S = 30.0
# What goes by: the job stays open and is tried again.
_PASSING = (GalleryUnavailableError, StorageFullError, NotReadyError, OverloadedError)


class Activation:
    """Jobs about models, and the thread that works on them."""

    def __init__(self, registry: Registry, served: Served, gallery: Gallery, pinned: str | None) -> None:
        """`pinned` is the model that the server was started with by name: it serves no other by default."""
        self._registry, self._served, self._gallery, self._pinned = registry, served, gallery, pinned
        self._wake = threading.Event()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="facesphere-models", daemon=True)
        self._not_before = 0.0
        self._ready_at = 0.0

    def start(self) -> None:
        """Begin to follow the registry and to work on jobs."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a job under way is gone on with by the next program."""
        self.stopped.set()
        self._gallery.give_up()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def activate(self, model_id: str, actor: str) -> Job:
        """Serve a model: promote it, and have the collections follow. It is checked before the job is begun.

        Raises:
            ModelNotFoundError: there is no embedder of that name.
            InvalidBundleError: it is damaged, or its signature is not one to trust.
            InvalidRequestError: this server was started with one model by name, or this one has no calibration.
        """
        self._refuse_if_pinned()
        bundle = self._registry.resolve(KIND, model_id)
        if bundle.manifest.calibration is None and self._served.default.calibration is not None:
            raise InvalidRequestError(
                f"model {model_id} has no calibration, so nothing could be decided at a rate: run facesphere-train "
                "calibrate --apply"
            )
        self._gallery.note(actor, "model.activate", model=model_id, contract=bundle.manifest.contract_id)
        return self._begin("activate", model_id, actor)

    def roll_back(self, actor: str) -> Job:
        """Serve the model that was promoted before the present one, from now on; what was under way is cancelled.

        Raises:
            ModelNotFoundError: there was none.
            InvalidRequestError: this server was started with one model by name.
        """
        self._refuse_if_pinned()
        previous = self._registry.previous(KIND)
        if previous is None:
            raise ModelNotFoundError(f"there is no earlier {KIND} to go back to")
        self._served.load(previous)  # one that cannot be used is refused before anything is changed
        model_id = self._registry.roll_back(KIND)
        self._served.load(model_id)
        self._gallery.jobs.cancel_open()
        self._served.make_default(model_id)
        self._gallery.note(actor, "model.rollback", model=model_id)
        return self._begin("rollback", model_id, actor)

    def job(self, job_id: str) -> Job:
        """One job; NotFoundError if there is none of that id."""
        return self._gallery.jobs.get(job_id)

    def jobs(self, limit: int = 100) -> Sequence[Job]:
        """The newest jobs, newest first."""
        return self._gallery.jobs.list(limit)

    def collection_names(self) -> dict[str, str]:
        """Names of collections by the uid that results of jobs have."""
        return {self._gallery.uid(each.name): each.name for each in self._gallery.collections()}

    def _refuse_if_pinned(self) -> None:
        if self._pinned is not None:
            raise InvalidRequestError(
                f"this server was started with --model {self._pinned} and serves no other: start it without"
            )

    def _begin(self, kind: JobKind, model_id: str, actor: str) -> Job:
        job = self._gallery.jobs.create(kind, model_id, actor)
        self._not_before = 0.0
        self._wake.set()
        return job

    def _work(self) -> None:
        while not self.stopped.is_set():
            self._wake.clear()
            if time.monotonic() >= self._not_before:
                self._try_once()
            self._wake.wait(LOOK_EVERY_S)

    def _try_once(self) -> None:
        try:
            self._follow()
            with self._gallery.jobs.turn() as mine:
                if mine:
                    self._run_open()
                    self._keep_ready()
        except StoppedError:
            return
        except FaceError as error:
            log.warning("models: %s; tried again", error.message)
            self._not_before = time.monotonic() + (LOOK_EVERY_S if isinstance(error, _PASSING) else _RETRY_AFTER_S)
        except Exception:  # whatever it is, the thread goes on
            log.exception("models")
            self._not_before = time.monotonic() + _RETRY_AFTER_S

    def _follow(self) -> None:
        """Serve what is promoted; a promotion that nobody has made a job of becomes one."""
        if self._pinned is not None:
            return
        champion = self._registry.champion(KIND)
        if champion is None:
            return
        if champion != self._served.default.model.id:
            self._served.load(champion)
            self._served.make_default(champion)
            log.info("serving %s (contract %s)", champion, self._served.default.model.contract_id)
        newest = self._gallery.jobs.list(1)
        if newest and (newest[0].model_id == champion or newest[0].state in OPEN_STATES):
            return
        if any(each.model.id != champion for each in self._gallery.collections()):
            self._gallery.jobs.create("follow", champion, SYSTEM)

    def _run_open(self) -> None:
        for job in reversed(self._gallery.jobs.list(1000)):
            if job.state in OPEN_STATES:
                self._run(job)

    def _run(self, job: Job) -> None:
        try:
            self._change(job)
        except (StoppedError, *_PASSING):
            raise
        except FaceError as error:
            log.error("job %s: %s", job.id, error.message)
            self._gallery.jobs.update(replace(self._gallery.jobs.get(job.id), state="failed", error=error.message))

    def _change(self, job: Job) -> None:
        faces = self._served.load(job.model_id)
        if job.state == "queued":
            if job.kind == "activate":
                self._registry.promote(job.model_id)
            job = self.told(replace(job, state="running"))
        if self.is_over(job):
            return
        self._served.make_default(job.model_id)
        collections = self._gallery.collections()
        for done, collection in enumerate(collections):
            watch = _Watched(self, job, done, len(collections))
            uid, outcome = Mover(self._gallery, self._served, watch.watch, faces, collection.name).move()
            job = self.told(replace(watch.job, result={**job.result, uid: outcome}))
            if self.is_over(job):
                return
        self.told(replace(job, state="done", progress=1.0))
        self._served.keep(self._contracts_in_use())

    def is_over(self, job: Job) -> bool:
        """Cancelled, or another model was promoted meanwhile."""
        if job.state not in OPEN_STATES:
            return True
        champion = self._registry.champion(KIND)
        if champion != job.model_id:
            self.told(replace(job, state="cancelled", error=f"{champion} was promoted meanwhile"))
            return True
        return False

    def told(self, job: Job) -> Job:
        """Write down how far a job is; it ends here if the server stops."""
        if self.stopped.is_set():
            raise StoppedError
        return self._gallery.jobs.update(job)

    def _contracts_in_use(self) -> list[str]:
        used = [each.model.contract_id for each in self._gallery.collections()]
        previous = self._previous()
        return used if previous is None else [*used, previous.contract_id]

    def _previous(self) -> ModelInfo | None:
        """The model that a rollback would go to."""
        name = self._registry.previous(KIND)
        if name is None:
            return None
        try:
            manifest = self._registry.manifest(name)
        except FaceError:
            return None
        return ModelInfo(name, manifest.contract_id, manifest.dimension or 0)

    def _keep_ready(self) -> None:
        """Who was enrolled since a switch is embedded by the old model as well, so that the way back is open."""
        if time.monotonic() < self._ready_at or self._pinned is not None:
            return
        self._ready_at = time.monotonic() + KEEP_READY_EVERY_S
        previous = self._previous()
        if previous is None:
            return
        for collection in self._gallery.collections():
            if collection.model.contract_id == previous.contract_id:
                continue
            coverage = self._gallery.coverage(collection.name, previous.contract_id)
            if coverage.faces > coverage.missing > coverage.without_crop:  # it has been on that model
                faces = self._served.load(previous.id)
                for _ in Batches(self._gallery, self.stopped, collection.name, faces):
                    pass


class _Watched:
    """How far a job is, while one of its collections is moved."""

    def __init__(self, activation: Activation, job: Job, done: int, count: int) -> None:
        self.job = job
        self._activation, self._done, self._count = activation, done, count
        self.watch = Watch(activation.stopped, job.actor, self._goes_on)

    def _goes_on(self, share: float) -> bool:
        progress = max(self.job.progress, (self._done + share) / self._count)
        self.job = self._activation.told(replace(self.job, progress=progress))
        return not self._activation.is_over(self.job)
