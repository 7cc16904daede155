"""facesphere audit verify | verify-receipt | seal."""

import json
from pathlib import Path
from typing import Any

import click

from service.commands.common import data_dir, embedded_only, keys_dir, opened_gallery, opened_store, settings_and_keys
from service.domain import Receipt
from service.errors import InvalidRequestError
from service.security.receipts import ReceiptSigner
from service.security.receipts import verify as signed

_FIELDS = {"collection", "subject", "face_ids", "erased_at", "public_key", "signature"}


@click.group()
def audit() -> None:
    """The audit log, and receipts of erasures."""


@audit.command(epilog="Example: facesphere audit verify")
@data_dir
@keys_dir
def verify(**flags: Any) -> None:
    """Check every entry of the log; exits with 2 and names the first that is not what was written."""
    with opened_gallery(flags, newest=False) as store:
        proof = store.audit.verify()
    before = f"; 1 to {proof.first - 1} are archived elsewhere and were not looked at" if proof.first > 1 else ""
    click.echo(f"entries {proof.first} to {proof.last} are as they were written{before}")


@audit.command("verify-receipt", epilog="Example: facesphere audit verify-receipt receipt.json")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--public-key", help="base64 of the key it must be signed with; that of this server if left out.")
@data_dir
@keys_dir
def verify_receipt(file: Path, public_key: str | None, **flags: Any) -> None:
    """Check that a receipt of an erasure was signed by this server and says what it said."""
    receipt = _receipt(file)
    if public_key is None:
        _, keys = settings_and_keys(flags)
        public_key = ReceiptSigner(keys.receipts).public_key
    if receipt.public_key != public_key or not signed(receipt):
        raise InvalidRequestError(f"{file} was not signed by the key {public_key}, or was changed since")
    whom = f"subject {receipt.subject!r} of " if receipt.subject is not None else ""
    click.echo(
        f"valid: {whom}collection {receipt.collection!r}, {len(receipt.face_ids)} faces, erased {receipt.erased_at}"
    )


@audit.command(epilog="Example: facesphere audit seal --keep 1000")
@click.option("--keep", type=click.IntRange(1), default=1000, show_default=True, help="Newest entries that stay.")
@data_dir
@keys_dir
def seal(keep: int, **flags: Any) -> None:
    """Move older entries into a file of DATA_DIR/audit, which can be kept elsewhere."""
    embedded_only(flags, "in a database the log stays where it is")
    with opened_store(flags) as store:
        path = store.audit.seal(keep)
    click.echo(str(path) if path else "there is nothing to seal yet", err=path is None)


def _receipt(file: Path) -> Receipt:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidRequestError(f"{file} is no receipt: it is not JSON") from error
    texts = ("collection", "erased_at", "public_key", "signature")
    if not isinstance(document, dict) or set(document) != _FIELDS:
        raise InvalidRequestError(f"{file} is no receipt: it has exactly {', '.join(sorted(_FIELDS))}")
    ids = document["face_ids"]
    if not all(isinstance(document[name], str) for name in texts) or not isinstance(ids, list):
        raise InvalidRequestError(f"{file} is no receipt: a field is of the wrong kind")
    return Receipt(**{**document, "face_ids": tuple(ids)})
