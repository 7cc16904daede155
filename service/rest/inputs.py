"""Request bodies: multipart, a raw image, or JSON with base64. Bytes out, whatever the form."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import Request

from models.errors import UnsupportedMediaTypeError
from service.domain import Probe
from service.errors import InvalidRequestError
from service.rest.schemas import ImageBody, ProbeBody

M = TypeVar("M", bound=BaseModel)

MAX_PARTS = 256
# Parts above this size would be written to a temporary file; photos of people stay in memory. The body is limited.
MultiPartParser.spool_max_size = 2**31


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart body: files by part name, in order, and text fields."""

    files: dict[str, list[bytes]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def one(self, name: str) -> bytes:
        """The only file of that name.

        Raises:
            InvalidRequestError: there is none, or several.
        """
        found = self.files.get(name, [])
        if len(found) != 1:
            raise InvalidRequestError(f"send exactly one file part named {name}, got {len(found)}", field=name)
        return found[0]


def content_type(request: Request) -> str:
    """The media type, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_options(request: Request, form: type[M]) -> M:
    """The query in the given form.

    Raises:
        InvalidRequestError: an option that is given twice, is not known or has a wrong value.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidRequestError(f"{name} is given twice", field=name)
        given[name] = value
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise InvalidRequestError(first_problem(error), field=_place(error)) from error


async def read_image(request: Request) -> bytes:
    """One image from any of the three forms.

    Raises:
        FaceError: another content type, a missing part, or text that is not base64.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        return (await read_form(request, {"image"})).one("image")
    if kind == "application/json":
        return from_base64((await read_json(request, ImageBody)).image, "image")
    return await read_raw(request, kind)


async def read_raw(request: Request, kind: str) -> bytes:
    """The body itself, if its type says that it is an image."""
    if kind.startswith("image/") or kind in (
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "",
    ):
        # curl --data-binary states a form's type; the bytes tell what they are.
        return await request.body()
    raise UnsupportedMediaTypeError(
        f"content type {kind!r} is not accepted; send multipart/form-data, application/json or an image"
    )


async def read_json(request: Request, form: type[M]) -> M:
    """A JSON body in the given form.

    Raises:
        InvalidRequestError: not JSON, or not that form; the first problem is named.
    """
    try:
        return form.model_validate_json(await request.body())
    except ValidationError as error:
        raise InvalidRequestError(first_problem(error)) from error


async def read_multipart(request: Request, files: set[str], options: type[BaseModel]) -> Form:
    """A multipart body whose text parts are the fields of `options`.

    Raises:
        UnsupportedMediaTypeError: another content type.
    """
    kind = content_type(request)
    if kind != "multipart/form-data":
        raise UnsupportedMediaTypeError(
            f"content type {kind!r} is not accepted here; send multipart/form-data or application/json"
        )
    return await read_form(request, files, frozenset(options.model_fields))


async def read_form(request: Request, files: set[str], texts: frozenset[str] = frozenset()) -> Form:
    """A multipart body with files and texts of the given names only.

    Raises:
        InvalidRequestError: another name, or a text where a file belongs.
    """
    result = Form()
    async with request.form(max_files=MAX_PARTS, max_fields=MAX_PARTS) as parts:
        for name, value in parts.multi_items():
            if name in files and isinstance(value, UploadFile):
                result.files.setdefault(name, []).append(await value.read())
            elif name in result.texts:
                raise InvalidRequestError(f"{name} is given twice", field=name)
            elif name in texts and isinstance(value, str):
                result.texts[name] = value
            else:
                expected = "file" if name in files else "text" if name in texts else ""
                hint = f"must be a {expected} part" if expected else f"is unknown; known: {_names(files, texts)}"
                raise InvalidRequestError(f"part {name!r} {hint}", field=name)
    return result


def merge(options: M, texts: dict[str, str]) -> M:
    """Query parameters completed by text fields of a form.

    Raises:
        InvalidRequestError: a value of the wrong type, or two different ones.
    """
    try:
        sent = type(options).model_validate(texts)
    except ValidationError as error:
        raise InvalidRequestError(first_problem(error)) from error
    for name in texts:
        if name in options.model_fields_set and getattr(options, name) != getattr(sent, name):
            raise InvalidRequestError(f"{name} is given twice, and differently", field=name)
    return options.model_copy(update={name: getattr(sent, name) for name in texts})


def take(options: M, body: BaseModel) -> M:
    """Query parameters completed by the same fields of a JSON body."""
    given = body.model_fields_set & set(type(options).model_fields)
    for name in given & options.model_fields_set:
        if getattr(options, name) != getattr(body, name):
            raise InvalidRequestError(f"{name} is given twice, and differently", field=name)
    return options.model_copy(update={name: getattr(body, name) for name in given})


def to_probe(body: ProbeBody, name: str = "") -> Probe:
    """A probe out of JSON.

    Raises:
        InvalidRequestError: neither or both of image and embedding, or text that is not base64.
    """
    image = None if body.image is None else from_base64(body.image, f"{name}.image" if name else "image")
    return Probe(image, body.embedding, body.contract_id)


def from_base64(text: str, name: str) -> bytes:
    """Bytes of a base64 text; the prefix of a data URL is skipped, and so are line breaks, which many tools put in.

    Raises:
        InvalidRequestError: it is not base64.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{name} is not base64", field=name) from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, in one line."""
    where, message = _place(error), _first(error)["msg"]
    return f"{where}: {message}" if where else str(message)


def _place(error: ValidationError) -> str:
    return ".".join(str(part) for part in _first(error)["loc"])


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_input=False, include_context=False)[0]


def _names(files: set[str], texts: frozenset[str]) -> str:
    return ", ".join(sorted({*files, *texts}))
