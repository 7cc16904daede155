"""Runs over memory of the device that stays where it is, which is what CUDA graphs need.

A graph is what was launched in one run, recorded, and launched again as a whole: of a small network most of the time is
the launching. It reads and writes the very addresses of the run that was recorded, so each shape of input has a place
of its own for what goes in and comes out.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from models.preprocess import Vectors

# A place keeps its memory, and its graph, for ever. On CUDA a session is given one shape (shapes.py), and so has one.
_MOST_PLACES = 16
_UNRECORDED = -1


@dataclass(frozen=True, slots=True)
class _Place:
    binding: Any
    input: Any
    outputs: list[Any]
    options: Any


class BoundRuns:
    """Runs a session, one run at a time. May be called from several threads.

    Args:
        session: of ONNX Runtime, with one input.
        device: `cuda`; or `cpu`, where nothing is recorded and nothing gained.
    """

    def __init__(self, session: Any, device: str) -> None:
        self._session = session
        self._device = device
        self._input: str = session.get_inputs()[0].name
        self._outputs: list[str] = [each.name for each in session.get_outputs()]
        self._places: dict[tuple[int, ...], _Place] = {}
        self._lock = threading.Lock()

    def run(self, batch: Vectors) -> list[Vectors]:
        """The outputs, in the order of the graph."""
        batch = np.ascontiguousarray(batch)
        with self._lock:
            place = self._places.get(batch.shape)
            if place is None:
                outputs: list[Vectors] = self._session.run(None, {self._input: batch}, _recorded_as(_UNRECORDED))
                if len(self._places) < _MOST_PLACES:
                    self._places[batch.shape] = self._new_place(batch, outputs)
                return outputs
            place.input.update_inplace(batch)
            self._session.run_with_iobinding(place.binding, place.options)
            return [np.array(each.numpy()) for each in place.outputs]  # the next run writes there again

    def _new_place(self, batch: Vectors, outputs: list[Vectors]) -> _Place:
        entry, exits = self._like(batch), [self._like(each) for each in outputs]
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, entry)
        for name, each in zip(self._outputs, exits, strict=True):
            binding.bind_ortvalue_output(name, each)
        return _Place(binding, entry, exits, _recorded_as(len(self._places) + 1))

    def _like(self, values: Vectors) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(values.shape, values.dtype.type, self._device, 0)


def _recorded_as(number: int) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
