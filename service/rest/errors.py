"""Domain codes to HTTP, once."""

from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.errors import FaceError
from service.rest.render import Json

STATUS: dict[str, int] = {
    "invalid_request": HTTPStatus.BAD_REQUEST,
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "permission_denied": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "already_exists": HTTPStatus.CONFLICT,
    "contract_mismatch": HTTPStatus.CONFLICT,
    "payload_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "image_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "unsupported_media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "invalid_image": HTTPStatus.UNPROCESSABLE_ENTITY,
    "face_not_found": HTTPStatus.UNPROCESSABLE_ENTITY,
    "overloaded": HTTPStatus.TOO_MANY_REQUESTS,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "invalid_bundle": HTTPStatus.CONFLICT,
    "device_unavailable": HTTPStatus.INTERNAL_SERVER_ERROR,
    "source_unavailable": HTTPStatus.BAD_GATEWAY,
    "not_ready": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "gallery_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "deadline_exceeded": HTTPStatus.GATEWAY_TIMEOUT,
    "storage_full": HTTPStatus.INSUFFICIENT_STORAGE,
}


def error_response(error: FaceError, request_id: str, status: int | None = None) -> Response:
    """The error document of docs/api.md, with Retry-After where waiting helps and WWW-Authenticate where a key does."""
    status = status or STATUS[error.code]
    headers = {}
    if "retry_after_s" in error.details:
        headers["retry-after"] = str(error.details["retry_after_s"])
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    body = {"code": error.code, "message": error.message, "details": error.details}
    return _Error(error.code, {"error": body, "request_id": request_id}, status, headers)


class _Error(Json):
    """Leaves the code with the request, for those who count it."""

    def __init__(self, code: str, *args: Any) -> None:
        super().__init__(*args)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["error_code"] = self._code
        await super().__call__(scope, receive, send)
