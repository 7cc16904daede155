"""A change of the model that is served: loaded beside the old one, then collections follow one by one, or stay.

What is promoted in the registry is what is served, whoever promoted it: a caller, the command line, a retrain job, or
another server that shares the registry. Each change is a job in the gallery, which is gone on with by the next program
if this one is stopped. A collection whose faces all have crops is embedded anew in the background and then changes its
model at once; one that lacks crops stays on its own model, which goes on being served for it.
"""

import itertools
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
    NotFoundError,
    NotReadyError,
    OverloadedError,
    StorageFullError,
)
from service.gallery.contract import SYSTEM, Gallery
from service.moving import Batches, Mover, StoppedError, Watch
from service.servable import check_servable
from service.served import Served

log = logging.getLogger("facesphere.models")
KIND = "embedder"
LOOK_EVERY_S = 2.0
KEEP_READY_EVERY_S = 15.0
_RETRY_AFTER_S = 30.0
_BATCHES_AT_A_TIME = 20  # of what nobody waits for
# What goes by: the job stays open and is tried again.
_PASSING = (GalleryUnavailableError, StorageFullError, NotReadyError, OverloadedError)


class Activation:
    """Jobs about models, and the thread that works on them."""

    def __init__(
        self,
        registry: Registry,
        served: Served,
        gallery: Gallery,
        pinned: str | None,
        target_fmr: float,
        target_fpir: float,
    ) -> None:
        """Prepare to follow a registry.

        Args:
            registry: whose promoted model is served.
            served: the models that are loaded.
            gallery: whose collections follow.
            pinned: the model that the server was started with by name: it serves no other by default.
            target_fmr: the rate of 1:1 decisions where none is stated.
            target_fpir: the rate at which identify may name strangers, by default.
        """
        self._registry, self._served, self._gallery, self._pinned = registry, served, gallery, pinned
        self._target_fmr, self.target_fpir = target_fmr, target_fpir
        self._wake = threading.Event()
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="facesphere-models", daemon=True)
        self._not_before = 0.0
        self._ready_at = 0.0
        self._missed: set[str] = set()
        self._unheard = True  # nothing was followed yet since the start, or since the promoted model could be loaded
        self._promoting = threading.Lock()  # a promotion is not followed before it has its own job
        self._refused = ("", 0.0)  # a promoted model that could not be loaded, and when it is tried again

    def start(self) -> None:
        """Load what collections need, and begin to follow the registry and to work on jobs."""
        try:
            self._look_around()
        except FaceError as error:
            log.warning("models: %s; tried again", error.message)
        self._thread.start()

    def close(self) -> None:
        """Stop; a job under way is gone on with by the next program."""
        self.stopped.set()
        self._gallery.give_up()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def activate(self, model_id: str, actor: str) -> Job:
        """Serve a model: load and promote it, and have the collections follow.

        It is promoted here and never by a job, which could be gone on with when another one was promoted since.

        Raises:
            ModelNotFoundError: there is no embedder of that name.
            InvalidBundleError: it is damaged, or its signature is not one to trust.
            InvalidRequestError: this server was started with one model by name, or this one has no calibration.
        """
        self._refuse_if_pinned()
        bundle = self._registry.resolve(KIND, model_id)
        check_servable(bundle.manifest, self._served.default.calibration is not None, self._target_fmr)
        self._served.load_for_default(model_id)
        with self._promoting:
            self._registry.promote(model_id)
            self._served.make_default(model_id)
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
        self._served.load_for_default(previous)  # one that cannot be used is refused before anything is changed
        with self._promoting:
            model_id = self._registry.roll_back(KIND)
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
        return {uid: name for name, uid, _ in self._gallery.models()}

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
            self._look_around()
            if self._pinned is not None:
                return
            with self._promoting:
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

    def _look_around(self) -> None:
        """Which models are needed: they are loaded before somebody asks, and others are given free."""
        self._renew()
        models, previous = [model for _, _, model in self._gallery.models()], self.previous()
        contracts = {each.contract_id for each in (*models, *((previous,) if previous else ()))}
        self._served.know(contracts)
        self._served.keep(contracts)
        for model in models:
            try:
                self._served.of_now(model)
            except FaceError as error:
                if model.contract_id not in self._missed:
                    log.warning("a collection is on a model that cannot be served: %s", error.message)
                self._missed.add(model.contract_id)

    def _renew(self) -> None:
        try:
            for name in self._served.renew():
                log.info("%s was calibrated anew: loaded", name)
        except FaceError as error:
            log.error("a manifest was replaced, and is not used: %s", error.message)

    def _follow(self) -> None:
        """Serve what is promoted; a promotion that nobody has made a job of becomes one."""
        champion = self._registry.champion(KIND)
        if champion is None:
            return
        if champion != self._served.default.model.id:
            refused, until = self._refused
            if champion == refused and time.monotonic() < until:
                return
            try:
                self._served.make_default(champion)
            except FaceError as error:
                self._refused = (champion, time.monotonic() + _RETRY_AFTER_S)
                self._refuse(champion, error)
                return
            self._unheard = True
            log.info("serving %s (contract %s)", champion, self._served.default.model.contract_id)
        elsewhere = {uid for _, uid, model in self._gallery.models() if model.id != champion}
        newest = next(iter(self._gallery.jobs.list(1)), None)
        if not elsewhere or (newest is not None and self._is_told_of(newest, champion, elsewhere)):
            return
        self._unheard = False
        self._gallery.jobs.create("follow", champion, SYSTEM)

    def _is_told_of(self, job: Job, champion: str, collections: set[str]) -> bool:
        """Whether the newest job is about what is promoted, and about all collections that are on another model."""
        if job.state in OPEN_STATES:
            return True
        if job.model_id != champion or job.state == "cancelled":
            return False
        if job.state == "failed":  # before it came to a collection, and why may be over: tried once more
            return bool(job.result) or not self._unheard
        return collections <= job.result.keys()

    def _refuse(self, champion: str, error: FaceError) -> None:
        """A promoted model that cannot be loaded: said once, in a job that failed; the one before goes on serving."""
        newest = next(iter(self._gallery.jobs.list(1)), None)
        if newest is None or (newest.model_id, newest.state) != (champion, "failed"):
            log.error("%s cannot be served: %s", champion, error.message)
            job = self._gallery.jobs.create("follow", champion, SYSTEM)
            self._gallery.jobs.update(replace(job, state="failed", error=error.message))

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
            self._fail(job.id, error.message)
        except Exception as error:  # a job that is tried for ever would be in the way of all others
            log.exception("job %s", job.id)
            self._fail(job.id, f"internal error: {type(error).__name__}")

    def _fail(self, job_id: str, error: str) -> None:
        job = self._gallery.jobs.get(job_id)
        now = {uid: model.id for _, uid, model in self._gallery.models()}
        for uid, outcome in job.result.items():
            if outcome["state"] == "switching":  # did it?
                there = now.get(uid) == job.model_id
                told = {"state": "switched", "model": job.model_id} if there else {"state": "cancelled"}
                job = self._gallery.jobs.conclude(job_id, uid, {**outcome, **told})
        self._gallery.jobs.update(replace(job, state="failed", error=error))

    def _change(self, job: Job) -> None:
        faces = self._served.load(job.model_id)
        job = self.told(replace(job, state="running"))
        if self.is_over(job):
            return
        self._served.make_default(job.model_id)
        collections = self._gallery.models()
        for done, (name, uid, model) in enumerate(collections):
            noted = job.result.get(uid)
            if noted is not None and noted.get("state") != "switching" and model == faces.model:
                continue  # told before this job was cut off
            watch = _Watched(self, job, uid, done, len(collections))
            outcome = Mover(self._gallery, self._served, watch.watch, faces, name).move()
            job = self._gallery.jobs.conclude(job.id, uid, outcome)  # of one that is over by now as well
            if self.stopped.is_set():
                raise StoppedError
            if self.is_over(job):
                return
        self.told(replace(job, state="done", progress=1.0))

    def is_over(self, job: Job) -> bool:
        """Cancelled, or another model was promoted meanwhile."""
        if job.state not in OPEN_STATES:
            return True
        try:
            champion = self._registry.champion(KIND)
        except FaceError as error:
            raise NotReadyError(f"the registry cannot be read: {error.message}") from error
        if champion is None:
            raise NotReadyError("the registry is empty")
        if champion != job.model_id:
            self.told(replace(job, state="cancelled", error=f"{champion} was promoted meanwhile"))
            return True
        return False

    def told(self, job: Job) -> Job:
        """Write down how far a job is; it ends here if the server stops."""
        if self.stopped.is_set():
            raise StoppedError
        return self._gallery.jobs.update(job)

    def previous(self) -> ModelInfo | None:
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
        previous = self.previous()
        if previous is None:
            return
        for name, _, model in self._gallery.models():
            if model.contract_id != previous.contract_id:
                try:
                    self._embed_some(name, previous)
                except NotFoundError:
                    continue  # erased meanwhile
                except FaceError as error:
                    log.warning("the way back to %s is not kept open: %s", previous.id, error.message)

    def _embed_some(self, collection: str, previous: ModelInfo) -> None:
        coverage = self._gallery.coverage(collection, previous.contract_id)
        if not coverage.faces > coverage.missing > coverage.without_crop:  # it has not been on that model
            return
        batches = Batches(self._gallery, self.stopped, collection, self._served.load(previous.id))
        for _ in itertools.islice(batches, _BATCHES_AT_A_TIME):
            if self._wake.is_set():
                return


class _Watched:
    """How far a job is, while one of its collections is moved."""

    def __init__(self, activation: Activation, job: Job, uid: str, done: int, count: int) -> None:
        self.job = job
        self._activation, self._uid, self._done, self._count = activation, uid, done, count
        previous = activation.previous()
        self.watch = Watch(
            stopped=activation.stopped,
            actor=job.actor,
            back=job.kind == "rollback",
            target_fpir=activation.target_fpir,
            goes_on=self._goes_on,
            note=self._note,
            noted=job.result.get(uid),
            keep=() if previous is None else (previous.contract_id,),
        )

    def _goes_on(self, share: float) -> bool:
        progress = max(self.job.progress, (self._done + share) / self._count)
        self.job = self._activation.told(replace(self.job, progress=progress))
        return not self._activation.is_over(self.job)

    def _note(self, outcome: dict[str, object]) -> bool:
        self.job = self._activation.told(replace(self.job, result={**self.job.result, self._uid: outcome}))
        return not self._activation.is_over(self.job)
