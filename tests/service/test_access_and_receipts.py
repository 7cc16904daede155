"""Who may call, and signed statements that somebody was erased."""

import base64
import dataclasses
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from service.domain import Receipt
from service.errors import StorageError, UnauthenticatedError
from service.security.access import Access, is_loopback
from service.security.receipts import ReceiptSigner, signed_bytes, verify

KEY = "correct-horse-battery"


# --- access


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY} "])
def test_the_right_key_is_let_in(value: str) -> None:
    Access(KEY).check(value, "POST /embed")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        KEY,
        f"Basic {KEY}",
        f"Token {KEY}",
        f"Bearer{KEY}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY.upper()}",
        f"Bearer Bearer {KEY}",
        "Bearer schlüssel-schlüssel",
        "Bearer \x00\x7f\u20ac",
    ],
)
def test_anything_else_is_refused_without_a_word_about_the_key(value: str | None) -> None:
    with pytest.raises(UnauthenticatedError) as refused:
        Access(KEY).check(value, "POST /embed")

    assert KEY not in refused.value.message


@pytest.mark.parametrize("value", [None, "Bearer whatever", "nonsense"])
def test_without_a_key_in_the_settings_everybody_is_let_in(value: str | None) -> None:
    access = Access(None)

    assert not access.required
    access.check(value, "POST /embed")


def test_with_a_key_in_the_settings_it_is_required_and_not_kept() -> None:
    access = Access(KEY)

    assert access.required
    assert KEY not in str(vars(access))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("[::]", False),
        ("", False),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("fe80::1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("2130706433", False),
    ],
)
def test_which_addresses_are_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


# --- receipts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "receipts.pem"


@pytest.fixture
def receipt(path: Path) -> Receipt:
    return ReceiptSigner(path).sign("labör", "Zoë", ["face-1", "face-2"])


def test_a_receipt_says_what_was_erased_and_verifies(path: Path, receipt: Receipt) -> None:
    assert verify(receipt)
    assert (receipt.collection, receipt.subject, list(receipt.face_ids)) == ("labör", "Zoë", ["face-1", "face-2"])
    assert receipt.public_key == ReceiptSigner(path).public_key
    age = datetime.now(UTC) - datetime.fromisoformat(receipt.erased_at)
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_a_receipt_for_a_whole_collection_verifies(path: Path) -> None:
    receipt = ReceiptSigner(path).sign("lab", None, [])

    assert verify(receipt)
    assert not verify(dataclasses.replace(receipt, subject="None"))


def test_anybody_can_check_it_with_the_documented_bytes_alone(receipt: Receipt) -> None:
    """As a caller would in another language: canonical JSON of all fields but the signature."""
    document = {field.name: getattr(receipt, field.name) for field in dataclasses.fields(receipt)}
    signature = base64.b64decode(document.pop("signature"))
    canonical = json.dumps(
        {**document, "face_ids": list(receipt.face_ids)}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(receipt.public_key))

    key.verify(signature, canonical)
    assert canonical == signed_bytes(receipt)
    with pytest.raises(InvalidSignature):
        key.verify(signature, canonical + b" ")


@pytest.mark.parametrize(
    "change",
    [
        {"collection": "lab"},
        {"subject": "Zoe"},
        {"subject": None},
        {"face_ids": ("face-1",)},
        {"face_ids": ("face-2", "face-1")},
        {"face_ids": ("face-1", "face-2", "face-3")},
        {"erased_at": "2020-01-01T00:00:00.000+00:00"},
        {"public_key": base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()},
        {"public_key": "not base64!"},
        {"public_key": ""},
        {"public_key": "schlüssel"},
        {"signature": ""},
        {"signature": "not base64!"},
        {"signature": base64.b64encode(bytes(64)).decode()},
    ],
)
def test_a_receipt_with_a_changed_field_does_not_verify(receipt: Receipt, change: dict[str, Any]) -> None:
    assert not verify(dataclasses.replace(receipt, **change))


def test_every_field_of_a_receipt_was_changed_in_the_test_above(receipt: Receipt) -> None:
    marks = test_a_receipt_with_a_changed_field_does_not_verify.pytestmark  # type: ignore[attr-defined]
    changed = {name for change in marks[0].args[1] for name in change}

    assert changed == {field.name for field in dataclasses.fields(receipt)}


def test_the_key_is_made_once_for_its_owner_only_and_used_again(path: Path) -> None:
    previous = os.umask(0)
    try:
        first = ReceiptSigner(path)
    finally:
        os.umask(previous)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]
    content = path.read_bytes()
    assert ReceiptSigner(path).public_key == first.public_key
    assert path.read_bytes() == content


def test_two_servers_have_two_keys(path: Path, tmp_path: Path) -> None:
    other = ReceiptSigner(tmp_path / "other.pem")
    receipt = other.sign("lab", "Ann", [])

    assert other.public_key != ReceiptSigner(path).public_key
    assert not verify(dataclasses.replace(receipt, public_key=ReceiptSigner(path).public_key))


def _pem(key: Ed25519PrivateKey | X25519PrivateKey, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        _pem(Ed25519PrivateKey.generate())[:60],
        _pem(X25519PrivateKey.generate()),
        _pem(Ed25519PrivateKey.generate(), b"password"),
    ],
    ids=["empty", "nonsense", "cut off", "another kind of key", "encrypted"],
)
def test_a_damaged_key_is_an_error_and_is_not_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(StorageError, match=r"receipts\.pem") as refused:
        ReceiptSigner(path)

    assert "\n" not in refused.value.message
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file where the folder should be")

    with pytest.raises(StorageError):
        ReceiptSigner(tmp_path / "keys" / "receipts.pem")
