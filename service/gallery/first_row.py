"""The one row of `store`: what the whole gallery comes to. Whatever changes in it changes this row, and its tag."""

from dataclasses import dataclass, replace

from service.errors import StorageError
from service.gallery.database import Database, Row
from service.gallery.sealing import EMPTY, combined
from service.security.vault import Vault

COLUMNS = "uid, created_at, tally, keys_tally, sealed_to, sealed_mac, mac"


@dataclass(frozen=True, slots=True)
class State:
    """uid and date of the gallery; tallies of its collections and of its API keys; the archived part of its log."""

    uid: str
    created_at: str
    tally: bytes = EMPTY
    keys_tally: bytes = EMPTY
    sealed_to: int = 0
    sealed_mac: bytes = b""

    def mac(self, vault: Vault) -> bytes:
        """The tag of this row."""
        return vault.store.mac(
            "store", self.uid, self.created_at, self.tally, self.keys_tally, self.sealed_to, self.sealed_mac
        )


class FirstRow:
    """Reads and writes it."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def create(self, state: State) -> None:
        """Of a new gallery; inside a transaction."""
        self._database.write(
            f"INSERT INTO store (id, {COLUMNS}) VALUES (1,?,?,?,?,?,?,?)",  # noqa: S608
            (*_values(state), state.mac(self._vault)),
        )

    def read(self) -> State:
        """The row.

        Raises:
            StorageError: it was changed from outside.
        """
        return checked_state(self._database.one(f"SELECT {COLUMNS} FROM store"), self._vault)  # noqa: S608

    def retally(self, *macs: bytes) -> None:
        """Take tags of collections in, or out; inside a transaction."""
        state = self.read()
        self._write(replace(state, tally=combined(state.tally, *macs)))

    def retally_keys(self, *macs: bytes) -> None:
        """The same for tags of API keys."""
        state = self.read()
        self._write(replace(state, keys_tally=combined(state.keys_tally, *macs)))

    def seal(self, seq: int, mac: bytes) -> None:
        """The log is archived up to this entry; inside a transaction."""
        self._write(replace(self.read(), sealed_to=seq, sealed_mac=mac))

    def _write(self, state: State) -> None:
        self._database.write(
            "UPDATE store SET uid=?, created_at=?, tally=?, keys_tally=?, sealed_to=?, sealed_mac=?, mac=?",
            (*_values(state), state.mac(self._vault)),
        )


def checked_state(row: Row | None, vault: Vault) -> State:
    """The state in a row, if its tag fits.

    Raises:
        StorageError: it does not, or there is no row.
    """
    state = None if row is None else State(*row[:6])
    if row is None or state is None or state.mac(vault) != row[6]:
        raise StorageError("the gallery is damaged: its first row is not what was stored; restore a backup")
    return state


def _values(state: State) -> tuple[object, ...]:
    return (state.uid, state.created_at, state.tally, state.keys_tally, state.sealed_to, state.sealed_mac)
