"""The layers with weights of an ONNX graph, in the order in which they are run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

_KINDS = {
    "Conv": "convolution",
    "Gemm": "fully connected",
    "BatchNormalization": "batch norm",
    "PRelu": "PReLU",
}
_DEFAULT_EPS = 1e-5  # of ONNX


@dataclass(frozen=True, slots=True)
class OnnxLayer:
    """A node with its weights, shaped as torch has them.

    arrays: convolution (out, in / groups, h, w) and fully connected (out, in), each followed by its bias (out,) if it
    has one; batch norm scale, bias, mean, variance, each (C,); PReLU slopes (C,).
    stride: of a convolution. normalised: batch norm reads its output.
    """

    kind: str
    arrays: tuple[Array, ...]
    eps: float
    stride: tuple[int, ...] | None
    normalised: bool


def read_onnx(path: Path) -> Any:
    """The parsed file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf raises its own, which are no OSError
        raise ValueError(f"cannot read weights from {path}: {str(error).splitlines()[0]}") from error


def constants(graph: Any) -> Weights:
    """Every constant of floating point by name: initialisers, Constant nodes, and those that other nodes pass on.

    Slopes of PReLU pass through Unsqueeze in torch's exports; their shape is made right where they are used.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in ("Identity", "Unsqueeze") and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    return {name: value.astype(np.float32) for name, value in values.items() if value.dtype.kind == "f"}


def onnx_layers(graph: Any, weights: Weights) -> list[OnnxLayer]:
    """Convolutions, fully connected layers, batch norms and PReLUs of constant weights; all else is passed by."""
    normed = {node.input[0] for node in graph.node if node.op_type == "BatchNormalization"}
    return [
        _layer(node, [weights[name] for name in node.input[1:] if name], node.output[0] in normed)
        for node in graph.node
        if node.op_type in _KINDS and all(name in weights for name in node.input[1:] if name)
    ]


def _layer(node: Any, arrays: list[Array], normalised: bool) -> OnnxLayer:
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    stride = None
    if node.op_type == "Conv":
        stride = tuple(attributes.get("strides", [1] * (arrays[0].ndim - 2)))
    elif node.op_type == "Gemm":
        arrays = _fully_connected(arrays, attributes)
    elif node.op_type == "PRelu":
        arrays = [arrays[0].reshape(-1)]
    eps = float(attributes.get("epsilon", _DEFAULT_EPS))
    return OnnxLayer(_KINDS[node.op_type], tuple(arrays), eps, stride, normalised)


def _fully_connected(arrays: list[Array], attributes: Mapping[str, Any]) -> list[Array]:
    """Gemm computes alpha x W + beta b, with W transposed if transB says so."""
    weight = arrays[0] * np.float32(attributes.get("alpha", 1.0))
    biases = [each.reshape(-1) * np.float32(attributes.get("beta", 1.0)) for each in arrays[1:]]
    return [weight if attributes.get("transB", 0) else weight.T, *biases]
