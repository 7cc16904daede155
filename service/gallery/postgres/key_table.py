"""API keys in the database, for all servers.

Every call asks for the keys, so each server has them in memory. It reads the state of the table twice a second and
goes by what it has read for LEASE_S at most; after that it refuses, rather than to let a key in that may be revoked. A
change returns once whatever was read before it has run out: from then on every server goes by it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from models.errors import FaceError
from service.errors import GalleryUnavailableError, NotFoundError, StorageError
from service.gallery.key_rows import COLUMNS, checked, tag, text, values
from service.gallery.postgres.database import Database
from service.gallery.postgres.trail import PostgresTrail
from service.gallery.sealing import EMPTY, combined
from service.security.keys import ApiKey, KeyGrant, new_token, token_digest
from service.security.vault import MasterKey

log = logging.getLogger("facesphere.gallery")
LEASE_S = 2.0
_REFRESH_S = 0.5


class PostgresKeyTable:
    """Each key is sealed like any other row, and all together in `key_state`: none is added, changed or removed with an
    SQL editor. Calls may come from several threads."""

    def __init__(self, database: Database, master: MasterKey, trail: PostgresTrail) -> None:
        self._database = database
        self._master = master
        self._trail = trail
        self._keys: Mapping[str, ApiKey] = {}
        self._known: tuple[int, bytes] | None = None  # number and tally: after a failover one alone may come again
        self._read_at = float("-inf")
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="facesphere-keys", daemon=True)

    def start(self) -> None:
        """Read the keys, and go on reading them."""
        self._refresh()
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ever_made(self) -> bool:
        """Whether there ever was a key; a revoked one stays in the table."""
        return bool(self._keys) or bool(self.current())

    def current(self) -> Mapping[str, ApiKey]:
        """All keys by id; asked for every call.

        Raises:
            GalleryUnavailableError: they could not be read lately.
        """
        if time.monotonic() - self._read_at > LEASE_S:
            raise GalleryUnavailableError("the API keys cannot be read: the database does not answer")
        return self._keys

    def create(self, grant: KeyGrant, actor: str) -> tuple[ApiKey, str]:
        """A new key, and the text of it, which is kept nowhere."""
        with self._database.transaction():
            self._lock()
            created = self._create(grant, actor)
        self._everywhere()
        return created

    def revoke(self, key_id: str, actor: str) -> ApiKey:
        """The key opens nothing from now on. Revoking it again changes nothing.

        Raises:
            NotFoundError: no such key.
        """
        with self._database.transaction():
            self._lock()
            key = self.find(key_id)
            if key.revoked_at is None:
                key = self._replace(key, replace(key, revoked_at=self._database.now()))
                self._trail.add(actor, "key.revoke", key=key_id)
        self._everywhere()
        return key

    def rotate(self, key_id: str, grace: timedelta, actor: str) -> tuple[ApiKey, str]:
        """A new key with the rights of an old one, which goes on working for a while.

        Raises:
            NotFoundError: no such key, or it is revoked.
        """
        with self._database.transaction():
            self._lock()
            old = self.find(key_id)
            now = datetime.fromisoformat(self._database.now())
            if not old.usable(now):
                raise NotFoundError(f"the key {key_id!r} is revoked or has expired: make a new one", key=key_id)
            created = self._create(old.grant, actor)
            ends = min(now + grace, old.grant.expires_at or datetime.max.replace(tzinfo=UTC))
            self._replace(old, replace(old, grant=replace(old.grant, expires_at=ends)))
            self._trail.add(actor, "key.rotate", key=key_id, successor=created[0].id)
        self._everywhere()
        return created

    def adopt(self, key: ApiKey) -> None:
        """A key that was made elsewhere, as it is; inside a transaction. One that is there is brought up to date."""
        self._lock()
        there = next((each for each in self.list() if each.id == key.id), None)
        if there is None:
            self._insert(key)
        elif (there.grant.expires_at, there.revoked_at) != (key.grant.expires_at, key.revoked_at):
            self._replace(there, key)

    def find(self, key_id: str) -> ApiKey:
        """One key.

        Raises:
            NotFoundError: no such key.
        """
        row = self._database.one(f"SELECT {COLUMNS} FROM api_keys WHERE id = %s", (key_id,))  # noqa: S608
        if row is None:
            raise NotFoundError(f"there is no key {key_id!r}", key=key_id)
        return checked(row, self._master.store)

    def list(self) -> list[ApiKey]:
        """All keys, oldest first."""
        rows = self._database.read(f"SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id")  # noqa: S608
        return [checked(row, self._master.store) for row in rows]

    def note_used(self, used: Mapping[str, datetime]) -> None:
        """When keys were used last, here or at another server; no change that the audit log tells of."""
        if used:
            # In one order everywhere, so that two servers do not wait for each other.
            rows = [(text(used[key_id]), key_id) for key_id in sorted(used)]
            with self._database.transaction():
                self._database.write_many(
                    "UPDATE api_keys SET last_used_at = greatest(last_used_at, %s) WHERE id = %s", rows
                )

    def _everywhere(self) -> None:
        """Wait until no server goes by what it has read before."""
        changed_at = time.monotonic()
        with contextlib.suppress(FaceError):  # the change is made, whether it can be read back or not
            self._refresh()
        self._stopped.wait(changed_at + LEASE_S - time.monotonic())

    def _refresh(self) -> None:
        with self._refreshing:
            asked_at = time.monotonic()
            with self._database.snapshot():
                state = self._state("")
                if state != self._known:
                    rows = self._database.read(f"SELECT {COLUMNS} FROM api_keys")  # noqa: S608
                    if combined(EMPTY, *(bytes(row[11]) for row in rows)) != state[1]:
                        raise StorageError("the gallery is damaged: the API keys are not those that were stored")
                    self._keys = {row[0]: checked(row, self._master.store) for row in rows}
            self._known, self._read_at = state, asked_at

    def _run(self) -> None:
        failing = False
        while not self._stopped.wait(_REFRESH_S):
            try:
                self._refresh()
                failing = False
            except FaceError as error:
                if not failing:
                    log.error("the API keys cannot be read: %s", error.message)
                failing = True
            except Exception:  # whatever it is, they are asked for again
                log.exception("the API keys cannot be read")

    def _state(self, lock: str) -> tuple[int, bytes]:
        row = self._database.one(f"SELECT version, tally, mac FROM key_state{lock}")  # noqa: S608
        if row is None or self._state_mac(row[0], bytes(row[1])) != bytes(row[2]):
            raise StorageError("the gallery is damaged: the state of its API keys is not what was stored")
        return row[0], bytes(row[1])

    def _lock(self) -> None:
        """Changes of keys take turns."""
        self._state(" FOR UPDATE")

    def _retally(self, *macs: bytes) -> None:
        version, tally = self._state("")
        version, tally = version + 1, combined(tally, *macs)
        self._database.write(
            "UPDATE key_state SET version = %s, tally = %s, mac = %s",
            (version, tally, self._state_mac(version, tally)),
        )

    def _state_mac(self, version: int, tally: bytes) -> bytes:
        return self._master.store.mac("api keys", version, tally)

    def _create(self, grant: KeyGrant, actor: str) -> tuple[ApiKey, str]:
        key_id, token = new_token()
        key = ApiKey(key_id, grant, token_digest(self._master.pepper, token), self._database.now())
        self._insert(key)
        self._trail.add(actor, "key.create", key=key_id, name=grant.name, scopes=sorted(grant.scopes))
        return key, token

    def _insert(self, key: ApiKey) -> None:
        mac = tag(values(key), self._master.store)
        self._database.write(
            f"INSERT INTO api_keys ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",  # noqa: S608
            (*values(key), mac),
        )
        self._retally(mac)

    def _replace(self, old: ApiKey, new: ApiKey) -> ApiKey:
        mac = tag(values(new), self._master.store)
        self._database.write(
            "UPDATE api_keys SET expires_at = %s, revoked_at = %s, mac = %s WHERE id = %s",
            (text(new.grant.expires_at), new.revoked_at, mac, new.id),
        )
        self._retally(tag(values(old), self._master.store), mac)
        return new
