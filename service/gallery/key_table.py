"""API keys in the records' file. Whoever changes them, a server or the command line, the other sees it at once."""

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from service.errors import NotFoundError, StorageError
from service.gallery.database import BROKEN, WAIT_MS, Database, one_line
from service.gallery.errands import Errands
from service.gallery.first_row import COLUMNS as STORE_COLUMNS
from service.gallery.first_row import FirstRow, checked_state
from service.gallery.key_rows import COLUMNS, checked, tag, text, values
from service.gallery.schema import connect
from service.gallery.sealing import EMPTY, combined
from service.gallery.trail import Trail
from service.security.keyfolder import KeyFolder
from service.security.keys import ApiKey, KeyGrant, new_token, token_digest
from service.security.ledger import KEYS, Erasure


class SqliteKeyTable:
    """Keys, each sealed like any other row, and tallied in the first row: nobody gives themselves a scope, brings a
    revoked key back or removes the last one with an SQL editor.

    Each revocation, and that there ever was a key, stands in the ledger too: no backup undoes it.
    """

    def __init__(self, database: Database, keys: KeyFolder, trail: Trail, errands: Errands) -> None:
        self._database = database
        self._vault = keys.vault
        self._trail = trail
        self._errands = errands
        self._first = FirstRow(database, keys.vault)
        self._lock = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._seen: tuple[int, bytes] = (-1, b"")
        self._keys: Mapping[str, ApiKey] = {}
        self._ever = any(each.collection == KEYS for each in keys.ledger.read())

    @property
    def ever_made(self) -> bool:
        """Whether there ever was a key, be it only in a gallery that a backup has taken the place of."""
        self._ever = self._ever or bool(self.current())
        return self._ever

    def current(self) -> Mapping[str, ApiKey]:
        """All keys by id. Asked for every call, so it looks only whether anything was written since.

        Raises:
            StorageError: the file cannot be read, or the keys are not what was stored.
        """
        with self._lock:
            try:
                # A connection of its own: it never waits for a writer.
                self._reader = self._reader or connect(self._database.path, WAIT_MS)
                (version,) = self._reader.execute("PRAGMA data_version").fetchone()
                if version != self._seen[0]:
                    self._refresh(self._reader, version)
            except BROKEN as error:
                raise StorageError(f"the keys cannot be read: {one_line(error)}") from error
            return self._keys

    def create(self, grant: KeyGrant, actor: str) -> tuple[ApiKey, str]:
        """A new key, and the text of it, which is kept nowhere."""
        with self._trail.change():
            created = self._create(grant, actor)
        self._errands.run()
        return created

    def revoke(self, key_id: str, actor: str) -> ApiKey:
        """The key opens nothing from now on. Revoking it again changes nothing.

        Raises:
            NotFoundError: no such key.
        """
        with self._trail.change():
            key = self.find(key_id)
            if key.revoked_at is None:
                key = self._replace(key, replace(key, revoked_at=self._database.now()))
                self._errands.note_erasure(Erasure(self._database.now(), KEYS, key_id, ()))
                self._trail.add(actor, "key.revoke", key=key_id)
        self._errands.run()
        return key

    def revoke_again(self, key_id: str) -> bool:
        """Revoke a key that a backup has brought back; False if it is not there, or revoked."""
        row = self._database.one("SELECT revoked_at FROM api_keys WHERE id = ?", (key_id,))
        if row is None or row[0] is not None:
            return False
        self.revoke(key_id, "cli")
        return True

    def rotate(self, key_id: str, grace: timedelta, actor: str) -> tuple[ApiKey, str]:
        """A new key with the rights of an old one, which goes on working for a while.

        Raises:
            NotFoundError: no such key, or it is revoked.
        """
        with self._trail.change():
            old = self.find(key_id)
            now = datetime.fromisoformat(self._database.now())
            if not old.usable(now):
                raise NotFoundError(f"the key {key_id!r} is revoked or has expired: make a new one", key=key_id)
            created = self._create(old.grant, actor)
            ends = min(now + grace, old.grant.expires_at or datetime.max.replace(tzinfo=UTC))
            self._replace(old, replace(old, grant=replace(old.grant, expires_at=ends)))
            self._trail.add(actor, "key.rotate", key=key_id, successor=created[0].id)
        self._errands.run()
        return created

    def find(self, key_id: str) -> ApiKey:
        """One key.

        Raises:
            NotFoundError: no such key.
        """
        row = self._database.one(f"SELECT {COLUMNS} FROM api_keys WHERE id = ?", (key_id,))  # noqa: S608
        if row is None:
            raise NotFoundError(f"there is no key {key_id!r}", key=key_id)
        return checked(row, self._vault.store)

    def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        rows = self._database.read(f"SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id")  # noqa: S608
        return [checked(row, self._vault.store) for row in rows]

    def note_used(self, used: Mapping[str, datetime]) -> None:
        """When keys were used last; no change that the audit log tells of."""
        if used:
            with self._database.transaction():
                for key_id, at in used.items():
                    text = at.isoformat(timespec="milliseconds")
                    self._database.write("UPDATE api_keys SET last_used_at = ? WHERE id = ?", (text, key_id))

    def close(self) -> None:
        """Close the connection that reads."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
                self._seen = (-1, b"")

    def _create(self, grant: KeyGrant, actor: str) -> tuple[ApiKey, str]:
        key_id, token = new_token()
        key = ApiKey(key_id, grant, token_digest(self._vault.pepper, token), self._database.now())
        mac = tag(values(key), self._vault.store)
        self._database.write(
            f"INSERT INTO api_keys ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
            (*values(key), mac),
        )
        self._first.retally_keys(mac)
        if not self._ever:
            self._errands.note_erasure(Erasure(self._database.now(), KEYS, None, ()))
        self._trail.add(actor, "key.create", key=key_id, name=grant.name, scopes=sorted(grant.scopes))
        return key, token

    def _refresh(self, reader: sqlite3.Connection, version: int) -> None:
        reader.execute("BEGIN")  # keys and first row of one state
        try:
            rows = reader.execute(f"SELECT {COLUMNS} FROM api_keys ORDER BY id").fetchall()  # noqa: S608
            first = reader.execute(f"SELECT {STORE_COLUMNS} FROM store").fetchone()  # noqa: S608
        finally:
            reader.execute("ROLLBACK")
        macs = [row[-1] for row in rows]
        if combined(EMPTY, *macs) != checked_state(first, self._vault).keys_tally:
            raise StorageError("the gallery is damaged: the API keys are not those that were stored; restore a backup")
        if b"".join(macs) != self._seen[1] or len(rows) != len(self._keys):
            self._keys = {row[0]: checked(row, self._vault.store) for row in rows}
        self._seen = (version, b"".join(macs))

    def _replace(self, old: ApiKey, new: ApiKey) -> ApiKey:
        mac = tag(values(new), self._vault.store)
        self._database.write(
            "UPDATE api_keys SET expires_at = ?, revoked_at = ?, mac = ? WHERE id = ?",
            (text(new.grant.expires_at), new.revoked_at, mac, new.id),
        )
        self._first.retally_keys(tag(values(old), self._vault.store), mac)
        return new
