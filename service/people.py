"""The application layer for people: collections, enrolment, identification, erasure."""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

from service.domain import (
    Candidate,
    Collection,
    CollectionSettings,
    Criterion,
    EmbeddedProbe,
    Enrolment,
    Identification,
    Page,
    Probe,
    Receipt,
    SearchCriterion,
    Select,
    Subject,
    SubjectExport,
    Verification,
)
from service.enrolling import Form, check_enrolment, new_faces
from service.errors import ContractMismatchError, InvalidRequestError, NotFoundError, NotReadyError
from service.faces import Decision, Faces, angle_degrees, cosine
from service.gallery.contract import Gallery, Match
from service.inference.pool import Pool
from service.metrics import Metrics
from service.security.access import caller
from service.security.keys import COLLECTION_NAME
from service.security.receipts import ReceiptSigner
from service.served import Served
from service.shadow import Shadow

P = ParamSpec("P")
T = TypeVar("T")

MAX_LIMIT = 1000
# A collection may be given another model between embedding a probe and comparing it: then it is embedded again.
_ATTEMPTS = 100
_BETWEEN_S = 0.01


class People:
    """Galleries of people, each under a model of its own; new ones under the server's."""

    def __init__(
        self,
        served: Served,
        shadow: Shadow,
        gallery: Gallery,
        pool: Pool,
        signer: ReceiptSigner,
        default_target_fpir: float,
        metrics: Metrics | None = None,
    ) -> None:
        self._served = served
        self._shadow = shadow
        self._gallery = gallery
        self._pool = pool
        self._signer = signer
        self._default_target_fpir = default_target_fpir
        self._metrics = metrics or Metrics()

    async def put_collection(self, name: str, settings: CollectionSettings) -> tuple[Collection, bool]:
        """Create a collection under the server's model, or change its settings; True if it was created."""
        _check_collection(name, settings)
        if settings.target_fmr is not None:
            (await self._faces_of(name)).decide(Criterion(target_fmr=settings.target_fmr))  # one that can be met
        model = self._served.default.model
        return await self._commit(self._gallery.put_collection, name, settings, model, caller().id)

    async def collections(self) -> list[Collection]:
        """All collections by name that the caller's key is for."""
        return [each for each in await self._read(self._gallery.collections) if caller().sees(each.name)]

    async def collection(self, name: str) -> Collection:
        """One collection."""
        return await self._read(self._gallery.collection, name)

    async def enrol(
        self,
        collection: str,
        subject: str,
        probes: Sequence[Probe],
        consent: str | None = None,
        idempotency_key: str | None = None,
    ) -> Enrolment:
        """Enrol a person by photos (the largest face of each) or embeddings.

        What came before under the same idempotency key, for the same person, is not stored again: the answer is the
        same, as long as it was not erased.

        Photos without a face, or that cannot be read, are rejected one by one. If none is left, the first reason is
        raised, with all of them in `details["rejected"]`, and nothing is stored.

        Raises:
            NotFoundError: no such collection.
            FaceError: nothing could be enrolled.
        """
        subject = _normal(subject)
        form = Form(consent, False, idempotency_key)
        check_enrolment(subject, probes, form)
        self._check_probes(probes)

        async def work(faces: Faces, settings: CollectionSettings) -> Enrolment:
            if settings.require_consent and consent is None:
                raise InvalidRequestError(
                    f"collection {collection!r} takes nobody without a consent reference", field="consent"
                )
            kept = replace(form, store_crops=settings.store_crops)
            return await self._enrol(faces, collection, subject, probes, kept)

        return await self._under_its_model(collection, work)

    async def _enrol(
        self,
        faces: Faces,
        collection: str,
        subject: str,
        probes: Sequence[Probe],
        form: Form,
    ) -> Enrolment:
        new, rejected, first_error = await new_faces(faces, probes, form)
        if first_error is not None and not new:
            if len(probes) > 1:
                first_error.details["rejected"] = [
                    {"index": item.index, "code": item.code, "message": item.message} for item in rejected
                ]
            raise first_error
        contract = faces.model.contract_id
        stored = await self._commit(self._gallery.enrol, collection, contract, subject, new, caller().id)
        return Enrolment(stored, rejected)

    async def subject(self, collection: str, name: str) -> Subject:
        """A person and their faces."""
        return await self._read(self._gallery.subject, collection, _normal(name))

    async def subjects(self, collection: str, cursor: str | None = None, limit: int = 100) -> Page:
        """People by name, from after `cursor`."""
        _check_limit(limit)
        return await self._read(self._gallery.subjects, collection, cursor or "", limit)

    async def identify(
        self,
        collection: str,
        probe: Probe,
        criterion: SearchCriterion,
        limit: int = 5,
        select: Select = "largest",
    ) -> list[Identification]:
        """Who is this? One answer a face; `limit` bounds the candidates of each.

        Raises:
            FaceNotFoundError: no face in the image, where the largest one was asked for.
            ContractMismatchError: the collection was enrolled with another model.
        """
        _check_limit(limit)
        self._check_probes([probe])

        async def work(faces: Faces, _: CollectionSettings) -> list[Identification]:
            # Whatever would refuse the search does so before a photo is worked on.
            if criterion.threshold is None:
                self._decide(faces, criterion, await self._read(self._gallery.size, collection))
            probes = await _probes(faces, probe, select)
            return [await self._identify(faces, collection, each, criterion, limit) for each in probes]

        return await self._under_its_model(collection, work)

    async def verify_subject(
        self, collection: str, subject: str, probe: Probe, criterion: Criterion
    ) -> tuple[Verification, str]:
        """Is this the enrolled person? Compared with their best face, whose face_id is returned as well.

        Raises:
            NotFoundError: no such collection or person, or a person without faces.
            ContractMismatchError: the collection was enrolled with another model.
        """
        subject = _normal(subject)
        self._check_probes([probe])

        async def work(faces: Faces, settings: CollectionSettings) -> tuple[Verification, str]:
            decision = faces.decide(criterion, settings.target_fmr)
            enrolled = await self._read(self._gallery.vectors_of, collection, faces.model.contract_id, subject)
            if not enrolled:
                raise NotFoundError(f"subject {subject!r} has no face", subject=subject)
            embedded = await faces.embed_probe(probe)
            face_id, vector = max(enrolled, key=lambda item: cosine(embedded.embedding, item[1]))
            return faces.compare(embedded, vector, decision, None), face_id

        result, face_id = await self._under_its_model(collection, work)
        await self._note("verify.subject", collection, subject, face=face_id, **_decided(result))
        return result, face_id

    async def verify(self, a: Probe, b: Probe, criterion: Criterion) -> Verification:
        """Are two probes one person? Nobody enrolled is asked; the audit log tells of it like of any decision.

        Raises:
            FaceError: as `Faces.verify`.
        """
        self._check_probes([a, b])
        result = await (await self._faces_for(a, b)).verify(a, b, criterion)
        await self._note("verify", None, None, **_decided(result))
        self._shadow.look(a, b, criterion, result)
        return result

    async def export(self, collection: str, subject: str) -> SubjectExport:
        """All that is kept of a person, their vectors and crops too."""
        return await self._commit(self._gallery.export, collection, _normal(subject), caller().id)

    async def delete_collection(self, name: str) -> Receipt:
        """Erase a collection with all its people."""
        erased = await self._commit(self._gallery.erase, name, actor=caller().id)
        return self._signer.sign(name, None, erased.face_ids)

    async def delete_subject(self, collection: str, subject: str) -> Receipt:
        """Erase a person."""
        subject = _normal(subject)
        erased = await self._commit(self._gallery.erase, collection, subject, actor=caller().id)
        return self._signer.sign(collection, subject, erased.face_ids)

    async def delete_face(self, collection: str, subject: str, face_id: str) -> Receipt:
        """Erase one face of a person."""
        subject = _normal(subject)
        erased = await self._commit(self._gallery.erase, collection, subject, face_id, caller().id)
        return self._signer.sign(collection, subject, erased.face_ids)

    async def erase_expired(self) -> int:
        """Erase the faces whose retention is over; their number."""
        return await self._commit(self._gallery.erase_expired)

    async def _under_its_model(self, collection: str, work: Callable[[Faces, CollectionSettings], Awaitable[T]]) -> T:
        """Work on a collection with the model that it is on, and again if it was given another one meanwhile."""
        for _ in range(_ATTEMPTS):
            settings, model = await self._read(self._gallery.collection_info, collection)
            faces = await self._served.of(model)
            try:
                return await work(faces, settings)
            except ContractMismatchError as error:
                # Said by the gallery of our own vectors, not of an embedding that the caller sent.
                if error.details.get("server_contract_id") != faces.model.contract_id:
                    raise
            await asyncio.sleep(_BETWEEN_S)
        raise NotReadyError(f"collection {collection!r} is being given another model; try again")

    async def _faces_of(self, collection: str) -> Faces:
        """What embeds for a collection, or would if there were one of that name."""
        try:
            _, model = await self._read(self._gallery.collection_info, collection)
        except NotFoundError:
            return self._served.default
        return await self._served.of(model)

    async def _faces_for(self, *probes: Probe) -> Faces:
        """What made the embeddings among some probes, or the default model."""
        default = self._served.default
        for each in probes:
            if each.contract_id is not None:
                # Only what is served anyway: nobody loads a model by naming it.
                if each.contract_id not in self._served.contracts:
                    raise ContractMismatchError(f"no model of contract {each.contract_id} is served here")
                return await self._served.of(replace(default.model, contract_id=each.contract_id))
        return default

    def _check_probes(self, probes: Sequence[Probe]) -> None:
        for each in probes:
            if each.embedding is not None:
                self._served.check_stated(each.contract_id)

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._timed("read", function, *args, **kwargs)

    async def _commit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._timed("commit", function, *args, **kwargs)

    async def _timed(self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def call() -> T:
            with self._metrics.stage(stage):
                return function(*args, **kwargs)

        return await self._pool.run(call)

    async def _note(self, event: str, collection: str | None, subject: str | None, **detail: object) -> None:
        await self._commit(self._gallery.note, caller().id, event, collection, subject, **detail)

    def _decide(self, faces: Faces, criterion: SearchCriterion, gallery_size: int) -> Decision:
        if criterion.threshold is not None:
            return Decision(criterion.threshold, None)
        fpir = criterion.target_fpir or self._default_target_fpir
        chosen = faces.need_calibration().threshold_for_gallery(fpir, gallery_size)
        return Decision(chosen.value, chosen.target_fmr)

    async def _identify(
        self, faces: Faces, collection: str, probe: EmbeddedProbe, criterion: SearchCriterion, limit: int
    ) -> Identification:
        contract, actor = faces.model.contract_id, caller().id

        # On one thread, one after the other: what it costs to get to a thread is more than most searches.
        def searched_and_noted() -> tuple[list[Match], Decision, int]:
            with self._metrics.stage("search"):
                # Decided for the very faces that were searched.
                matches, size = self._gallery.search(
                    collection,
                    contract,
                    probe.embedding,
                    limit,
                    lambda size: self._decide(faces, criterion, size).threshold,
                )
            decision = self._decide(faces, criterion, size)
            if matches:
                self._metrics.decided("identify", matches[0].similarity, matches[0].similarity >= decision.threshold)
            matches = [match for match in matches if match.similarity >= decision.threshold]
            named = [[match.subject_uid, match.face_id, round(match.similarity, 6)] for match in matches]
            about = {"candidates": named, "threshold": decision.threshold, "gallery_size": size}
            with self._metrics.stage("commit"):
                self._gallery.note(actor, "identify", collection, None, **about)
            return matches, decision, size

        matches, decision, size = await self._pool.run(searched_and_noted)
        candidates = [_candidate(faces, match.subject, match.face_id, match.similarity) for match in matches]
        return Identification(
            decision="known" if candidates else "unknown",
            candidates=candidates,
            threshold=decision.threshold,
            target_fpir=None if criterion.threshold is not None else criterion.target_fpir or self._default_target_fpir,
            gallery_size=size,
            face=probe.face,
            model=faces.model,
        )


def _candidate(faces: Faces, subject: str, face_id: str, similarity: float) -> Candidate:
    bounded = max(-1.0, min(1.0, similarity))
    return Candidate(subject, face_id, bounded, angle_degrees(bounded), faces.probability(bounded))


async def _probes(faces: Faces, probe: Probe, select: Select) -> list[EmbeddedProbe]:
    if probe.image is None or select == "largest":
        return [await faces.embed_probe(probe)]
    photo = await faces.embed(probe.image, "all")
    return [EmbeddedProbe(item.embedding, item.face) for item in photo.faces]


def _decided(result: Verification) -> dict[str, object]:
    return {
        "matched": result.matched,
        "similarity": round(result.similarity, 6),
        "threshold": result.threshold,
        "target_fmr": result.target_fmr,
    }


def _check_collection(name: str, settings: CollectionSettings) -> None:
    if not COLLECTION_NAME.fullmatch(name):
        raise InvalidRequestError(
            "a collection's name has 1 to 64 letters, digits, '.', '_' or '-'", field="collection"
        )
    if not 1 <= len(settings.purpose.strip()) <= 500:
        raise InvalidRequestError("purpose must say in 1 to 500 characters what the collection is for", field="purpose")
    if settings.retention_days is not None and not 1 <= settings.retention_days <= 36_500:
        raise InvalidRequestError("retention_days must be between 1 and 36500", field="retention_days")


def _normal(subject: str) -> str:
    """One form (NFC) for a name that can be typed in several, so that they are one person."""
    return unicodedata.normalize("NFC", subject)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequestError(f"limit must be between 1 and {MAX_LIMIT}, got {limit}", field="limit")
