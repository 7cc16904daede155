"""Weights of a bundle into a network that is to be trained further, whoever exported the bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.backbones.activation import PReLU
from training.backbones.onnx_layers import Array, OnnxLayer, Weights, constants, onnx_layers, read_onnx

_KINDS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Conv2d,), "convolution"),
    ((nn.Linear,), "fully connected"),
    ((nn.BatchNorm1d, nn.BatchNorm2d), "batch norm"),
    ((PReLU, nn.PReLU), "PReLU"),
)
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    kind: str
    module: nn.Module

    def parameter(self, name: str) -> str:
        return f"{self.name}.{name}"

    @property
    def has_bias(self) -> bool:
        return getattr(self.module, "bias", None) is not None


def load_bundle_weights(module: nn.Module, onnx_path: Path) -> None:
    """Copy the weights of an ONNX file into a network that computes the same.

    A file that was exported from such a network names its weights as the network does. Of any other, the layers are
    taken in the order in which they are run, and the network's in the order in which they are registered; batch norm
    that was folded into the layer before it becomes one that changes nothing.

    Args:
        module: the network; it is changed only if everything fits.
        onnx_path: the file.

    Raises:
        ValueError: it cannot be read, or is another network: the first layer that does not fit is named.
    """
    graph = read_onnx(onnx_path).graph
    weights = constants(graph)
    state = _by_name(module, weights) if _is_own(module, graph) else _by_order(module, onnx_layers(graph, weights))
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(torch.from_numpy(np.array(value, np.float32)))


def _is_own(module: nn.Module, graph: Any) -> bool:
    """Most names are the same; a few may be by chance, and a few differ between two depths of one network."""
    ours = {name for name in module.state_dict() if not name.endswith(_COUNTER)}
    theirs = {tensor.name for tensor in graph.initializer}
    return 2 * len(ours & theirs) > min(len(ours), len(theirs))


def _by_name(module: nn.Module, weights: Weights) -> Weights:
    for name, value in module.state_dict().items():
        if name.endswith(_COUNTER):
            continue
        if name not in weights:
            raise ValueError(f"{name}: the network has {_shape(value.shape)}, the file nothing of that name")
        if weights[name].shape != tuple(value.shape):
            raise _misfit(name, _shape(value.shape), _shape(weights[name].shape))
    return {name: weights[name] for name in module.state_dict() if name in weights}


def _by_order(module: nn.Module, theirs: list[OnnxLayer]) -> Weights:
    state: dict[str, Array] = {}
    ours = _layers(module)
    remaining = iter(theirs)
    folded = False
    for layer, following in zip(ours, [*ours[1:], None], strict=True):
        if folded:  # the layer before this batch norm has taken it in
            folded = False
            continue
        source = _checked(layer, next(remaining, None))
        if layer.kind == "batch norm":
            state |= _batch_norm(layer, source)
        elif layer.kind == "PReLU":
            state[layer.parameter("weight")] = source.arrays[0]
        else:
            norm = following if following and following.kind == "batch norm" and not source.normalised else None
            folded = norm is not None
            state |= _linear(layer, source, norm)
    if (left := next(remaining, None)) is not None:
        raise _misfit("after the last layer", "nothing", _described(left))
    return state


def _layers(module: nn.Module) -> list[_Layer]:
    return [
        _Layer(name, kind, layer)
        for name, layer in module.named_modules()
        for types, kind in _KINDS
        if isinstance(layer, types)
    ]


def _checked(layer: _Layer, source: OnnxLayer | None) -> OnnxLayer:
    shape = tuple(layer.module.get_parameter("weight").shape)
    stride = layer.module.stride if isinstance(layer.module, nn.Conv2d) else None
    wanted = _text(layer.kind, shape, stride)
    if source is None:
        raise _misfit(layer.name, wanted, "no more layers")
    if wanted != _described(source):
        raise _misfit(layer.name, wanted, _described(source))
    return source


def _batch_norm(layer: _Layer, source: OnnxLayer) -> Mapping[str, Array]:
    assert isinstance(layer.module, nn.BatchNorm1d | nn.BatchNorm2d)
    scale, bias, mean, variance = source.arrays
    # What is added to the variance may differ, and is no weight: the variance makes up for it.
    return _normalisation(layer, scale, bias, mean, variance + (source.eps - layer.module.eps))


def _normalisation(layer: _Layer, *arrays: Array) -> Mapping[str, Array]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {layer.parameter(name): array for name, array in zip(names, arrays, strict=True)}


def _linear(layer: _Layer, source: OnnxLayer, norm: _Layer | None) -> Mapping[str, Array]:
    """A convolution or fully connected layer; `norm` is the batch norm that was folded into it."""
    weight = source.arrays[0]
    bias = source.arrays[1] if len(source.arrays) > 1 else np.zeros(len(weight), np.float32)
    state = {layer.parameter("weight"): weight}
    if layer.has_bias:
        state[layer.parameter("bias")] = bias
        bias = np.zeros_like(bias)
    if norm is not None:
        assert isinstance(norm.module, nn.BatchNorm1d | nn.BatchNorm2d)
        one, zero = np.ones_like(bias), np.zeros_like(bias)
        state |= _normalisation(norm, one, bias, zero, one - np.float32(norm.module.eps))
    elif bias.any():
        raise _misfit(layer.name, f"{layer.kind} without bias", f"{layer.kind} with bias")
    return state


def _described(source: OnnxLayer) -> str:
    return _text(source.kind, source.arrays[0].shape, source.stride)


def _text(kind: str, shape: tuple[int, ...], stride: object) -> str:
    return f"{kind} {_shape(shape)}" + (f" of stride {stride}" if stride else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one value"


def _misfit(name: str, ours: str, theirs: str) -> ValueError:
    return ValueError(f"{name}: the network has {ours}, the file {theirs}")
