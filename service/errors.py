"""Errors of the service. Each has a transport-free code; rest/errors.py and grpc_api/errors.py map it once each."""

from models.errors import FaceError


class InvalidRequestError(FaceError):
    """A field is missing, malformed, out of range, or contradicts another."""

    code = "invalid_request"


class FaceNotFoundError(FaceError):
    """The photo is fine, but there is no face in it."""

    code = "face_not_found"


class NotFoundError(FaceError):
    """No such collection, subject, face or model."""

    code = "not_found"


class AlreadyExistsError(FaceError):
    """It is there already and would be changed into something else."""

    code = "already_exists"


class ContractMismatchError(FaceError):
    """Vectors of two contracts would be compared."""

    code = "contract_mismatch"


class UnauthenticatedError(FaceError):
    """No key, or one that is not known."""

    code = "unauthenticated"


class PermissionDeniedError(FaceError):
    """The caller is known, or comes from another site, and may not do this."""

    code = "permission_denied"


class OverloadedError(FaceError):
    """The queues are full: come back after `retry_after_s` seconds."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class RateLimitedError(FaceError):
    """A key has been used more often than it may: come back after `retry_after_s` seconds."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class DeadlineExceededError(FaceError):
    """The request took longer than it may."""

    code = "deadline_exceeded"


class NotReadyError(FaceError):
    """The server is starting or stopping."""

    code = "not_ready"


class StorageFullError(FaceError):
    """There is no room to make the change durable; nothing was changed."""

    code = "storage_full"


class StorageError(FaceError):
    """The gallery on disk is damaged, of another version, or in use by another process."""

    code = "storage_unavailable"


class GalleryUnavailableError(FaceError):
    """The database of the gallery cannot be reached, or is busy: come back after `retry_after_s` seconds.

    details["outcome"] says what became of a change: "nothing changed", or "unknown" where the connection was lost while
    it was committed.
    """

    code = "gallery_unavailable"

    def __init__(self, message: str, retry_after_s: int = 1, outcome: str = "nothing changed") -> None:
        super().__init__(message, retry_after_s=retry_after_s, outcome=outcome)
