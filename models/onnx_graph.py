"""Foreign ONNX files to plain graphs that ONNX Runtime takes: float weights, one input, a free batch axis."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from models.errors import InvalidBundleError


def plain(model: bytes, *, free_size: bool = False) -> bytes:
    """Rewrite an ONNX file so that any runtime loads it, without changing what it computes.

    - DequantizeLinear (per tensor, axis or block) and Reshape of constants are folded into float initialisers: older
      ONNX Runtimes refuse block_size on per-tensor nodes, and float weights are the faster ones on a CPU.
    - Graph inputs that are weights, or left over from a quantiser that renamed them, are unlisted: a runtime would ask
      the caller for their values.
    - A batch axis fixed at 1 is freed; with `free_size` also height and width.

    Args:
        model: an ONNX file.
        free_size: for detectors, which take photos of any size.

    Returns:
        The rewritten file; the very same bytes for the same input.

    Raises:
        InvalidBundleError: not an ONNX file, weights outside the file, or not exactly one input.
    """
    proto = _parse(model)
    graph = proto.graph
    _refuse_external_data(proto)
    _fold_constants(graph)
    constants = {tensor.name for tensor in graph.initializer}
    used = _used_names(graph)
    _keep(graph.input, [value for value in graph.input if value.name in used - constants])
    if len(graph.input) != 1:
        raise InvalidBundleError(f"the model must have one input, it has {[value.name for value in graph.input]}")
    _free_axes(graph, free_size)
    del graph.value_info[:]  # shapes of the old graph; runtimes infer their own
    return _serialize(proto)


def without_prelu(model: bytes) -> bytes:
    """The same network with each PRelu of constant slopes a written as a x + (1 - a) relu(x), equal to 1e-6.

    ONNX Runtime runs that on a processor in vectors and fuses it with its neighbours; with PRelu it does neither.

    Returns:
        The rewritten file, or the very same bytes where there is nothing to rewrite.

    Raises:
        InvalidBundleError: not an ONNX file.
    """
    if b"PRelu" not in model:
        return model
    proto = _load(model)
    graph = proto.graph
    slopes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [part for node in graph.node for part in _relu_arithmetic(node, slopes, graph.initializer)]
    if len(nodes) == len(graph.node):
        return model
    _keep(graph.node, nodes)
    return _serialize(proto)


def with_free_batch(model: bytes) -> bytes:
    """The same network for any number of inputs at once, where what keeps it to one are the shapes of Reshape nodes.

    The leading 1 of a constant shape (1, -1, ...) becomes 0, by which ONNX means the size that is there.

    Returns:
        The rewritten file; the very same bytes where the batch is free already.

    Raises:
        InvalidBundleError: not an ONNX file.
    """
    proto = _load(model)
    graph = proto.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    if batch.dim_value != 1:
        return model
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    others = {name for node in graph.node for name in node.input if node.op_type != "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes - others:
            shape = numpy_helper.to_array(tensor)
            if len(shape) > 1 and shape[0] == 1 and shape[1] == -1:
                free = np.concatenate([[0], shape[1:]]).astype(shape.dtype)
                tensor.CopyFrom(numpy_helper.from_array(free, tensor.name))
    for value in (graph.input[0], *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return _serialize(proto)


def _relu_arithmetic(node: Any, slopes: dict[str, Any], constants: Any) -> Iterator[Any]:
    if node.op_type != "PRelu" or node.input[1] not in slopes or slopes[node.input[1]].dtype != np.float32:
        yield node
        return
    x, slope = node.input
    rest, above, linear, bent = (f"{node.output[0]}/{name}" for name in ("rest", "above", "linear", "bent"))
    constants.append(numpy_helper.from_array(np.float32(1) - slopes[slope], rest))
    yield helper.make_node("Relu", [x], [above])
    yield helper.make_node("Mul", [x, slope], [linear])
    yield helper.make_node("Mul", [above, rest], [bent])
    yield helper.make_node("Add", [linear, bent], list(node.output))


def check_whole(model: bytes) -> None:
    """The file has all its weights in itself: a runtime would go and read other files, wherever the model says.

    Raises:
        InvalidBundleError: not an ONNX file, or weights outside the file.
    """
    _refuse_external_data(_load(model))


def _load(model: bytes) -> Any:
    try:
        return onnx.load_model_from_string(model)  # reads nothing but these bytes
    except Exception as error:  # protobuf raises its own
        raise InvalidBundleError(f"this is not an ONNX model: {str(error).splitlines()[0]}") from error


def _parse(model: bytes) -> Any:
    try:
        proto = onnx.load_model_from_string(model)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and the checker each raise their own
        raise InvalidBundleError(f"this is not a valid ONNX model: {str(error).splitlines()[0]}") from error
    return proto


def _serialize(proto: Any) -> bytes:
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _refuse_external_data(proto: Any) -> None:
    tensors = (tensor for part in (proto.graph, *proto.functions) for tensor in _tensors(part))
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise InvalidBundleError("the model keeps its weights in other files; save it as one file")


def _tensors(part: Any) -> Iterator[Any]:
    """All tensors of a graph or function: its initialisers, those in attributes of nodes, and those of their bodies."""
    sparse = []
    if isinstance(part, onnx.GraphProto):
        yield from part.initializer
        sparse += part.sparse_initializer
    for node in part.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse += (attribute.sparse_tensor, *attribute.sparse_tensors)
        for body in _bodies(node):
            yield from _tensors(body)
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _bodies(node: Any) -> Iterator[Any]:
    """The branches and loop bodies of a node."""
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs)


def _keep(repeated: Any, values: list[Any]) -> None:
    kept = [type(value).FromString(value.SerializeToString()) for value in values]
    del repeated[:]
    repeated.extend(kept)


def _fold_constants(graph: Any) -> None:
    values = {tensor.name: tensor for tensor in graph.initializer}
    folded: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("DequantizeLinear", "Reshape") or any(name not in values for name in node.input):
            continue
        arrays = [numpy_helper.to_array(values[name]) for name in node.input]
        try:
            result = _dequantize(node, arrays) if node.op_type == "DequantizeLinear" else _reshape(arrays)
        except (ValueError, IndexError) as error:
            raise InvalidBundleError(
                f"{node.op_type} {node.output[0]!r} does not fit its constants: {error}"
            ) from error
        values[node.output[0]] = numpy_helper.from_array(np.asarray(result, order="C"), node.output[0])
        folded.add(node.output[0])
    if folded:
        _keep(graph.node, [node for node in graph.node if node.output[0] not in folded])
        used = _used_names(graph)
        _keep(graph.initializer, [tensor for name, tensor in sorted(values.items()) if name in used])


def _used_names(graph: Any) -> set[str]:
    """Names that a graph reads, in the branches and loop bodies of its nodes too, or gives out."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for body in _bodies(node):
            names |= _used_names(body)
    return names


