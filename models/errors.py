"""Errors that carry a transport-free code. Adapters map the code once; nothing else knows HTTP or gRPC."""

from typing import Any, ClassVar


class FaceError(Exception):
    """Root of every error that a caller may see: a stable `code`, one clear sentence, optional details."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidImageError(FaceError):
    """The bytes are not an image that can be decoded."""

    code = "invalid_image"


class UnsupportedMediaTypeError(FaceError):
    """The bytes are of a format outside the allow-list, or the request's content type is unknown."""

    code = "unsupported_media_type"


class PayloadTooLargeError(FaceError):
    """More bytes than the limit."""

    code = "payload_too_large"


class ImageTooLargeError(FaceError):
    """The header promises more pixels than the limit."""

    code = "image_too_large"


class InvalidBundleError(FaceError):
    """A model file or its manifest is damaged, incomplete or does not do what the manifest says."""

    code = "invalid_bundle"


class ModelNotFoundError(FaceError):
    """No such model in the registry or in the list of default models."""

    code = "not_found"


class SourceError(FaceError):
    """A model's file could not be fetched from its source, or is not the file that was pinned."""

    code = "source_unavailable"


class DeviceUnavailableError(FaceError):
    """The device that was asked for is not the device that would be used."""

    code = "device_unavailable"


class CalibrationError(FaceError):
    """A threshold was asked for that the calibration cannot state."""

    code = "invalid_request"
