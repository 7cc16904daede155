"""One signing key of receipts for all servers: whoever asks for an erasure may come to any of them."""

import logging
from pathlib import Path

from service.errors import StorageError
from service.gallery.postgres.database import Database
from service.security.master import write_once
from service.security.receipts import ReceiptSigner
from service.security.vault import MasterKey

log = logging.getLogger("facesphere.gallery")
_CONTEXT = b"signing key of receipts"


def share_signing_key(database: Database, master: MasterKey, file: Path) -> None:
    """Give the database the key of this server, if it has none yet, and else this server the one that is there.

    Raises:
        StorageError: the file cannot be written, or what the database has is damaged.
    """
    with database.transaction():
        ((sealed,),) = database.read("SELECT signing_key FROM store FOR UPDATE")
        if sealed is None:
            ReceiptSigner(file)  # makes it at first use
            sealed = master.store.seal(file.read_bytes(), _CONTEXT)
            database.write("UPDATE store SET signing_key = %s", (sealed,))
    shared = master.store.open(bytes(sealed), _CONTEXT)
    try:
        write_once(file, shared)
        own = file.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot use the signing key {file}: {error.strerror}") from error
    if own != shared:
        log.warning("%s is not the key that other servers sign receipts with; remove it to take theirs", file)
