"""The folder of the keys: small files that belong beside a gallery's data and never into it.

    KEYS/master.key       the master key, unless it is given otherwise (master.py)
    KEYS/keyring.json     a key for each collection, wrapped by it (vault.py)
    KEYS/erasures.jsonl   what was erased, so that no backup brings it back (ledger.py)
    KEYS/anchor           how far the audit log had come (ledger.py)
    KEYS/receipts.pem     what receipts are signed with (receipts.py)

Whoever has this folder and the data can read every face; whoever has one of them can read none.
"""

from dataclasses import dataclass
from pathlib import Path

from service.errors import StorageError
from service.security.ledger import Anchor, Ledger
from service.security.master import master_key
from service.security.vault import Vault


@dataclass(frozen=True, slots=True)
class MasterKeySource:
    """Where the master key comes from; nothing given: a file of the folder, made at first use."""

    value: str | None = None
    file: Path | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """What is in the folder, opened."""

    folder: Path
    vault: Vault
    ledger: Ledger
    anchor: Anchor

    @property
    def receipts(self) -> Path:
        """The signing key of erasure receipts."""
        return self.folder / "receipts.pem"


def open_keys(folder: Path, source: MasterKeySource | None = None) -> KeyFolder:
    """Open the folder, which is made at first use.

    Raises:
        StorageError: it cannot be used, or the master key is not its own.
    """
    source = source or MasterKeySource()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"cannot use {folder} for the keys: {error.strerror}") from error
    vault = Vault(folder, master_key(folder, source.value, source.file, source.command))
    return KeyFolder(folder, vault, Ledger(folder, vault.ledger_key), Anchor(folder))
