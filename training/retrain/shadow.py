"""What a server counted while the candidate ran beside it: the answer of GET /models/shadow, for the job's report."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from training.data.errors import DataError

_MOST_BYTES = 1_000_000


class ShadowCounts(BaseModel):
    """Decisions on a share of the traffic, each made by the model that served and by the candidate."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), extra="ignore")

    model_id: str
    share: float = Field(gt=0, le=1)
    compared: NonNegativeInt
    same: NonNegativeInt
    flipped_to_match: NonNegativeInt
    flipped_to_non_match: NonNegativeInt
    failed: NonNegativeInt = 0
    left_out: NonNegativeInt = 0
    mean_shift: float = Field(0.0, ge=-2, le=2)

    @model_validator(mode="after")
    def _adds_up(self) -> "ShadowCounts":
        if self.same + self.flipped_to_match + self.flipped_to_non_match != self.compared:
            raise ValueError("same and flipped decisions do not add up to those compared")
        return self


def read_shadow(path: Path, model_id: str) -> ShadowCounts:
    """The counts of a model.

    Raises:
        DataError: the file cannot be read, is no answer of GET /models/shadow, or is about another model.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"shadow: {path} is no file")
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"shadow: cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    try:
        counts = ShadowCounts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"shadow: {path} is no answer of GET /models/shadow: {f'{where}: ' if where else ''}{first['msg']}"
        ) from error
    if counts.model_id != model_id:
        raise DataError(f"shadow: {path} is about {counts.model_id}, and this job makes {model_id}")
    return counts
