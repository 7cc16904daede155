"""Some rows of a large array, read when they are asked for."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

# A selection of a memory-mapped array is a copy in memory. Past this many bytes it stays a selection.
_COPY_BELOW = 2**30


class Rows:
    """Looks like array[rows] as far as shape, length, indexing and np.asarray go, and copies only what is indexed."""

    def __init__(self, array: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        self._array = array
        self._rows = rows
        self.shape = (len(rows), *array.shape[1:])
        self.dtype = array.dtype
        self.ndim = array.ndim
        self.size = int(np.prod(self.shape))
        self.nbytes = self.size * array.itemsize
        self.itemsize = array.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if first is Ellipsis or first is None:
            raise IndexError("only rows can be picked first in a selection of this size")
        picked = self._array[self._rows[first]]
        return picked[(slice(None), *rest)] if np.ndim(self._rows[first]) else picked[rest]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self._array[row] for row in self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._array[self._rows], dtype=dtype)


def take(array: NDArray[np.uint8], rows: NDArray[np.int64], copy_below: int = _COPY_BELOW) -> NDArray[np.uint8]:
    """array[rows]: a copy where it is small, `Rows` where it would fill the memory."""
    if isinstance(array, Rows):
        array, rows = array._array, array._rows[rows]
    if len(rows) * int(np.prod(array.shape[1:])) < copy_below:
        return np.ascontiguousarray(array[rows])
    return cast(NDArray[np.uint8], Rows(array, rows))
