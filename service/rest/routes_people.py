"""People: collections, enrolment, identification, erasure."""

from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.domain import CollectionSettings, Criterion, Probe, SearchCriterion
from service.people import People
from service.rest import inputs, openapi, render
from service.rest.schemas import (
    CollectionBody,
    CollectionOut,
    CollectionsOut,
    EnrolBody,
    EnrolOptions,
    EnrolOut,
    IdentifyAllOut,
    IdentifyBody,
    IdentifyOptions,
    IdentifyOut,
    NoOptions,
    PageOptions,
    PageOut,
    ProbeBody,
    ReceiptOut,
    SubjectExportOut,
    SubjectOut,
    SubjectVerifyBody,
    SubjectVerifyOut,
    VerifyOptions,
)

O = TypeVar("O", VerifyOptions, IdentifyOptions)  # noqa: E741

_NOT_FOUND = "not_found"
_STORAGE = ("storage_full", "storage_unavailable", "overloaded")


def router(people: People, route_class: type[APIRoute]) -> APIRouter:
    """Routes over the application layer."""
    routes = APIRouter(prefix="/collections", tags=["people"], route_class=route_class)
    _collection_routes(routes, people)
    _subject_routes(routes, people)
    _decision_routes(routes, people)
    return routes


def _collection_routes(routes: APIRouter, people: People) -> None:
    @routes.get("", responses=openapi.answers(CollectionsOut, *_STORAGE))
    async def list_collections(_: Annotated[NoOptions, Query()]) -> Response:
        """All collections by name."""
        return render.Json({"collections": [render.collection(each) for each in await people.collections()]})

    @routes.put(
        "/{collection}",
        responses=openapi.answers(CollectionOut, *_STORAGE) | {201: {"model": CollectionOut, "description": "Created"}},
        openapi_extra=openapi.json_body(CollectionBody),
    )
    async def put_collection(collection: str, request: Request, _: Annotated[NoOptions, Query()]) -> Response:
        """Create a collection under the model that the server runs, or change its settings."""
        body = await inputs.read_json(request, CollectionBody)
        settings = CollectionSettings(**body.model_dump())
        stored, created = await people.put_collection(collection, settings)
        return render.Json(render.collection(stored), 201 if created else 200)

    @routes.get("/{collection}", responses=openapi.answers(CollectionOut, _NOT_FOUND, *_STORAGE))
    async def get_collection(collection: str, _: Annotated[NoOptions, Query()]) -> Response:
        """One collection with its counts and its model."""
        return render.Json(render.collection(await people.collection(collection)))

    @routes.delete("/{collection}", responses=openapi.answers(ReceiptOut, _NOT_FOUND, *_STORAGE))
    async def delete_collection(collection: str, _: Annotated[NoOptions, Query()]) -> Response:
        """Erase a collection with all its people; the answer is a signed receipt."""
        return render.Json(render.receipt(await people.delete_collection(collection)))


