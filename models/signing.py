"""Ed25519 signatures of bundles (RFC 8032): who made a model, and that nothing of it was changed since.

<root>/signing.pem   the registry's own key, made at first use, readable by its owner only
<root>/trust.json    {"require_signatures": false, "keys": ["base64 of a public key", ...]}

A signature covers the manifest to the byte, which names the digest of the model, and the card.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import InvalidBundleError

SIGNATURE = "signature.json"
MAX_SIGNATURE_BYTES = 16 * 1024
_DOMAIN = b"facesphere bundle 1\n"


class Signature(BaseModel):
    """One statement of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_key: str
    signature: str


class Signatures(BaseModel):
    """signature.json. There are two while a manifest is replaced: whichever is on the disk is vouched for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    signatures: tuple[Signature, ...]


class Trust(BaseModel):
    """trust.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    require_signatures: bool = False
    keys: tuple[str, ...] = ()


class Signer:
    """The key of a registry, made where there is none. Call under the registry's lock.

    Raises:
        InvalidBundleError: the key cannot be read or written, or is no Ed25519 key.
    """

    def __init__(self, root: Path) -> None:
        path = root / "signing.pem"
        try:
            if not path.exists():
                _create(root, path)
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise InvalidBundleError(f"cannot use the signing key {path}: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidBundleError(f"{path} is not an Ed25519 key")
        self._key = key
        self.public_key = _text(key.public_key())

    def sign(self, manifest: bytes, card: bytes | None) -> Signature:
        """A statement on a manifest and the card beside it."""
        return Signature(public_key=self.public_key, signature=_base64(self._key.sign(_message(manifest, card))))


def read_trust(root: Path) -> Trust:
    """Which keys a registry trusts; none and nothing required where nobody has said.

    Raises:
        InvalidBundleError: trust.json is damaged.
    """
    path = root / "trust.json"
    try:
        return Trust.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Trust()
    except (OSError, ValidationError) as error:
        raise InvalidBundleError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def check(name: str, manifest: bytes, card: bytes | None, signed: bytes | None, trust: Trust) -> None:
    """Let a bundle pass whose signature holds, or that bears none; where they are required, only those of trusted keys.

    Where they are not, a stranger's signature says no more than none, which anybody could leave of it.

    Args:
        name: of the bundle, for messages.
        manifest, card: the files to the byte.
        signed: signature.json, None where there is none.
        trust: of the registry.

    Raises:
        InvalidBundleError: the signature is damaged or of another content, or there is none of a trusted key where
            there must be.
    """
    if signed is None:
        if trust.require_signatures:
            raise InvalidBundleError(f"model {name} is not signed, and this registry requires signatures")
        return
    valid = [each for each in parse(name, signed).signatures if _holds(each, manifest, card)]
    if not valid:
        raise InvalidBundleError(f"model {name} was changed after it was signed: its signature does not hold")
    if trust.require_signatures and not any(each.public_key in trust.keys for each in valid):
        raise InvalidBundleError(f"model {name} is signed by the key {valid[0].public_key}, which is not trusted here")


def parse(name: str, signed: bytes) -> Signatures:
    """signature.json.

    Raises:
        InvalidBundleError: it is damaged.
    """
    try:
        return Signatures.model_validate_json(signed)
    except ValidationError as error:
        raise InvalidBundleError(f"the signature of model {name} is damaged") from error


def dump(*signatures: Signature) -> str:
    """signature.json as it is stored."""
    return Signatures(signatures=signatures).model_dump_json(indent=2) + "\n"


def _holds(statement: Signature, manifest: bytes, card: bytes | None) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(statement.public_key, validate=True))
        key.verify(base64.b64decode(statement.signature, validate=True), _message(manifest, card))
    except (InvalidSignature, ValueError):
        return False
    return True


def _message(manifest: bytes, card: bytes | None) -> bytes:
    digests = [hashlib.sha256(part).hexdigest() if part is not None else "-" for part in (manifest, card)]
    return _DOMAIN + "\n".join(digests).encode()


def _create(root: Path, path: Path) -> None:
    """Trust comes first: a key that was made and is not trusted would lock its own registry."""
    key = Ed25519PrivateKey.generate()
    trust = read_trust(root)
    write_trust(root, trust.model_copy(update={"keys": (*trust.keys, _text(key.public_key()))}))
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_trust(root: Path, trust: Trust) -> None:
    """Replace trust.json in one step."""
    path = root / "trust.json"
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(trust.model_dump(mode="json"), file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _text(key: Any) -> str:
    return _base64(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
