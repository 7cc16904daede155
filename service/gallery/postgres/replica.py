"""Searching a standby, as long as it has come as far as the search has to know.

The primary is asked first what the newest change of the collection is; that is one row. Each change is one transaction
with its entry of the audit log, and a standby shows transactions in the order of their commits: once the entry is
there, so are the change and all before it, whoever made them, this server or another. An entry is told by its tag,
so a standby that went its own way after a failover is not taken for one that follows.
"""

import psycopg

from service.errors import GalleryUnavailableError
from service.gallery.postgres.connections import Connections
from service.gallery.postgres.database import Row, Values, Witness

_PATIENCE_S = 3.0


class Replica:
    """Calls may come from several threads."""

    def __init__(self, url: str) -> None:
        self._connections = Connections(url, patience_s=_PATIENCE_S)
        self.answered = 0  # searches that the primary was spared

    def read(self, state: Witness, query: str, values: Values) -> list[Row] | None:
        """Rows of a query; None if the replica has not come as far as `state`, or does not answer."""
        try:
            with self._connections.one() as connection:
                there = connection.execute("SELECT mac FROM audit WHERE seq = %s", (state.seq,)).fetchone()
                if there is None or bytes(there[0]) != state.mac:
                    return None
                rows = connection.execute(query, values).fetchall()
        except (psycopg.Error, GalleryUnavailableError):
            return None
        self.answered += 1
        return rows

    def close(self) -> None:
        """Close its connections."""
        self._connections.close()
