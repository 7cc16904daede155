"""What goes wrong with data."""

from models.errors import FaceError


class DataError(FaceError):
    """The data set is missing, damaged, or not in the layout that was expected."""

    code = "invalid_request"
