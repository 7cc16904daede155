"""A client of an event loop, used as if it waited: so that one test asks the same of both."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

from facesphere_client import AsyncClient


class Awaited:
    """Every call is awaited in one loop, every stream read to its end."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            return self._runner.run(self._finished(getattr(self._client, name)(*arguments, **options)))

        return call

    def collect(self, into: list[Any], name: str, *arguments: Any) -> None:
        """Read a stream into a list, which keeps what came before an error."""

        async def read() -> None:
            async for each in getattr(self._client, name)(*arguments):
                into.append(each)  # noqa: PERF401 - kept one by one, an error may come

        self._runner.run(read())

    def close(self) -> None:
        """Close the client and its loop."""
        self._runner.run(self._client.close())
        self._runner.close()

    @staticmethod
    async def _finished(answer: Any) -> Any:
        if inspect.isawaitable(answer):
            return await answer
        assert isinstance(answer, AsyncIterator)
        return [each async for each in answer]


def collect(client: Any, into: list[Any], name: str, *arguments: Any) -> None:
    """The same of either kind of client."""
    if isinstance(client, Awaited):
        client.collect(into, name, *arguments)
        return
    for each in getattr(client, name)(*arguments):
        into.append(each)  # noqa: PERF402 - kept one by one, an error may come
