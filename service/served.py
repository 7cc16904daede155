"""The embedders that are served side by side: the default one, and those of collections that are on another.

A probe is always embedded by the model of the collection it is compared with, so several may be loaded: while a new
model is brought in, for a collection that cannot follow it, and for the way back.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from service.domain import ModelInfo
from service.errors import ContractMismatchError, InvalidRequestError
from service.faces import Faces

_LOOK_AGAIN_S = 5.0  # for a model that the registry did not have


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
    ) -> None:
        """Serve one model, and others when they are asked for.

        Args:
            default: of what is in no collection.
            load: a model by its name, warm.
            find: the name under which the registry has a model of some contract.
            grace_s: how long requests may still use a model that is no longer served.
            tell: is told of each model that becomes the default.
        """
        self._default = default
        self._load, self._find, self._grace_s, self._tell = load, find, grace_s, tell
        tell(default.faces.model)
        self._models = {default.faces.model.id: default}
        self._lock = threading.RLock()
        self._leaving: list[tuple[float, Loaded]] = []
        self._looked: dict[str, float] = {}
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
                self._models[model_id] = self._load(model_id)
            return self._models[model_id].faces

    def make_default(self, model_id: str) -> None:
        """Serve a model from now on; loaded, if it is not.

        Raises:
            FaceError: as `load`.
        """
        with self._lock:
            self.load(model_id)
            self._default = self._models[model_id]
        self._tell(self._default.faces.model)

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

    def _all(self) -> Iterator[Loaded]:
        yield from list(self._models.values())
        yield from [each for _, each in self._leaving]

    def _load_contract(self, model: ModelInfo) -> Faces:
        with self._lock:
            there = self.loaded(model)
            if there is not None:
                return there
            if time.monotonic() - self._looked.get(model.contract_id, -_LOOK_AGAIN_S) >= _LOOK_AGAIN_S:
                name = self._find(model)
                if name is not None:
                    return self.load(name)
                self._looked[model.contract_id] = time.monotonic()
        raise ContractMismatchError(
            f"this needs model {model.id} (contract {model.contract_id}), which is not in the registry of this server",
            collection_contract_id=model.contract_id,
            server_contract_id=self.default.model.contract_id,
        )
