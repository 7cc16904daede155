"""A retrain job as a YAML file: one section a stage, every key known."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from models.alignment import TEMPLATE_NAMES
from models.bundle import Licence, ModelId, first_problem
from training.config import ConfigError, Count, Section, Share, TrainConfig, parse_config, read_mapping

Rate = Annotated[float, Field(gt=0, le=0.1)]  # the pairs that are kept of an evaluation tell no more
Size = Annotated[int, Field(ge=16, le=1024)]


class Align(Section):
    """How the face is cut out of each photo; `aligned`: the photos are crops already."""

    template: str = "arcface"
    height: Size = 112
    width: Size | None = None
    face: Literal["largest", "central"] = "largest"
    aligned: bool = False
    min_face: Annotated[int, Field(ge=0)] = 0
    min_images: Count = 1
    detector: str | None = None

    @field_validator("template")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TEMPLATE_NAMES:
            raise ValueError(f"known templates are {', '.join(TEMPLATE_NAMES)}")
        return name


class Clean(Section):
    """What is taken for a mistake in the data; docs/retraining.md has the measurements behind the defaults.

    model: whose embeddings tell; the champion at the job's first run if left out. near: cosine, and hash_bits: most
    bits of 64 that the perceptual hashes of near duplicates differ in. outlier_fmr: a photo less like the centre of its
    person than the threshold at this false-match rate is an outlier; move_fpir: a photo, or a person, is taken for
    another person where a stranger would be with at most this probability. review: a file of decisions that win.
    """

    enabled: bool = True
    model: str | None = None
    near: Annotated[float, Field(gt=0, le=1)] = 0.95
    hash_bits: Annotated[int, Field(ge=0, le=64)] = 6
    outlier_fmr: Rate = 0.001
    move_fpir: Rate = 0.01
    review: Path | None = None


class Split(Section):
    """Who is held out: a share of the people by digest, or everybody of `trusted`, an aligned set known to be right."""

    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.15
    salt: str = ""
    trusted: Path | None = None


class Bootstrap(Section):
    """Rounds of the bootstrap over people."""

    rounds: Annotated[int, Field(ge=20, le=10_000)] = 200


class Export(Section):
    """Terms of the weights, and whether each crop is served with its mirror image added."""

    licence: str = "unknown"
    commercial_use: bool = False
    licence_note: str = ""
    mirror: bool = False


class Gate(Section):
    """What a candidate must show on the held-out people.

    against: a model's name, `champion`, or `none`. margin: most that the TAR at `fmr` may be lower, accuracy_margin:
    the same for the 10-fold accuracy; the lower 95 % bounds of the differences must lie within. A group with fewer than
    `min_people` people is told, and not judged. serves_fmr: the rate that servers decide at where nobody states one;
    they refuse a model that is not calibrated down to it.
    """

    against: str = "champion"
    fmr: Rate = 1e-3
    serves_fmr: Rate = 1e-3
    margin: Share = 0.01
    accuracy_margin: Share = 0.01
    min_people: Count = 50
    min_genuine_pairs: Count = 100
    rounds: Annotated[int, Field(ge=100, le=100_000)] = 1000


class RetrainConfig(Section):
    """One job. `name` is the name of the bundle; `train` is a configuration of a run without name and data."""

    name: ModelId
    job: Path
    registry: Path = Path("data/models")
    data: Path
    align: Align = Align()
    clean: Clean = Clean()
    split: Split = Split()
    train: dict[str, Any]
    calibrate: Bootstrap = Bootstrap()
    evaluate: Bootstrap = Bootstrap()
    export: Export = Export()
    gate: Gate = Gate()
    promote: bool = True
    shadow: Path | None = None
    threads: Count | None = None

    @model_validator(mode="after")
    def _can_be_trained(self) -> "RetrainConfig":
        """Said now, and not after an hour of alignment."""
        taken = {"name", "data"} & set(self.train)
        if taken:
            raise ValueError(f"train: {sorted(taken)[0]} is set by the job")
        try:
            self.training(Path("train"), Path("held_out"))
        except ConfigError as error:
            raise ValueError(error.message) from error
        return self

    @property
    def licence(self) -> Licence:
        """The terms of the weights."""
        given = self.export
        return Licence(spdx=given.licence, commercial_use=given.commercial_use, note=given.licence_note)

    def training(self, train: Path, held_out: Path) -> TrainConfig:
        """The trainer's configuration on these sets.

        The held-out people are looked at once, at the end: a checkpoint chosen by them would flatter the candidate. The
        model's name is left out, so that another name does not train it again.
        """
        data = {"train": str(train), "validation": str(held_out), "min_images": self.train.get("min_images", 1)}
        rest = {key: value for key, value in self.train.items() if key != "min_images"}
        return parse_config({**rest, "name": "retrain", "data": data, "validate_every": 10**9}, "train")


def read_retrain(path: Path, overrides: tuple[str, ...] = ()) -> RetrainConfig:
    """A job's file, with single values replaced by `section.key=value`. Paths are taken from where the command runs.

    Raises:
        ConfigError: not readable, not YAML, an unknown key, a wrong value.
    """
    raw = read_mapping(path, overrides)
    try:
        return RetrainConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error