def _subject_routes(routes: APIRouter, people: People) -> None:
    @routes.get("/{collection}/subjects", responses=openapi.answers(PageOut, _NOT_FOUND, *_STORAGE))
    async def list_subjects(collection: str, options: Annotated[PageOptions, Query()]) -> Response:
        """Enrolled people by name, page by page."""
        return render.Json(render.page(await people.subjects(collection, options.cursor, options.limit)))

    @routes.get("/{collection}/subjects/{subject}", responses=openapi.answers(SubjectOut, _NOT_FOUND, *_STORAGE))
    async def get_subject(collection: str, subject: str, _: Annotated[NoOptions, Query()]) -> Response:
        """An enrolled person and what is kept of their faces; no vectors."""
        return render.Json(render.subject(await people.subject(collection, subject)))

    @routes.get(
        "/{collection}/subjects/{subject}/export", responses=openapi.answers(SubjectExportOut, _NOT_FOUND, *_STORAGE)
    )
    async def export_subject(collection: str, subject: str, _: Annotated[NoOptions, Query()]) -> Response:
        """Everything that is kept of a person, vectors and crops too, for whoever asks what is known of them."""
        return render.Json(render.subject_export(await people.export(collection, subject)))

    @routes.delete("/{collection}/subjects/{subject}", responses=openapi.answers(ReceiptOut, _NOT_FOUND, *_STORAGE))
    async def delete_subject(collection: str, subject: str, _: Annotated[NoOptions, Query()]) -> Response:
        """Erase a person; the answer is a signed receipt."""
        return render.Json(render.receipt(await people.delete_subject(collection, subject)))

    @routes.post(
        "/{collection}/subjects/{subject}/faces",
        status_code=201,
        responses=openapi.answers(
            EnrolOut, _NOT_FOUND, "face_not_found", "contract_mismatch", *_STORAGE, status=201, image=True
        ),
        openapi_extra=openapi.parts_body(EnrolBody, EnrolOptions, "images", several=True),
    )
    async def enrol(
        collection: str, subject: str, request: Request, options: Annotated[EnrolOptions, Query()]
    ) -> Response:
        """Enrol 1 to 20 photos of a person, the largest face of each, or an embedding."""
        probes, merged = await _enrol_input(request, options)
        enrolment = await people.enrol(collection, subject, probes, merged.consent, merged.idempotency_key)
        return render.Json(render.enrolment(enrolment), 201)

    @routes.delete(
        "/{collection}/subjects/{subject}/faces/{face_id}",
        responses=openapi.answers(ReceiptOut, _NOT_FOUND, *_STORAGE),
    )
    async def delete_face(collection: str, subject: str, face_id: str, _: Annotated[NoOptions, Query()]) -> Response:
        """Erase one face of a person; the answer is a signed receipt."""
        return render.Json(render.receipt(await people.delete_face(collection, subject, face_id)))


def _decision_routes(routes: APIRouter, people: People) -> None:
    @routes.post(
        "/{collection}/identify",
        responses=openapi.answers(
            IdentifyOut | IdentifyAllOut,
            _NOT_FOUND,
            "face_not_found",
            "contract_mismatch",
            *_STORAGE,
            image=True,
        ),
        openapi_extra=openapi.parts_body(IdentifyBody, IdentifyOptions, "image", raw=True),
    )
    async def identify(collection: str, request: Request, options: Annotated[IdentifyOptions, Query()]) -> Response:
        """Who is this? `known` with candidates at or above the threshold, or `unknown`.

        With `faces=all` the answer is `{"results": [...]}`, one decision a face.
        """
        probe, merged = await _probe_input(request, options, IdentifyBody)
        criterion = SearchCriterion(merged.target_fpir, merged.threshold)
        results = await people.identify(collection, probe, criterion, merged.limit, merged.faces)
        documents = [render.identification(each) for each in results]
        return render.Json({"results": documents} if merged.faces == "all" else documents[0])

    @routes.post(
        "/{collection}/subjects/{subject}/verify",
        responses=openapi.answers(
            SubjectVerifyOut, _NOT_FOUND, "face_not_found", "contract_mismatch", *_STORAGE, image=True
        ),
        openapi_extra=openapi.parts_body(SubjectVerifyBody, VerifyOptions, "image", raw=True),
    )
    async def verify_subject(
        collection: str, subject: str, request: Request, options: Annotated[VerifyOptions, Query()]
    ) -> Response:
        """Is this the enrolled person? Compared with their nearest face."""
        probe, merged = await _probe_input(request, options, SubjectVerifyBody)
        criterion = Criterion(merged.target_fmr, merged.threshold)
        verification, face_id = await people.verify_subject(collection, subject, probe, criterion)
        return render.Json({**render.verification(verification), "face_id": face_id})


async def _enrol_input(request: Request, options: EnrolOptions) -> tuple[list[Probe], EnrolOptions]:
    if inputs.content_type(request) == "application/json":
        body = await inputs.read_json(request, EnrolBody)
        return [inputs.to_probe(body)], inputs.take(options, body)
    form = await inputs.read_multipart(request, {"images"}, EnrolOptions)
    return [Probe(image=data) for data in form.files.get("images", [])], inputs.merge(options, form.texts)


async def _probe_input(request: Request, options: O, form_type: type[ProbeBody]) -> tuple[Probe, O]:
    kind = inputs.content_type(request)
    if kind == "application/json":
        body = await inputs.read_json(request, form_type)
        return inputs.to_probe(body), inputs.take(options, body)
    if kind == "multipart/form-data":
        form = await inputs.read_multipart(request, {"image"}, type(options))
        return Probe(image=form.one("image")), inputs.merge(options, form.texts)
    return Probe(image=await inputs.read_raw(request, kind)), options
