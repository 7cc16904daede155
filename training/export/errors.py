"""What keeps a network from being exported."""

from models.errors import FaceError


class ExportError(FaceError):
    """The network cannot be exported, or what was exported does not do what the network does."""

    code = "invalid_bundle"


class VariantRefusedError(ExportError):
    """A smaller variant lost more accuracy than its gate allows."""
