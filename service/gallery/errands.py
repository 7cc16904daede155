"""What a committed change still asks for outside of the records' file, and what is done if a program is stopped
before.

An erasure must be written into the ledger, so that no backup brings it back, and the key of an erased collection must
be destroyed. Neither can be part of an SQLite transaction. So the transaction leaves a note of it, the deed follows,
and the note goes; both deeds may be done twice.
"""

import json
from collections.abc import Callable

from service.gallery.database import Database
from service.security.ledger import Erasure, Ledger
from service.security.vault import Vault


class Errands:
    """Notes in the records, deeds in the folder of the keys."""

    def __init__(
        self, database: Database, vault: Vault, ledger: Ledger, before_erasure: Callable[[str], None] | None = None
    ) -> None:
        """`before_erasure` is called before something of the collection with this uid is erased for good."""
        self._database = database
        self._vault = vault
        self._ledger = ledger
        self._before_erasure = before_erasure

    def note_erasure(self, erasure: Erasure) -> None:
        """To be written into the ledger; inside the transaction of the erasure."""
        if self._before_erasure is not None:
            self._before_erasure(erasure.collection)
        body = json.dumps([erasure.at, erasure.collection, erasure.subject, list(erasure.faces)])
        self._database.write("INSERT INTO errands (kind, body) VALUES ('ledger', ?)", (body,))

    def note_destroy(self, collection_uid: str) -> None:
        """The key of this collection is to be destroyed; inside the transaction of the erasure."""
        self._database.write("INSERT INTO errands (kind, body) VALUES ('destroy', ?)", (collection_uid,))

    def run(self) -> None:
        """Do all that is noted.

        Raises:
            StorageFullError, StorageError: it could not be done; it stays noted.
        """
        done = []
        for number, kind, body in self._database.read("SELECT id, kind, body FROM errands ORDER BY id"):
            if kind == "destroy":
                self._vault.destroy(body)
            else:
                at, collection, subject, faces = json.loads(body)
                self._ledger.add(Erasure(at, collection, subject, tuple(faces)))
            done.append(number)
        if done:
            with self._database.transaction():
                self._database.write(
                    "DELETE FROM errands WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(done),)
                )
