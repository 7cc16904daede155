"""Photos: detect, embed, verify."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.domain import Criterion, Probe
from service.errors import InvalidRequestError
from service.people import People
from service.rest import inputs, openapi, render
from service.rest.schemas import (
    BatchOptions,
    BatchOut,
    DetectOut,
    EmbedOptions,
    EmbedOut,
    NoOptions,
    VerifyBody,
    VerifyOptions,
    VerifyOut,
)
from service.served import Served


def router(served: Served, people: People, route_class: type[APIRoute]) -> APIRouter:
    """Routes over the application layer."""
    routes = APIRouter(tags=["faces"], route_class=route_class)

    @routes.post("/detect", responses=openapi.answers(DetectOut, image=True), openapi_extra=openapi.image_body())
    async def detect(request: Request, _: Annotated[NoOptions, Query()]) -> Response:
        """Find the faces of a photo, largest first. No face is an empty list, not an error."""
        faces = served.default
        photo = await faces.detect(await inputs.read_image(request))
        return render.Json(render.photo(photo, faces.model))

    @routes.post("/embed", responses=openapi.answers(EmbedOut, image=True), openapi_extra=openapi.image_body())
    async def embed(request: Request, options: Annotated[EmbedOptions, Query()]) -> Response:
        """Find the faces of a photo and embed each: vectors of unit length whose inner product is the similarity."""
        faces = served.default
        photo = await faces.embed(await inputs.read_image(request), options.faces, options.aligned)
        return render.Json(render.embedded_photo(photo, options.encoding, faces.model))

    @routes.post(
        "/embed/batch",
        responses=openapi.answers(BatchOut, image=True),
        openapi_extra=openapi.several_body("images"),
    )
    async def embed_batch(request: Request, options: Annotated[BatchOptions, Query()]) -> Response:
        """Embed several photos. An image that fails is answered with its error and does not fail the others."""
        images = (await inputs.read_multipart(request, {"images"}, NoOptions)).files.get("images", [])
        if not images:
            raise InvalidRequestError("send at least one file part named images", field="images")
        faces = served.default
        results = await faces.embed_batch(images, options.faces)
        return render.Json(render.batch(results, options.encoding, faces.model))

    @routes.post(
        "/verify",
        responses=openapi.answers(VerifyOut, "face_not_found", "contract_mismatch", image=True),
        openapi_extra=openapi.parts_body(VerifyBody, VerifyOptions, "image_a", "image_b"),
    )
    async def verify(request: Request, options: Annotated[VerifyOptions, Query()]) -> Response:
        """Are two photos one person? Decided at a stated false-match rate, on the largest face of each."""
        a, b, merged = await _verify_input(request, options)
        verification = await people.verify(a, b, Criterion(merged.target_fmr, merged.threshold))
        return render.Json(render.verification(verification))

    return routes


async def _verify_input(request: Request, options: VerifyOptions) -> tuple[Probe, Probe, VerifyOptions]:
    if inputs.content_type(request) == "application/json":
        body = await inputs.read_json(request, VerifyBody)
        return inputs.to_probe(body.a, "a"), inputs.to_probe(body.b, "b"), inputs.take(options, body)
    form = await inputs.read_multipart(request, {"image_a", "image_b"}, VerifyOptions)
    a, b = Probe(image=form.one("image_a")), Probe(image=form.one("image_b"))
    return a, b, inputs.merge(options, form.texts)
