"""One collection to another model: its stored crops are embedded anew in the background, then it changes at once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.errors import CalibrationError, FaceError, ImageTooLargeError, InvalidImageError, UnsupportedMediaTypeError
from service.agreement import SAMPLE, agreement
from service.domain import CollectionSettings, Criterion, ModelInfo, StoredCrop, Vector
from service.errors import InvalidRequestError, NotFoundError
from service.faces import Faces
from service.gallery.contract import Gallery
from service.served import Served

_BATCH = 16  # crops: what is written down, and can be waited for, at a time
# What is the fault of one crop, a vector of zeros for one.
_OF_A_CROP = (InvalidImageError, UnsupportedMediaTypeError, ImageTooLargeError, ValueError)
_PASSES = 50  # of embedding what was enrolled meanwhile, before a switch is given up


class StoppedError(Exception):
    """The server stops."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What a move goes by: the end of the server, who asked for it, and whether it is still wanted.

    back: on the way back, where nobody asks any more whether the decisions can be made.
    target_fpir: at which strangers may be named, where a caller states no rate.
    goes_on: is told which share of the collection is done; False if the job was cancelled or superseded.
    note: writes down what becomes of the collection, before it does; False as `goes_on`.
    noted: what was written down by a program that was stopped before it told the end.
    keep: the contract that the way back would lead to.
    """

    stopped: threading.Event
    actor: str
    back: bool
    target_fpir: float
    goes_on: Callable[[float], bool]
    note: Callable[[dict[str, object]], bool]
    noted: dict[str, object] | None
    keep: tuple[str, ...]


class Batches:
    """Crops of a collection under a model that it has no vectors of yet."""

    def __init__(self, gallery: Gallery, stopped: threading.Event, collection: str, faces: Faces) -> None:
        self._gallery, self._stopped, self._collection, self._faces = gallery, stopped, collection, faces
        self._last = 0
        self.unusable = 0  # crops that no vector can be made of

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> int:
        if self._stopped.is_set():
            raise StoppedError
        crops = self._gallery.uncovered(self._collection, self._faces.model.contract_id, self._last, _BATCH)
        if not crops:
            raise StopIteration
        found = self._embedded(crops)
        self._gallery.cover(self._collection, self._faces.model, found)
        self._last = crops[-1].number
        return len(crops)

    def _embedded(self, crops: Sequence[StoredCrop]) -> dict[str, Vector]:
        """Vectors by face_id; one that cannot be had does not keep the others from theirs."""
        try:
            vectors = self._faces.embed_stored([each.crop for each in crops])
        except _OF_A_CROP:
            if len(crops) == 1:
                self.unusable += 1
                return {}
            return {name: vector for each in crops for name, vector in self._embedded([each]).items()}
        return {crop.face_id: vector for crop, vector in zip(crops, vectors, strict=True)}


class Mover:
    """One collection, on its way to another model."""

    def __init__(self, gallery: Gallery, served: Served, watch: Watch, faces: Faces, collection: str) -> None:
        self._gallery, self._served, self._watch = gallery, served, watch
        self._faces, self._name = faces, collection
        self._unusable = 0

    def move(self) -> dict[str, object]:
        """What became of the collection."""
        try:
            return self._moved()
        except NotFoundError:
            return {"state": "erased"}

    def _moved(self) -> dict[str, object]:
        _, before = self._gallery.collection_info(self._name)
        target = self._faces.model
        if before == target:
            return self._arrived()
        refusal = None if self._watch.back else self._cannot_decide(before)
        if refusal is not None:
            return {"before": before.id, "state": "stays", "model": before.id, "reason": refusal}
        for _ in range(_PASSES):
            coverage = self._gallery.coverage(self._name, target.contract_id)
            about = self._about(before, coverage.faces)
            if coverage.without_crop:
                reason = f"{coverage.without_crop} faces have no crop"
                return {**about, "state": "stays", "without_crop": coverage.without_crop, "reason": reason}
            if not self._embed(coverage.missing, coverage.faces):
                return {**about, "state": "cancelled"}
            if self._unusable:
                return {**about, "state": "stays", "reason": f"{self._unusable} crops are damaged"}
            noted = {**about, "state": "switching", "agreement": self._compared(before)}
            if not self._watch.note(noted):
                return {**about, "state": "cancelled"}
            if self._gallery.switch(self._name, target, self._embed_last, self._watch.actor):
                return self._switched(noted)
        return {**about, "state": "stays", "reason": "more are enrolled than can be embedded anew"}

    def _about(self, before: ModelInfo, faces: int) -> dict[str, object]:
        return {"before": before.id, "before_contract_id": before.contract_id, "model": before.id, "faces": faces}

    def _old(self, before: ModelInfo) -> Faces | None:
        try:
            return self._served.of_now(before)
        except FaceError:
            return None

    def _arrived(self) -> dict[str, object]:
        """Of a collection that is on the model already: since long, or since this job was cut off after the switch."""
        noted = self._watch.noted
        if noted is not None and noted.get("state") == "switching":
            return self._switched(noted)
        self._gallery.keep_contracts(self._name, self._watch.keep)  # what a job that was given up has made
        return {"state": "there", "model": self._faces.model.id}

    def _switched(self, about: dict[str, object]) -> dict[str, object]:
        self._gallery.keep_contracts(self._name, [str(about["before_contract_id"])])
        return {**about, "state": "switched", "model": self._faces.model.id}

    def _cannot_decide(self, before: ModelInfo) -> str | None:
        """Why the new model could not make the decisions that the old one makes, if it could not."""
        old = self._old(before)
        if old is None:
            return None  # it makes none
        settings, _ = self._gallery.collection_info(self._name)
        size = self._gallery.size(self._name)
        for refusal in (self._refuses_to_verify, self._refuses_to_identify):
            reason = refusal(self._faces, settings, size)
            if reason is not None and refusal(old, settings, size) is None:
                return reason
        return None

    def _refuses_to_verify(self, faces: Faces, settings: CollectionSettings, size: int) -> str | None:
        return _refusal(lambda: faces.decide(Criterion(), settings.target_fmr))

    def _refuses_to_identify(self, faces: Faces, settings: CollectionSettings, size: int) -> str | None:
        if not size:
            return None
        return _refusal(lambda: faces.need_calibration().threshold_for_gallery(self._watch.target_fpir, size))

    def _embed(self, missing: int, faces: int) -> bool:
        """False if the job is over in the middle of it."""
        done = faces - missing
        batches = Batches(self._gallery, self._watch.stopped, self._name, self._faces)
        for count in batches:
            done += count
            if not self._watch.goes_on(min(1.0, done / max(faces, 1))):
                return False
        self._unusable = batches.unusable
        return self._watch.goes_on(1.0)

    def _embed_last(self, crops: Sequence[StoredCrop]) -> Sequence[Vector]:
        return self._faces.embed_stored([each.crop for each in crops], bulk=False)  # who enrols is waiting

    def _compared(self, before: ModelInfo) -> dict[str, object] | None:
        if before.contract_id == self._faces.model.contract_id:
            return None
        vectors = self._gallery.two_vectors(self._name, self._faces.model.contract_id, SAMPLE)
        return agreement(vectors, self._thresholds(before)).document()

    def _thresholds(self, before: ModelInfo) -> tuple[float, float] | None:
        """At the rate that 1:1 decisions of the collection are made at."""
        settings, _ = self._gallery.collection_info(self._name)
        old = self._old(before)
        if old is None:
            return None
        try:
            rate = Criterion(), settings.target_fmr
            return old.decide(*rate).threshold, self._faces.decide(*rate).threshold
        except (InvalidRequestError, CalibrationError):
            return None


def _refusal(decide: Callable[[], object]) -> str | None:
    try:
        decide()
    except (InvalidRequestError, CalibrationError) as error:
        return error.message
    return None
