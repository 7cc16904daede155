"""The embedders that are served side by side: the default one, and those of collections that are on another.

A probe is always embedded by the model of the collection it is compared with, so several may be loaded: while a new
model is brought in, for a collection that cannot follow it, and for the way back.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from models.errors import FaceError
from service.domain import Criterion, ModelInfo
from service.errors import ContractMismatchError, InvalidRequestError
from service.faces import Faces

_LOOK_AGAIN_S = 5.0  # for a model that the registry did not have, or that could not be used


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network that is loaded and warm; `cost_s`: seconds of a thread that one face costs."""

    faces: Faces
    waiting: Callable[[], int]
    cost_s: Callable[[], float]
    close: Callable[[], None]


class Served:
    """Loads models when they are needed. Calls may come from several threads."""

    def __init__(
        self,
        default: Loaded,
        load: Callable[[str], Loaded],
        find: Callable[[ModelInfo], str | None],
        grace_s: float,
        tell: Callable[[ModelInfo], None] = lambda _: None,
        version: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Serve one model, and others when they are asked for.

        Args:
            default: of what is in no collection.
            load: a model by its name, warm.
            find: the name under which the registry has a model of some contract.
            grace_s: how long requests may still use a model that is no longer served.
            tell: is told of each model that becomes the default.
            version: something that differs once a model of the registry was given another manifest.

        Raises:
            CalibrationError: the default rate is outside what the default model's calibration covers.
        """
        check_decides(default.faces)
        self._default = default
        self._load, self._find, self._grace_s, self._tell, self._version = load, find, grace_s, tell, version
        tell(default.faces.model)
        self._models = {default.faces.model.id: default}
        self._versions = {default.faces.model.id: version(default.faces.model.id)}
        self._lock = threading.RLock()
        self._leaving: list[tuple[float, Loaded]] = []
        self._looked: dict[str, tuple[float, Callable[[], FaceError]]] = {}
        self._known: frozenset[str] = frozenset()

    @property
    def default(self) -> Faces:
        """What embeds where no collection says otherwise. Ask once a request: it may change at any moment."""
        return self._default.faces

    @property
    def ids(self) -> list[str]:
        """Names of the models that are loaded."""
        return list(self._models)

    def cost_s(self) -> float:
        """Seconds of a thread that a face costs the default model."""
        return self._default.cost_s()

    @property
    def waiting(self) -> int:
        """Faces that wait for any of them."""
        return sum(each.waiting() for each in list(self._models.values()))

    def know(self, contract_ids: Collection[str]) -> None:
        """All contracts that vectors of callers may be of: those of collections, and of the model before this one."""
        self._known = frozenset(contract_ids)

    @property
    def contracts(self) -> frozenset[str]:
        """Contracts that are served, whether their models are loaded yet or not."""
        return self._known | {self.default.model.contract_id}

    def check_stated(self, contract_id: str | None) -> None:
        """Refuse an embedding that does not say which of several models made it.

        Raises:
            InvalidRequestError: several contracts are served, and none is stated.
        """
        if (
            contract_id is None
            and len(self.contracts | {each.faces.model.contract_id for each in list(self._models.values())}) > 1
        ):
            raise InvalidRequestError(
                "this server serves several models: state the contract_id of the embedding", field="contract_id"
            )

    def loaded(self, model: ModelInfo) -> Faces | None:
        """What embeds under the contract of a model, if it is loaded."""
        for each in (self._default, *list(self._models.values())):
            if each.faces.model.contract_id == model.contract_id:
                return each.faces
        return None

    def load_aside(self, model_id: str) -> Loaded:
        """A model that is not served; whoever asked for it closes it.

        Raises:
            FaceError: as `load`.
        """
        return self._load(model_id)

    def of_now(self, model: ModelInfo) -> Faces:
        """As `of`, for threads."""
        there = self.loaded(model)
        return there if there is not None else self._load_contract(model)

    async def of(self, model: ModelInfo) -> Faces:
        """What embeds under the contract of a model; loaded now, if it must be.

        Raises:
            ContractMismatchError: the registry has no such model.
        """
        there = self.loaded(model)
        return there if there is not None else await asyncio.to_thread(self.of_now, model)

    def load(self, model_id: str) -> Faces:
        """A model by its name, loaded now if it must be; this takes seconds.

        Raises:
            FaceError: it is not there, or cannot be used.
        """
        with self._lock:
            if model_id not in self._models:
                version = self._version(model_id)  # before it is read: one that is written meanwhile is read again
                self._models[model_id] = self._load(model_id)
                self._versions[model_id] = version
            return self._models[model_id].faces

    def load_for_default(self, model_id: str) -> Faces:
        """As `load`, of one that what is in no collection can be decided with.

        Raises:
            FaceError: as `load`.
            CalibrationError: the default rate is outside what its calibration covers.
        """
        faces = self.load(model_id)
        check_decides(faces)
        return faces

    def make_default(self, model_id: str) -> None:
        """Serve a model from now on; loaded, if it is not.

        Raises:
            FaceError: as `load_for_default`.
        """
        with self._lock:
            self.load_for_default(model_id)
            self._default = self._models[model_id]
        self._tell(self._default.faces.model)

    def renew(self) -> list[str]:
        """Load anew what was calibrated anew since it was loaded; the names.

        Raises:
            FaceError: the last one that cannot be used; it is served as it was.
        """
        renewed, failed = [], None
        for name in self.ids:
            version = self._version(name)
            if version is not None and version != self._versions.get(name):
                self._versions[name] = version  # tried once
                try:
                    self._renew(name)
                    renewed.append(name)
                except FaceError as error:
                    failed = error
        if failed is not None:
            raise failed
        return renewed

    def keep(self, contract_ids: Collection[str]) -> None:
        """Give all others free, except for the default one; requests that have begun may finish."""
        with self._lock:
            needed = {*contract_ids} - {self.default.model.contract_id}  # one of another name does the same
            for name, each in list(self._models.items()):
                if each is not self._default and each.faces.model.contract_id not in needed:
                    del self._models[name]
                    self._leaving.append((time.monotonic() + self._grace_s, each))
            due = [each for at, each in self._leaving if at <= time.monotonic()]
            self._leaving = [entry for entry in self._leaving if entry[1] not in due]
        for each in due:
            each.close()

    def close(self) -> None:
        """Finish what was accepted and stop."""
        for each in self._all():
            each.close()

    def _renew(self, name: str) -> None:
        new = self._load(name)
        with self._lock:
            old = self._models.get(name)
            try:
                if old is None or old.faces.model.contract_id != new.faces.model.contract_id:
                    # Other vectors under a name that collections have: it takes a new name, and a job.
                    raise InvalidRequestError(f"model {name} was replaced by another one: give that a name of its own")
                if old is self._default:
                    check_decides(new.faces, old.faces)
            except FaceError:
                new.close()
                raise
            self._models[name] = new
            self._leaving.append((time.monotonic() + self._grace_s, old))
            if old is self._default:
                self._default = new

    def _all(self) -> Iterator[Loaded]:
        yield from list(self._models.values())
        yield from [each for _, each in self._leaving]

    def _load_contract(self, model: ModelInfo) -> Faces:
        with self._lock:
            there = self.loaded(model)
            if there is not None:
                return there
            at, before = self._looked.get(model.contract_id, (-_LOOK_AGAIN_S, None))
            if before is not None and time.monotonic() - at < _LOOK_AGAIN_S:
                # To read a damaged file for each request would hold up all others.
                raise before()
            try:
                name = self._find(model)
                if name is None:
                    raise self._not_here(model)
                return self.load(name)
            except FaceError as error:
                again = partial(type(error), error.message, **error.details)  # without what the traceback holds
                self._looked[model.contract_id] = time.monotonic(), again
                raise

    def _not_here(self, model: ModelInfo) -> ContractMismatchError:
        return ContractMismatchError(
            f"this needs model {model.id} (contract {model.contract_id}), which is not in the registry of this server",
            collection_contract_id=model.contract_id,
            server_contract_id=self.default.model.contract_id,
        )


def check_decides(faces: Faces, before: Faces | None = None) -> None:
    """Refuse a default model whose callers could not decide at the default rate.

    Where there never was a calibration, callers state thresholds; where the model before had one, they state none.

    Raises:
        CalibrationError: the rate is outside what the calibration covers.
        InvalidRequestError: there is no calibration any more.
    """
    if faces.calibration is not None or (before is not None and before.calibration is not None):
        faces.decide(Criterion())
