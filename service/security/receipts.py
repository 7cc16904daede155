"""Signed statements that faces were erased (Ed25519, RFC 8032)."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
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

from service.domain import Receipt
from service.errors import StorageError
from service.security.master import write_once


class ReceiptSigner:
    """Signs with a key that is made at first use and kept in `path`, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._key = _load_or_create(path)
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public_key = base64.b64encode(raw).decode()

    def sign(self, collection: str, subject: str | None, face_ids: Sequence[str]) -> Receipt:
        """A receipt for what was erased just now."""
        erased_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        unsigned = Receipt(collection, subject, tuple(face_ids), erased_at, self.public_key, signature="")
        signature = self._key.sign(signed_bytes(unsigned))
        return Receipt(collection, subject, tuple(face_ids), erased_at, self.public_key, _base64(signature))


def verify(receipt: Receipt) -> bool:
    """Whether the signature belongs to the receipt and the public key in it. Compare that key with the server's."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(receipt.public_key, validate=True))
        key.verify(base64.b64decode(receipt.signature, validate=True), signed_bytes(receipt))
    except (InvalidSignature, ValueError):
        return False
    return True


def signed_bytes(receipt: Receipt) -> bytes:
    """What is signed: JSON of all fields but the signature, keys sorted, no spaces, UTF-8."""
    fields: dict[str, Any] = {
        "collection": receipt.collection,
        "subject": receipt.subject,
        "face_ids": list(receipt.face_ids),
        "erased_at": receipt.erased_at,
        "public_key": receipt.public_key,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _load_or_create(path: Path) -> Ed25519PrivateKey:
    try:
        if not path.exists():
            _create(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise StorageError(f"cannot use the signing key {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"{path} is not an Ed25519 key")
    return key


def _create(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_once(path, pem)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
