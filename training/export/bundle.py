"""An exported file to a bundle with its model card, written as a whole or not at all."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models import bundle as bundles
from models.bundle import Bundle, Manifest, first_problem, seal
from training.export.errors import ExportError

# What the numbers of a manifest are called on its card.
_MEANING = {
    "accuracy": "10-fold verification accuracy",
    "accuracy_float": "the same of the float32 file",
    "tar_at_fmr_1e-2": "true-accept rate at a false-match rate of 1 %",
    "tar_at_fmr_1e-2_float": "the same of the float32 file",
    "tar_at_fmr_1e-3": "true-accept rate at a false-match rate of 0.1 %",
    "tar_at_fmr_1e-3_float": "the same of the float32 file",
    "mean_cosine": "mean cosine to the vectors of the float32 file",
    "parity_cosine": "lowest cosine to the vectors of torch",
    "bytes": "size of the file",
    "bytes_float": "size of the float32 file",
}


def make_manifest(model: bytes, **fields: Any) -> Manifest:
    """The sealed manifest of an embedder.

    Args:
        model: the ONNX file.
        fields: of `models.bundle.Manifest`: id, input, template, dimension, licence, provenance, and more if known.

    Raises:
        ExportError: a field is missing, unknown or wrong.
    """
    digest = hashlib.sha256(model).hexdigest()
    try:
        return seal(Manifest.model_validate({"kind": "embedder", "model_sha256": digest, **fields}))
    except ValidationError as error:
        raise ExportError(f"this makes no bundle: {first_problem(error)}") from error


def write_bundle(folder: Path, model: bytes, manifest: Manifest, facts: Mapping[str, str] | None = None) -> Bundle:
    """Write model.onnx, manifest.json and card.md.

    Args:
        folder: must not exist yet; its parents are made.
        model: the ONNX file.
        manifest: sealed.
        facts: more lines for the card, such as what was trained on.

    Raises:
        ExportError: the folder is there already or cannot be written.
        InvalidBundleError: the model is not the manifest's.
    """
    if folder.exists():
        raise ExportError(f"{folder} is there already; a bundle is never changed, choose another name")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            staged.chmod(0o755)  # mkdtemp makes a folder for its owner alone, and a server is often somebody else
            bundles.write(staged, model, manifest, card_text(manifest, facts or {}))
            staged.rename(folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {error.strerror}") from error
    return Bundle(folder, manifest)


def card_text(manifest: Manifest, facts: Mapping[str, str]) -> str:
    """The model card, Markdown: what the manifest says, in words (after Mitchell et al., FAT* 2019)."""
    return "\n".join(
        (
            f"# {manifest.id}",
            "",
            f"A face embedding network: one aligned crop in, {manifest.dimension} values out. The larger the cosine of",
            "two of them, the likelier both faces are one person.",
            "",
            *_table("", _identity(manifest)),
            *_table("Input", _input(manifest)),
            *_table("Measured", _measured(manifest)),
            *_table("Training", facts),
            *_licence(manifest),
            *_limits(manifest),
        )
    )


def _identity(manifest: Manifest) -> dict[str, str]:
    return {
        "architecture": manifest.architecture or "not stated",
        "contract": manifest.contract_id,
        "SHA-256 of model.onnx": manifest.model_sha256,
        "origin": manifest.provenance.origin,
        "made from": manifest.provenance.source,
        "by": manifest.provenance.transform,
    }


def _input(manifest: Manifest) -> dict[str, str]:
    spec = manifest.input
    return {
        "crop": f"{spec.width} x {spec.height} pixels, landmarks on the template {manifest.template}",
        "channels": f"{spec.channels.upper()}, float32, (x - mean) / std",
        "mean": ", ".join(f"{value:g}" for value in spec.mean),
        "std": ", ".join(f"{value:g}" for value in spec.std),
        "mirror image": "added to the crop's own vector" if manifest.mirror else "not used",
    }


def _measured(manifest: Manifest) -> dict[str, str]:
    return {_MEANING.get(name, name): _number(value) for name, value in manifest.metrics.items()}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.6g}"


def _licence(manifest: Manifest) -> tuple[str, ...]:
    licence = manifest.licence
    use = "is allowed" if licence.commercial_use else "is not known to be allowed"
    note = f" {licence.note}" if licence.note else ""
    return ("## Licence", "", f"{licence.spdx}; commercial use {use}.{note}", "")


def _limits(manifest: Manifest) -> tuple[str, ...]:
    begins = "Its calibration holds" if manifest.calibration else "It has no calibration yet; one holds"
    return (
        "## Limits",
        "",
        f"{begins} for photos like those it was measured on. Error rates differ between groups of people and",
        "between kinds of photos: measure them on your own before a decision about somebody depends on them. Vectors",
        "of another contract must not be compared with those of this one.",
        "",
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(title: str, rows: Mapping[str, str]) -> tuple[str, ...]:
    there = {name: value for name, value in rows.items() if value}
    if not there:
        return ()
    heading = (f"## {title}", "") if title else ()
    lines = (f"| {_cell(name)} | {_cell(value)} |" for name, value in there.items())
    return (*heading, "| | |", "|---|---|", *lines, "")
