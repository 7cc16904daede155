"""A user's own ONNX embedder to a bundle in the registry."""

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models import onnx_graph, zoo
from models.bundle import InputSpec, Licence, Manifest, Provenance, first_problem, seal
from models.errors import InvalidBundleError
from models.registry import Registry
from models.runtime import Session, SessionOptions, check_embedder


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What an ONNX file does not say about itself. `mean` and `std` are in the order in which channels are fed."""

    model_id: str | None
    input_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    template: str
    licence: str


def import_onnx(registry: Registry, source: str, options: ImportOptions) -> Manifest:
    """Fetch, rewrite to a plain graph, run once, and store.

    Raises:
        FaceError: the source, the graph or an option is wrong; nothing is stored.
    """
    spec = _input_spec(options)
    original = zoo.fetch(source)
    model = onnx_graph.plain(original)
    manifest = _manifest(source, original, model, options, spec, _run_once(model, spec.width, spec.height))
    registry.add(model, manifest)
    return manifest


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
