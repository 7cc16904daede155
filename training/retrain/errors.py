"""How a job ends when it does not end in a promotion."""

from models.errors import FaceError


class StageFailedError(FaceError):
    """A stage could not do its work; those before it are kept, and the champion serves on."""

    code = "invalid_request"


class RefusedError(FaceError):
    """All was done, and the gate does not let the candidate pass; the champion serves on."""

    code = "invalid_request"
