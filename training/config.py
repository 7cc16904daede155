"""A training run as a YAML file: every key is known, every value is checked, and nothing is read from anywhere else."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.bundle import first_problem
from models.errors import FaceError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class ConfigError(FaceError):
    """The configuration is not one that can be trained."""

    code = "invalid_request"


class Section(BaseModel):
    """Keys of a configuration file: an unknown one is an error, and no word is taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_words_for_numbers(cls, values: Any) -> Any:
        """`steps: yes` is no number, though Python would count it as 1."""
        if isinstance(values, dict):
            for name, value in values.items():
                field = cls.model_fields.get(str(name))
                if isinstance(value, bool) and field is not None and field.annotation is not bool:
                    raise ValueError(f"{name} must not be {str(value).lower()}")
        return values


class Data(Section):
    """Aligned sets (`facesphere-train align`), or a folder of MNIST's IDX files.

    `held_out` is the share of people kept aside for validation, chosen by a digest of their names, so that the same
    people are unseen on every machine; `validation` is another set instead. People with fewer than `min_images` are
    left out of training.
    """

    train: Path
    validation: Path | None = None
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    salt: str = ""
    min_images: Count = 1


class Input(Section):
    """What the network is fed: (pixel - mean) / std, in this size and channel order."""

    height: Annotated[int, Field(ge=8, le=1024)] = 112
    width: Annotated[int, Field(ge=8, le=1024)] = 112
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    mean: float = 127.5
    std: Positive = 128.0


class Named(Section):
    """Something by name, with its own parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class Center(Section):
    """Center loss beside the main one."""

    weight: NotNegative = 0.003
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5


class Distil(Section):
    """A teacher's embeddings as targets.

    cosine: weight of 1 - cos(student, teacher); relation: weight of the squared difference of the two networks'
    similarity matrices of a batch (relational distillation: Park et al., CVPR 2019); margin_weight: of the main loss
    beside them. With views = 0 the teacher sees the clean photo and its mirror image, averaged, while the student sees
    an augmented one; with views = V it sees V augmented views of each photo, and the student just those.
    """

    bundle: Path
    cosine: NotNegative = 1.0
    relation: NotNegative = 0.0
    margin_weight: NotNegative = 1.0
    views: Annotated[int, Field(ge=0, le=1000)] = 0


class Thin(Section):
    """Begin as a thinner copy of the teacher: channels chosen and weights refitted layer by layer."""

    photos: Count = 300
    head_photos: Count = 3000
    ridge: Positive = 0.3


class Start(Section):
    """Weights to begin with: a bundle of the same network, or, with `thin`, of a wider one."""

    bundle: Path
    thin: Thin | None = None


class Augment(Section):
    """Probabilities and strengths of the augmentations; all zero is none.

    rotate in degrees and scale in log units are standard deviations, shift is one in shares of the width.
    """

    flip: Share = 0.5
    rotate: NotNegative = 0.0
    scale: NotNegative = 0.0
    shift: NotNegative = 0.0
    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    colour: NotNegative = 0.0
    gray: Share = 0.0
    blur: Share = 0.0
    jpeg: Share = 0.0
    low_resolution: Share = 0.0
    occlude: Share = 0.0


class Sampler(Section):
    """shuffle: every photo once an epoch. people: batches of `people` x `images` each, as triplets need.

    With `cap`, shuffle takes at most that many photos of a person an epoch, others each time.
    """

    kind: Literal["shuffle", "people"] = "shuffle"
    people: Annotated[int, Field(ge=2)] = 16
    images: Annotated[int, Field(ge=2)] = 4
    cap: Count | None = None


class Optimiser(Section):
    """SGD with momentum, or AdamW; vectors (biases, norms, slopes) are not decayed unless `decay_all`."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=1e30)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    decay_all: bool = False
    clip: Positive | None = None
    head_lr: Positive = 1.0


