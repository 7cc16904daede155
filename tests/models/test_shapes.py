"""Each shape of input has a session of its own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.preprocess import Vectors
from models.shapes import RunsByShape


class Watched:
    """Remembers the shapes that it ran."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, batch: Vectors) -> list[Vectors]:
        self.shapes.append(batch.shape)
        return [batch * 2, batch + 1]


class Opened:
    """Opens more of them."""

    def __init__(self, most: int = 16) -> None:
        self.all = [Watched()]
        self.by_shape = RunsByShape(self.all[0], self._another, most)

    def _another(self) -> Watched:
        time.sleep(0.02)  # time enough for a second one to come
        self.all.append(Watched())
        return self.all[-1]

    def run(self, size: int) -> list[Vectors]:
        return self.by_shape.run(np.full((size, 3), 7, np.float32))


def test_no_session_ever_sees_a_second_shape() -> None:
    opened = Opened()
    for size in (4, 1, 4, 16, 1, 4):
        doubled, more = opened.run(size)
        assert doubled.shape == (size, 3)
        assert (doubled == 14).all()
        assert (more == 8).all()
    assert [set(each.shapes) for each in opened.all] == [{(4, 3)}, {(1, 3)}, {(16, 3)}]


def test_the_one_that_was_not_asked_for_longest_is_given_up() -> None:
    opened = Opened(most=2)
    for size in (1, 2, 1, 3, 1, 2):
        opened.run(size)
    assert [each.shapes for each in opened.all] == [[(1, 3)] * 3, [(2, 3)], [(3, 3)], [(2, 3)]]


def test_many_threads_open_one_session_a_shape() -> None:
    opened, begins = Opened(), threading.Barrier(8)

    def work(_: int) -> None:
        begins.wait()
        for size in (1, 2, 3, 4):
            opened.run(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert sorted(each.shapes for each in opened.all) == [[(size, 3)] * 8 for size in (1, 2, 3, 4)]


def test_where_a_session_cannot_be_opened_the_next_one_who_asks_tries_again() -> None:
    tries = []

    def another() -> Watched:
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError
        return Watched()

    by_shape = RunsByShape(Watched(), another)
    by_shape.run(np.zeros((1, 3), np.float32))
    two = np.zeros((2, 3), np.float32)
    with pytest.raises(MemoryError):
        by_shape.run(two)
    assert by_shape.run(two)[0].shape == (2, 3)
