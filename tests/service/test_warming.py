"""A network is run before the first caller, and batches are taken only where they pay."""

import asyncio
import contextlib
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from photos import astronaut, encode

from models.registry import Registry
from service.inference.crew import Crew
from service.inference.warming import warm_up
from service.loading import build_inference
from service.settings import Settings


class Network:
    """Costs so many seconds a batch of each size, on a clock of its own; the first run of a size costs more."""

    def __init__(self, seconds: dict[int, float], first: float = 0.0) -> None:
        self.now = 0.0
        self.ran: list[int] = []
        self._seconds, self._first = seconds, first

    def run(self, size: int) -> None:
        self.now += self._seconds.get(size, 1.0) + (0 if size in self.ran else self._first)
        self.ran.append(size)


def _most(network: Network, device: str = "cpu", limit: int = 8) -> int:
    return warm_up(network.run, device, limit, lambda: network.now)


def test_a_batch_that_costs_as_much_as_its_crops_alone_is_not_made() -> None:
    assert _most(Network({1: 0.015, 8: 0.140})) == 1
    assert _most(Network({1: 0.015, 8: 0.120})) == 1


@pytest.mark.parametrize(("pays", "waits"), [(1, False), (8, True)])
def test_crops_wait_for_others_only_where_batches_pay(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, pays: int, waits: bool
) -> None:
    monkeypatch.setattr("service.loading.warm_up", lambda *_: pays)
    settings = Settings(data_dir=tmp_path, threads=2, device="cpu", max_queue_delay_s=3)
    with contextlib.closing(build_inference(settings, registry)) as inference:
        began = time.monotonic()
        assert len(asyncio.run(inference.faces.embed(encode(astronaut()))).faces) == 1
        assert (time.monotonic() - began >= 3) == waits


def test_a_batch_that_is_cheaper_than_its_crops_alone_is_made() -> None:
    assert _most(Network({1: 0.015, 8: 0.080})) == 8
    assert _most(Network({1: 0.015, 5: 0.050}), limit=5) == 5


def test_what_the_first_run_of_a_size_costs_more_is_not_held_against_it() -> None:
    assert _most(Network({1: 0.015, 8: 0.108}, first=0.02)) == 8


def test_an_accelerator_is_given_batches_without_being_asked_what_they_cost() -> None:
    network = Network({})

    assert _most(network, "cuda", 32) == 32
    assert network.ran == [1, 4, 16, 32]


def test_one_at_a_time_stays_one_at_a_time() -> None:
    network = Network({})

    assert _most(network, limit=1) == 1
    assert network.ran == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_threads_that_compute_go_behind_the_loop_that_answers() -> None:
    found: list[int] = []
    told = threading.Event()

    class Once:
        """A queue of one job that says how urgent its thread is."""

        running = 0
        left = 1

        def count(self, bulk: bool) -> int:
            return self.left

        def full(self, bulk: bool) -> bool:
            return False

        def leaves_at(self) -> float:
            return 0.0

        def take(self, now: float) -> "Once":
            self.left = 0
            return self

        def cost_s(self) -> float:
            return 0.0

        def run(self) -> None:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

        def done(self) -> None:
            told.set()

        def deliver(self) -> None:
            pass

    crew = Crew("test", 1)
    crew.add(Once())
    with crew.changed:
        crew.changed.notify_all()
    assert told.wait(10)
    crew.close()

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert found == [min(own + 5, 19)]
