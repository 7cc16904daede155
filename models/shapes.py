"""A session of ONNX Runtime for each shape of input.

On CUDA, from 1.20 on, it plans all convolutions anew whenever the shape is not that of the run before, and remembers
none (https://github.com/microsoft/onnxruntime/issues/23006). On an H200 that was half a second each time for the
default model, whose run takes 0.8 ms: a server whose batches change size did nothing else. A session that only ever
sees one shape plans once.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from models.preprocess import Vectors

# Each keeps weights and working memory on the device. There are a few sizes of batch, and of photos a few frames.
_MOST = 16


class Runs(Protocol):
    """What runs a batch of one shape."""

    def run(self, batch: Vectors) -> list[Vectors]:
        """The outputs, in the order of the graph."""


class RunsByShape:
    """Runs a batch where batches of its shape are run. May be called from several threads.

    Args:
        first: for the shape that comes first.
        another: opens one for a further shape, which takes up to seconds; whoever comes meanwhile waits.
        most: of the shapes, after which the one that was not asked for longest is given up.
    """

    def __init__(self, first: Runs, another: Callable[[], Runs], most: int = _MOST) -> None:
        self._unused: Runs | None = first
        self._another = another
        self._most = most
        self._by_shape: OrderedDict[tuple[int, ...], Runs] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, batch: Vectors) -> list[Vectors]:
        """The outputs, in the order of the graph."""
        return self._of(batch.shape).run(batch)

    def _of(self, shape: tuple[int, ...]) -> Runs:
        with self._lock:
            runs = self._by_shape.get(shape)
            if runs is None:
                if len(self._by_shape) == self._most:
                    self._by_shape.popitem(last=False)
                runs = self._by_shape[shape] = self._unused or self._another()
                self._unused = None
            self._by_shape.move_to_end(shape)
            return runs
