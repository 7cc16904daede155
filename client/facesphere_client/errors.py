"""What can go wrong: one class for each code of the API, and what happens on the way to it."""

from collections.abc import Mapping
from typing import Any, ClassVar


class FacesphereError(Exception):
    """Root of all errors of this package."""


class ConnectionFailedError(FacesphereError):
    """The server cannot be reached, or the connection was lost.

    `sent`: the request may have come there, so that what it asked for may be done or not.
    """

    def __init__(self, message: str, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class TimedOutError(ConnectionFailedError):
    """No answer came within the time that the caller gave. What was asked for may be done or not."""


class ProtocolError(FacesphereError):
    """What answered is not Facesphere, or another version of it: a proxy in between, for one.

    `status`: of HTTP, where there is one; `retry_after_s`: how long it asks to wait.
    """

    def __init__(self, message: str, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class UnsupportedError(FacesphereError):
    """The protocol that was chosen has no such call, or the server is older than this client."""


class ImageFileError(FacesphereError):
    """A file cannot be read here."""


class ApiError(FacesphereError):
    """The server refused. `code` is one of docs/api.md; `request_id` is what its log knows the request by."""

    code: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code  # type: ignore[misc]  # a code that this version does not know

    def __str__(self) -> str:
        asked = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.code}: {self.message}{asked}"


class InvalidRequestError(ApiError):
    """A field is missing, malformed, out of range, or contradicts another."""

    code = "invalid_request"


class UnauthenticatedError(ApiError):
    """No key, or one that the server does not know."""

    code = "unauthenticated"


class PermissionDeniedError(ApiError):
    """The key may not do this."""

    code = "permission_denied"


class NotFoundError(ApiError):
    """No such collection, subject, face, model or job."""

    code = "not_found"


class AlreadyExistsError(ApiError):
    """It is there already and would be changed into something else."""

    code = "already_exists"


class ContractMismatchError(ApiError):
    """Vectors of two models would be compared."""

    code = "contract_mismatch"


class InvalidBundleError(ApiError):
    """A model's file is not what it should be."""

    code = "invalid_bundle"


class ImageError(ApiError):
    """The image is at fault, and will be the next time."""


class PayloadTooLargeError(ImageError):
    """More bytes than the server takes."""

    code = "payload_too_large"


class ImageTooLargeError(ImageError):
    """More pixels than the server takes."""

    code = "image_too_large"


class UnsupportedMediaTypeError(ImageError):
    """Not a JPEG, PNG, WebP or BMP."""

    code = "unsupported_media_type"


class InvalidImageError(ImageError):
    """The bytes cannot be decoded."""

    code = "invalid_image"


class FaceNotFoundError(ImageError):
    """There is no face in the image."""

    code = "face_not_found"


class TryLaterError(ApiError):
    """The server did not do it, for a reason that passes; tried again by itself as `Retry` says."""


class OverloadedError(TryLaterError):
    """The server's queues are full."""

    code = "overloaded"


class RateLimitedError(TryLaterError):
    """The key has been used more often than it may."""

    code = "rate_limited"


class NotReadyError(TryLaterError):
    """The server is starting or stopping."""

    code = "not_ready"


class GalleryUnavailableError(ApiError):
    """The server's database cannot be reached. `outcome` says what became of a change."""

    code = "gallery_unavailable"

    @property
    def outcome(self) -> str:
        """`nothing changed`, or `unknown`; gRPC does not carry it."""
        return str(self.details.get("outcome", "unknown"))


class ServerError(ApiError):
    """The server is at fault, and waiting does not help."""


class InternalError(ServerError):
    """An error that the server did not expect; its log has the request_id."""

    code = "internal"


class DeviceUnavailableError(ServerError):
    """The device that the server was told to use is not there."""

    code = "device_unavailable"


class SourceUnavailableError(ServerError):
    """A model could not be fetched."""

    code = "source_unavailable"


class StorageUnavailableError(ServerError):
    """The gallery is damaged, or in use by another program."""

    code = "storage_unavailable"


class StorageFullError(ServerError):
    """The server's disk is full; nothing was changed."""

    code = "storage_full"


class DeadlineExceededError(ServerError):
    """The request took the server longer than it may."""

    code = "deadline_exceeded"


def _leaves(kind: type[ApiError]) -> dict[str, type[ApiError]]:
    found = {kind.code: kind} if kind.code else {}
    for each in kind.__subclasses__():
        found |= _leaves(each)
    return found


BY_CODE: Mapping[str, type[ApiError]] = _leaves(ApiError)


def refused(
    code: str,
    message: str,
    details: Mapping[str, Any] | None = None,
    request_id: str | None = None,
    retry_after_s: float | None = None,
) -> ApiError:
    """The error of a code; an ApiError that bears it, where this version knows no class for it."""
    kind = BY_CODE.get(code)
    if kind is None:
        return ApiError(message, details, request_id, retry_after_s, code)
    return kind(message, details, request_id, retry_after_s)
