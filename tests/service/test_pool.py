"""The bounded pool of threads: its limit, and when a place becomes free again."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from live_server import wait_until

from service.errors import NotReadyError, OverloadedError
from service.inference.pool import Pool

WAIT_S = 20


class Gate:
    """A call that ends when it is let through."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.begun = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self, name: str) -> str:
        self.entered.append(name)
        self.begun.release()
        assert self._open.wait(WAIT_S)
        return name

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def pool(gate: Gate) -> Iterator[Pool]:
    """One thread, and room for one more call."""
    pool = Pool("test", threads=1, max_waiting=1)
    yield pool
    gate.open()
    pool.close()


async def _begin(pool: Pool, gate: Gate, *names: str) -> list[asyncio.Task[str]]:
    """Calls in order, the first of which is running when this returns."""
    tasks = [asyncio.ensure_future(pool.run(gate, name)) for name in names]
    await asyncio.sleep(0)  # each task runs up to where it waits for its thread
    assert await asyncio.to_thread(gate.begun.acquire, timeout=WAIT_S)
    return tasks


def test_a_call_runs_on_another_thread_with_its_arguments(pool: Pool) -> None:
    def call(a: int, *, b: int) -> tuple[int, int, str]:
        return a, b, threading.current_thread().name

    a, b, name = asyncio.run(pool.run(call, 1, b=2))

    assert (a, b) == (1, 2)
    assert name.startswith("test")


def test_what_exceeds_the_limit_is_refused_at_once(pool: Pool, gate: Gate) -> None:
    async def scenario() -> list[str]:
        tasks = await _begin(pool, gate, "running", "waiting")
        assert pool.pending == 2
        with pytest.raises(OverloadedError):
            await pool.run(gate, "refused")
        gate.open()
        return await asyncio.gather(*tasks)

    assert asyncio.run(scenario()) == ["running", "waiting"]
    assert pool.pending == 0
    assert gate.entered == ["running", "waiting"]


def test_a_place_is_free_again_after_every_call_that_is_done(pool: Pool) -> None:
    async def scenario() -> list[int]:
        return [await pool.run(abs, -number) for number in range(50)]

    assert asyncio.run(scenario()) == list(range(50))
    assert pool.pending == 0


def test_an_error_reaches_the_caller_and_frees_the_place(pool: Pool) -> None:
    async def scenario() -> None:
        for _ in range(10):
            with pytest.raises(ValueError, match="invalid literal"):
                await pool.run(int, "no number")

    asyncio.run(scenario())
    assert pool.pending == 0


def test_a_call_that_is_cancelled_while_it_waits_never_runs_and_frees_its_place(pool: Pool, gate: Gate) -> None:
    async def scenario() -> list[str]:
        running, waiting = await _begin(pool, gate, "running", "cancelled")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool.pending == 1

        another = asyncio.ensure_future(pool.run(gate, "another"))
        await asyncio.sleep(0)
        assert pool.pending == 2
        gate.open()
        return await asyncio.gather(running, another)

    assert asyncio.run(scenario()) == ["running", "another"]
    assert gate.entered == ["running", "another"]


def test_a_cancelled_call_that_runs_keeps_its_place_until_it_ends(pool: Pool, gate: Gate) -> None:
    async def scenario() -> None:
        (running,) = await _begin(pool, gate, "running")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert pool.pending == 1  # its thread is still busy, whoever waits for it

    asyncio.run(scenario())
    gate.open()
    wait_until(lambda: pool.pending == 0)


def test_as_many_calls_run_at_once_as_there_are_threads() -> None:
    pool = Pool("test", threads=3, max_waiting=0)
    together = threading.Barrier(3)

    async def scenario() -> list[int]:
        return await asyncio.gather(*(pool.run(together.wait, WAIT_S) for _ in range(3)))

    assert sorted(asyncio.run(scenario())) == [0, 1, 2]
    pool.close()


def test_close_finishes_what_was_accepted_and_then_refuses(pool: Pool, gate: Gate) -> None:
    async def scenario() -> list[str]:
        tasks = await _begin(pool, gate, "running", "waiting")
        closing = asyncio.ensure_future(asyncio.to_thread(pool.close))
        gate.open()
        await closing
        with pytest.raises(NotReadyError):
            await pool.run(gate, "late")
        return await asyncio.gather(*tasks)

    assert asyncio.run(scenario()) == ["running", "waiting"]
    assert pool.pending == 0
