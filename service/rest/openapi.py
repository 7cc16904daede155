"""What the OpenAPI document says beyond the signatures: bodies in three forms, and every error."""

from typing import Any

from pydantic import BaseModel

from service.rest.errors import STATUS
from service.rest.schemas import ErrorOut, ImageBody

_BINARY = {"type": "string", "format": "binary"}
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream")
_COMMON = (
    "invalid_request",
    "unauthenticated",
    "permission_denied",
    "rate_limited",
    "internal",
    "not_ready",
    "deadline_exceeded",
)
_IMAGE = ("payload_too_large", "image_too_large", "unsupported_media_type", "invalid_image", "overloaded")

_KEY = "HTTPBearer"
WITH_KEY: list[dict[str, list[str]]] = [{_KEY: []}]
"""What a route says that asks for a key."""


def image_body() -> dict[str, Any]:
    """An image as a part, as the body, or as base64."""
    raw = {kind: {"schema": _BINARY} for kind in _IMAGE_TYPES}
    return body({"multipart/form-data": _parts(["image"]), **raw, "application/json": _json(ImageBody)})


def parts_body(
    form: type[BaseModel], texts: type[BaseModel], *names: str, several: bool = False, raw: bool = False
) -> dict[str, Any]:
    """Image parts with text parts beside them, a JSON document, or (with `raw`) the image itself."""
    parts = {"multipart/form-data": _parts(list(names), several), "application/json": _json(form)}
    parts["multipart/form-data"]["schema"]["properties"] |= texts.model_json_schema()["properties"]
    return body(parts | ({kind: {"schema": _BINARY} for kind in _IMAGE_TYPES} if raw else {}))


def json_body(form: type[BaseModel]) -> dict[str, Any]:
    """A JSON document."""
    return body({"application/json": _json(form)})


def several_body(name: str) -> dict[str, Any]:
    """Several images as parts of one name."""
    return body({"multipart/form-data": _parts([name], several=True)})


def body(content: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself."""
    return {"requestBody": {"required": True, "content": content}}


def answers(
    model: Any, *codes: str, status: int = 200, image: bool = False, description: str = "Done"
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: its answer and every error code it may give, by status."""
    documented: dict[int | str, dict[str, Any]] = {status: {"model": model, "description": description}}
    by_status: dict[int, list[str]] = {}
    for code in (*_COMMON, *(_IMAGE if image else ()), *codes):
        by_status.setdefault(int(STATUS[code]), []).append(code)
    for error_status, names in sorted(by_status.items()):
        documented[error_status] = {"model": ErrorOut, "description": ", ".join(names)}
    return documented


def _parts(names: list[str], several: bool = False) -> dict[str, Any]:
    one: dict[str, Any] = {"type": "array", "items": _BINARY} if several else _BINARY
    schema = {"type": "object", "required": names, "properties": dict.fromkeys(names, one)}
    return {"schema": schema}


def _json(form: type[BaseModel]) -> dict[str, Any]:
    return {"schema": form.model_json_schema(ref_template="#/components/schemas/{model}", mode="validation")}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document, without answers that are never given, with what a key is and the schemas of bodies."""
    document["components"]["securitySchemes"] = {
        _KEY: {"type": "http", "description": "Needed where the server was started with a key.", "scheme": "bearer"}
    }
    schemas = document["components"]["schemas"]
    for operation in (each for path in document["paths"].values() for each in path.values()):
        # Added by FastAPI wherever there are parameters; here a bad parameter is a 400.
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schemas.update(media["schema"].pop("$defs", {}))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document
