"""A bundle as one file, to be carried to another registry: checked before anything in it is parsed.

A tar archive of manifest.json, signature.json, card.md where there is one, and model.onnx, in this order and nothing
else. Nothing of it is unpacked to disk before it was checked.
"""

import contextlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from models import bundle as bundles
from models import onnx_graph, signing
from models.bundle import Bundle, Manifest
from models.errors import FaceError, SourceError
from models.registry import Registry

_LIMITS = {
    bundles.MANIFEST: 2**20,
    signing.SIGNATURE: signing.MAX_SIGNATURE_BYTES,
    bundles.CARD: bundles.MAX_CARD_BYTES,
    bundles.MODEL: 2**31,
}
_NEEDED = (bundles.MANIFEST, signing.SIGNATURE, bundles.MODEL)


class ArchiveError(FaceError):
    """The file is no bundle that may be taken in."""

    code = "invalid_bundle"


@dataclass(frozen=True, slots=True)
class _Content:
    manifest: bytes
    signature: bytes
    model: bytes
    card: bytes | None


def export_bundle(registry: Registry, model_id: str, out: Path) -> Manifest:
    """Write a bundle of the registry into one file.

    Raises:
        ModelNotFoundError: no such model.
        InvalidBundleError: it is damaged, or its signature is not one to trust.
        SourceError: the file is there already or cannot be written.
    """
    bundle = registry.resolve_any(model_id)
    registry.sign(model_id)
    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.exists():
            raise SourceError(f"{out} is there already")
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in _LIMITS:
                if (bundle.folder / name).exists():
                    _add(archive, name, (bundle.folder / name).read_bytes())
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(out)
    except OSError as error:
        raise SourceError(f"cannot write {out}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it is told above what is wrong with the place
            partial.unlink(missing_ok=True)
    return bundle.manifest


def import_bundle(registry: Registry, path: Path, trust: str | None = None) -> Bundle:
    """Take a file of `export_bundle` into the registry, as a candidate.

    Args:
        registry: where it goes.
        path: the file.
        trust: a public key to trust from now on, as its owner told you.

    Raises:
        SourceError: it cannot be read.
        ArchiveError: another content than a bundle has, or one that is too large.
        InvalidBundleError: the signature does not hold or is of nobody who is trusted, the model is not the manifest's,
            or keeps weights outside of itself.
        ModelExistsError: another model has that name.
    """
    content = _read(path)
    signed = (path.name, content.manifest, content.card, content.signature)
    if trust is not None:  # by this very key: any other text would be kept as a key for ever
        signing.check(*signed, signing.Trust(require_signatures=True, keys=(trust,)))
    signing.check(*signed, registry.trusted(trust))
    manifest = bundles.parse_manifest(content.manifest, path.name)
    bundles.check_model(content.model, manifest, path.name)
    onnx_graph.check_whole(content.model)
    try:
        card = None if content.card is None else content.card.decode()
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path}: the card is not UTF-8") from error
    if bundles.manifest_json(manifest).encode() != content.manifest:
        raise ArchiveError(f"{path}: the manifest is not written as this version writes it")
    bundle = registry.add(content.model, manifest, card, content.signature.decode())
    if trust is not None:
        registry.trust(trust)
    return bundle


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))


def _read(path: Path) -> _Content:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = _checked(path, member, found)  # before a byte of it is read
                found[name] = _data(archive, member)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
    ) as error:  # ValueError: of a sparse file's header
        raise ArchiveError(f"{path} is damaged or no file of a model: {str(error).partition(chr(10))[0]}") from error
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise ArchiveError(f"{path} holds no {missing[0]}")
    return _Content(found[bundles.MANIFEST], found[signing.SIGNATURE], found[bundles.MODEL], found.get(bundles.CARD))


def _checked(path: Path, member: tarfile.TarInfo, found: dict[str, bytes]) -> str:
    if member.name not in _LIMITS or not member.isreg() or member.issparse() or member.name in found:
        raise ArchiveError(f"{path} holds {json.dumps(member.name)[:100]}, which no model has")
    if member.size > _LIMITS[member.name]:
        raise ArchiveError(f"{path}: {member.name} is longer than {_LIMITS[member.name]} bytes")
    return member.name


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # of a regular file there is one
    data = file.read()
    if len(data) != member.size:
        raise tarfile.ReadError("it is cut off")
    return data
