"""What an importer reads: photos of people by name, and what of them cannot be imported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


class NoPhotoError(Exception):
    """There is no photo behind a record; of the face, at most a vector."""


class BadRecordError(Exception):
    """A record is not what it should be; the message is one line."""


@dataclass(frozen=True, slots=True)
class SourcePhoto:
    """A photo by its id there, and whose it is; `read` gives the file, or raises NoPhotoError or BadRecordError."""

    id: str
    subject: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Source:
    """All of one collection of another program.

    `program`: its name, which is part of what photos are known by when they come again. `vectors`: how many faces there
    are of a person without a photo. `model`: what made those. `problems`: a line each about records that were left out.
    """

    program: str
    photos: Sequence[SourcePhoto]
    vectors: Mapping[str, int] = field(default_factory=dict)
    model: str = "another model"
    problems: Sequence[str] = ()
    close: Callable[[], None] = lambda: None  # when all is read

    @property
    def subjects(self) -> set[str]:
        """Everybody of whom there is something."""
        return {photo.subject for photo in self.photos} | set(self.vectors)