class Schedule(Section):
    """The learning rate over the run: steps of warm-up, then cosine to zero, steps down, a power, or constant."""

    name: Literal["cosine", "step", "poly", "constant"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = 0
    milestones: tuple[Count, ...] = ()
    factor: Annotated[float, Field(gt=0, le=1e30)] = 0.1
    power: Positive = 2.0
    final: Share = 0.0


class Guard(Section):
    """Signs of failure, looked for over `patience` steps; each rolls back, and raises lambda's minimum or halves lr."""

    enabled: bool = True
    patience: Count = 200
    rollbacks: Annotated[int, Field(ge=0)] = 3
    raise_to: Positive = 5.0


class TrainConfig(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    input: Input = Input()
    dimension: Annotated[int, Field(ge=2, le=8192)] = 512
    backbone: Named
    loss: Named | None = None
    center: Center | None = None
    distil: Distil | None = None
    start: Start | None = None
    augment: Augment = Augment()
    sampler: Sampler = Sampler()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    batch: Annotated[int, Field(ge=2, le=2**20)] = 128
    accumulate: Count = 1
    steps: Count | None = None
    epochs: Positive | None = None
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    channels_last: bool = True
    compile: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    sharded: bool = False
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    guard: Guard = Guard()
    validate_every: Count = 500
    checkpoint_every: Count = 500
    keep: Count = 2
    log_every: Count = 50
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    mlflow: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _words_that_yaml_takes_for_truths(cls, values: Any) -> Any:
        """`compile: off` reads as false in YAML 1.1."""
        if isinstance(values, dict) and isinstance(values.get("compile"), bool):
            return {**values, "compile": "on" if values["compile"] else "off"}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        problem = _contradiction(self)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def per_step(self) -> int:
        """Photos of one optimiser step on one rank."""
        return self.batch * self.accumulate


def _contradiction(config: TrainConfig) -> str | None:
    if (config.steps is None) == (config.epochs is None):
        return "state either steps or epochs"
    if config.loss is None and config.distil is None:
        return "nothing to learn from: state loss, distil, or both"
    if config.distil is not None and not _weighted(config.distil, config.loss is not None):
        return "nothing to learn from: all weights of distil are 0"
    if config.sharded and config.loss is None:
        return "sharded: true needs a loss with a classifier to shard"
    triplet = config.loss is not None and config.loss.name == "triplet"
    if triplet and config.sampler.kind != "people":
        return "triplet loss needs sampler.kind: people, which puts several photos of a person into a batch"
    if triplet and config.accumulate > 1:
        return "triplet loss mines a batch as a whole: accumulate must be 1"
    if triplet and config.sharded:
        return "triplet loss has no classifier to shard"
    if config.sampler.kind == "people" and config.sampler.people * config.sampler.images != config.batch:
        return f"batch must be sampler.people x sampler.images = {config.sampler.people * config.sampler.images}"
    if config.sampler.kind == "people" and config.sampler.cap is not None:
        return "sampler.cap is for sampler.kind: shuffle; batches of people take sampler.images of each"
    if config.schedule.name == "step" and not config.schedule.milestones:
        return "schedule step needs milestones"
    if config.schedule.milestones and config.schedule.name != "step":
        return f"schedule {config.schedule.name} has no milestones; schedule step has"
    if config.optimiser.nesterov and config.optimiser.name != "sgd":
        return "optimiser.nesterov is of sgd; adamw has no such momentum"
    if config.sample_rate < 1 and not config.sharded:
        return "sample_rate needs sharded: true"
    if config.device.startswith("cpu") and config.precision == "fp16":
        return "fp16 needs a GPU; use bf16 on a CPU"
    return None


def _weighted(distil: Distil, has_loss: bool) -> bool:
    return bool(distil.cosine or distil.relation or (has_loss and distil.margin_weight))


def read_config(path: Path, overrides: tuple[str, ...] = ()) -> TrainConfig:
    """A configuration file, with single values replaced by `section.key=value`.

    Raises:
        ConfigError: not readable, not YAML, an unknown key, a wrong value or a contradiction.
    """
    return parse_config(read_mapping(path, overrides), str(path))


def read_mapping(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Keys and values of a YAML file, with single values replaced by `section.key=value`.

    Raises:
        ConfigError: not readable, not YAML, or no mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values")
    for override in overrides:
        _override(raw, override)
    return raw


def parse_config(raw: dict[str, Any], where: str = "configuration") -> TrainConfig:
    """A configuration out of a mapping.

    Raises:
        ConfigError: an unknown key, a wrong value or a contradiction.
    """
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from error


def _override(raw: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key:
        raise ConfigError(f"an override reads section.key=value, got {override!r}")
    *sections, last = key.split(".")
    place: Any = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{override!r}: {section} is a value, not a section")
    try:
        place[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{override!r}: the value is not YAML") from error


def config_yaml(config: TrainConfig) -> str:
    """The resolved configuration, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