def _reshape(arrays: list[Any]) -> Any:
    data, shape = arrays
    return data.reshape([data.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def _dequantize(node: Any, arrays: list[Any]) -> Any:
    """(x - zero_point) * scale with scales per tensor, axis or block (ONNX operator DequantizeLinear, version 21)."""
    x, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 else np.zeros(scale.shape, x.dtype)
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    factor, offset = (_spread(part.astype(np.float32), x.shape, axis, block) for part in (scale, zero))
    return ((x.astype(np.float32) - offset) * factor).astype(scale.dtype)


def _spread(part: Any, shape: tuple[int, ...], axis: int, block: int) -> Any:
    if part.ndim == 0 or part.size == 1:
        return part.reshape(())
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"there is no axis {axis} in {len(shape)}")
    if block and part.ndim == len(shape):
        if -(-shape[axis] // block) != part.shape[axis]:
            raise ValueError(f"{part.shape[axis]} blocks of {block} for an axis of {shape[axis]}")
        return np.repeat(part, block, axis=axis).take(range(shape[axis]), axis=axis)
    return part.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def _free_axes(graph: Any, free_size: bool) -> None:
    batch = graph.input[0].type.tensor_type.shape.dim
    if len(batch) != 4:
        raise InvalidBundleError(f"the model's input must be (N, 3, height, width), it has {len(batch)} axes")
    if free_size:
        batch[2].dim_param, batch[3].dim_param = "height", "width"
        for value in graph.output:
            shape = value.type.tensor_type.shape
            for axis, dim in enumerate(shape.dim[1:-1]):  # (1, anchors, values): their number follows the photo
                dim.dim_param = f"{value.name}_{axis}"
        return
    for value in (graph.input[0], *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and dims[0].dim_value == 1:
            dims[0].dim_param = "batch"
