"""Calls over a few connections."""

import asyncio

from .connection import Connection, Done, connect


class Client:
    """Calls of one method over a few connections; one that is lost is opened again."""

    def __init__(self, address: str, path: str, deadline_s: float, connections: int) -> None:
        self._where = (address, path, deadline_s)
        self._count = connections
        self._connections: list[Connection] = []
        self._opening: dict[int, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """Connect.

        Raises:
            OSError: the server is not reached.
        """
        for _ in range(self._count):
            self._connections.append(await connect(*self._where))

    async def close(self) -> None:
        """End all."""
        for task in list(self._opening.values()):
            task.cancel()
        for each in self._connections:
            each.close()
            await each.ended

    def call(self, number: int, body: bytes, done: Done) -> None:
        """Begin a call of one of the clients; those of one client share a connection."""
        index = number % self._count
        connection = self._connections[index]
        if connection.over and index not in self._opening:
            self._opening[index] = asyncio.ensure_future(self._open_again(index))
        connection.call(body, done)

    async def _open_again(self, index: int) -> None:
        try:
            self._connections[index] = await connect(*self._where)
        except OSError:
            pass  # the next call tries again
        finally:
            del self._opening[index]
