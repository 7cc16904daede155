"""A bundle: model.onnx and manifest.json, all that is needed to use a model, in one folder; card.md is for its readers.

The manifest carries what usually gets lost between a trainer and a server: channel order, scaling, alignment template,
dimension, licence, where the file came from, and the calibration that turns a cosine into a decision.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.alignment import TEMPLATE_NAMES, Template
from models.calibration import Calibration
from models.errors import InvalidBundleError

MANIFEST = "manifest.json"
MODEL = "model.onnx"
CARD = "card.md"
MAX_CARD_BYTES = 64 * 1024  # a page or ten; what is longer belongs beside the model and not into every copy of it

Triple = tuple[float, float, float]
Precision = Literal["float32", "bfloat16"]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class InputSpec(_Frozen):
    """What the network is fed: float32 (N, 3, height, width) = (channel - mean) / std.

    A detector takes any size that is a multiple of `width` and `height`; an embedder takes exactly that size.
    """

    width: int = Field(ge=16, le=1024)
    height: int = Field(ge=16, le=1024)
    channels: Literal["rgb", "bgr"]
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _std_divides(self) -> "InputSpec":
        if not all(value > 0 for value in self.std):
            raise ValueError("std must be positive")
        return self


class Licence(_Frozen):
    """Under which terms the weights may be used, and who says so."""

    spdx: str
    commercial_use: bool
    note: str = ""


class Provenance(_Frozen):
    """Where the file came from: the first publisher, the place it was fetched from, what was done to it."""

    origin: str
    source: str = ""
    source_sha256: Sha256 | None = None
    transform: str = ""


class Lineage(_Frozen):
    """What a retrain job made a model of: the model it was compared with, and digests of data and configuration."""

    parent: str = ""
    parent_contract: str = ""
    data_digest: Sha256
    config_digest: Sha256
    code_commit: str = ""


class Manifest(_Frozen):
    """manifest.json, checked field by field; an unknown key is an error.

    With `mirror` a crop's vector is that of its mirror image added to its own, before both are scaled to unit length.
    `precision` is what the network computes in, whatever the processor would choose by itself.
    """

    format: Literal[1] = 1
    id: ModelId
    kind: Literal["detector", "embedder"]
    architecture: str = ""
    model_sha256: Sha256
    input: InputSpec
    template: str | None = None
    dimension: int | None = Field(default=None, ge=2, le=8192)
    mirror: bool = False
    precision: Precision = "float32"
    contract_id: str = ""
    licence: Licence
    provenance: Provenance
    lineage: Lineage | None = None
    metrics: Mapping[str, float] = Field(default_factory=dict)
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _embedder_is_whole(self) -> "Manifest":
        if self.kind == "detector":
            if self.mirror:
                raise ValueError("mirror is for embedders: a detector has no vectors to add")
            return self
        if self.template not in TEMPLATE_NAMES or self.dimension is None:
            raise ValueError(f"an embedder needs a dimension and a template out of {', '.join(TEMPLATE_NAMES)}")
        Template(self.template, self.input.width, self.input.height)
        return self

    @property
    def alignment(self) -> Template:
        """The template of the crops this embedder was trained on.

        Raises:
            InvalidBundleError: a detector has none.
        """
        if self.template is None:
            raise InvalidBundleError(f"model {self.id} is a {self.kind} and has no alignment template")
        return Template(self.template, self.input.width, self.input.height)


def contract_id(manifest: Manifest) -> str:
    """Hash of what changes a vector: weights, input, alignment, dimension, mirror, precision. 16 hexadecimal digits.

    Name, licence, metrics and calibration are left out: changing them leaves old vectors comparable with new ones.
    """
    meaning: dict[str, Any] = {
        "kind": manifest.kind,
        "model_sha256": manifest.model_sha256,
        "input": manifest.input.model_dump(mode="json"),
        "template": manifest.template,
        "dimension": manifest.dimension,
    }
    if manifest.mirror:  # only then: contracts from before there was a choice keep their name
        meaning["mirror"] = True
    if manifest.precision != "float32":
        meaning["precision"] = manifest.precision
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def seal(manifest: Manifest) -> Manifest:
    """The same manifest with its contract_id filled in."""
    return manifest.model_copy(update={"contract_id": contract_id(manifest)})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A validated bundle on disk."""

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.folder / MODEL

    def card(self) -> str | None:
        """The model card, Markdown, or None where there is none.

        Raises:
            InvalidBundleError: it cannot be read, is too long, or is not UTF-8.
        """
        path = self.folder / CARD
        if not path.exists():
            return None
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CARD_BYTES + 1)
            return _checked_card(data).decode()
        except OSError as error:
            raise InvalidBundleError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidBundleError(f"{path} is not UTF-8") from error


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest file.

    Raises:
        InvalidBundleError: missing, not JSON, an unknown or wrong field, or a contract_id that is not the hash
            of its own fields.
    """
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except OSError as error:
        raise InvalidBundleError(f"cannot read {path}: {error.strerror}") from error


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The bytes of a manifest; `where` is what a message calls them.

    Raises:
        InvalidBundleError: not JSON, an unknown or wrong field, or a contract_id that is not the hash of its fields.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidBundleError(f"{where}: {first_problem(error)}") from error
    if manifest.contract_id != contract_id(manifest):
        raise InvalidBundleError(f"{where}: contract_id does not belong to this manifest")
    return manifest


def check_model(model: bytes, manifest: Manifest, where: str) -> None:
    """The model is the one that a manifest names.

    Raises:
        InvalidBundleError: it has another digest.
    """
    digest = hashlib.sha256(model).hexdigest()
    if digest != manifest.model_sha256:
        raise InvalidBundleError(f"{where} has the digest {digest}, its manifest says {manifest.model_sha256}")


def load(folder: Path) -> Bundle:
    """Read and verify a bundle: the manifest's form, and that the model file is the one it names.

    Raises:
        InvalidBundleError: anything missing, damaged or not matching its digest.
    """
    manifest = read_manifest(folder / MANIFEST)
    digest = sha256_file(folder / MODEL)
    if digest != manifest.model_sha256:
        raise InvalidBundleError(f"{folder / MODEL} has the digest {digest}, its manifest says {manifest.model_sha256}")
    return Bundle(folder, manifest)


def write(folder: Path, model: bytes, manifest: Manifest, card: str | None = None) -> Bundle:
    """Write a bundle into a folder that exists. Making the write atomic is the registry's part.

    Raises:
        InvalidBundleError: the model is not the manifest's, or the card is too long.
    """
    if card is not None:
        (folder / CARD).write_bytes(_checked_card(card.encode()))
    (folder / MODEL).write_bytes(model)
    (folder / MANIFEST).write_text(manifest_json(manifest), encoding="utf-8")
    return load(folder)


def manifest_json(manifest: Manifest) -> str:
    """The manifest as it is stored; without `mirror` and `precision` where they are as ever: older servers read it."""
    usual = {name for name, value in (("mirror", False), ("precision", "float32")) if getattr(manifest, name) == value}
    return manifest.model_dump_json(indent=2, exclude_none=True, exclude=usual) + "\n"


def _checked_card(data: bytes) -> bytes:
    if len(data) > MAX_CARD_BYTES:
        raise InvalidBundleError(f"{CARD} is longer than {MAX_CARD_BYTES // 1024} KiB")
    return data


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        InvalidBundleError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidBundleError(f"cannot read {path}: {error.strerror}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation, in one line."""
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
