"""A user's own ONNX embedder to a bundle in the registry."""

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models import onnx_graph, zoo
from models.bundle import InputSpec, Licence, Manifest, Precision, Provenance, first_problem, seal
from models.errors import InvalidBundleError, SourceError
from models.registry import Registry
from models.runtime import Session, SessionOptions, check_embedder
from service.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an ONNX file does not say about itself. `mean` and `std` are in the order in which channels are fed.

    `sha256` is what the file must have, in hexadecimal; a file from elsewhere is not taken without it.
    """

    model_id: str | None
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    template: str
    licence: str
    sha256: str | None = None


def import_onnx(registry: Registry, source: str, options: ImportOptions) -> Manifest:
    """Fetch, rewrite to a plain graph, run once, and store.

    Raises:
        FaceError: the source, the graph or an option is wrong; nothing is stored.
    """
    spec = _input_spec(options)
    original = _fetch(source, options.sha256)
    model = onnx_graph.plain(original)
    manifest = _manifest(source, original, model, options, spec, _run_once(model, spec.width, spec.height))
    registry.add(model, manifest)
    return manifest


def in_precision(registry: Registry, model_id: str, precision: Precision) -> Manifest:
    """Add the same network to be computed in another precision.

    Its vectors are not quite the same, so it is another contract: people who are enrolled under one are never compared
    under the other. The calibration is taken along: cosines move by thousandths, less than its own uncertainty.

    Raises:
        ModelNotFoundError: no such model.
        InvalidRequestError: it has that precision, or is no embedder.
    """
    bundle = registry.resolve_any(model_id)
    manifest = bundle.manifest
    if manifest.kind != "embedder" or manifest.precision == precision:
        raise InvalidRequestError(f"{model_id}: {manifest.kind} of {manifest.precision} already, or no embedder")
    short = {"float32": "fp32", "bfloat16": "bf16"}[precision]
    changed = manifest.model_copy(update={"id": f"{model_id[: 63 - len(short)]}-{short}", "precision": precision})
    registry.add(bundle.model_path.read_bytes(), seal(changed), bundle.card())
    return seal(changed)


def _fetch(source: str, expected: str | None) -> bytes:
    if expected is None and source.startswith(("https://", "pypi:")):
        raise InvalidRequestError(f"{source} is not on this machine: say with --sha256 which file it must be")
    if expected is not None and not re.fullmatch("[0-9a-fA-F]{64}", expected):
        raise InvalidRequestError(f"--sha256 takes 64 hexadecimal digits, got {expected!r}")
    data = zoo.fetch(source)
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected.lower():
        raise SourceError(f"{source} has the SHA-256 {digest}, expected {expected.lower()}")
    return data


def _input_spec(options: ImportOptions) -> InputSpec:
    width, height = options.input_size
    try:
        return InputSpec.model_validate(
            {
                "width": width,
                "height": height,
                "channels": options.channels,
                "mean": options.mean,
                "std": options.std,
            }
        )
    except ValidationError as error:
        raise InvalidBundleError(first_problem(error)) from error


def _run_once(model: bytes, width: int, height: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return check_embedder(Session(path, SessionOptions("cpu")), width, height, None)


def _manifest(
    source: str, original: bytes, model: bytes, options: ImportOptions, spec: InputSpec, dimension: int
) -> Manifest:
    try:
        manifest = Manifest(
            id=options.model_id or _name(source),
            kind="embedder",
            model_sha256=hashlib.sha256(model).hexdigest(),
            input=spec,
            template=options.template,
            dimension=dimension,
            licence=Licence(spdx=options.licence, commercial_use=False, note="as stated when it was added"),
            provenance=Provenance(
                origin="added by the operator",
                source=Path(source).name,
                source_sha256=hashlib.sha256(original).hexdigest(),
                transform="plain graph" if model != original else "",
            ),
        )
    except ValidationError as error:
        raise InvalidBundleError(first_problem(error)) from error
    return seal(manifest)


def _name(source: str) -> str:
    stem = source.rpartition("/")[2].removesuffix(".onnx").lower()
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:64]
