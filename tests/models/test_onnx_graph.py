"""Foreign ONNX files to plain graphs: the same function in a form that every runtime loads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models import onnx_graph, zoo
from models.errors import InvalidBundleError, SourceError
from models.registry import Registry

SHAPE = [1, 3, 4, 6]
X = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def _value(name: str, shape: list[Any] | None = None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, SHAPE if shape is None else shape)


def _model(nodes: list[Any], constants: dict[str, Any], **parts: Any) -> bytes:
    """An ONNX file with input x and output y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        parts.get("inputs", [_value("x")]),
        parts.get("outputs", [_value("y", ["n", "c", "h", "w"])]),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", parts.get("opset", 21))
    data: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    return data


def _dequantize(**attributes: Any) -> list[Any]:
    """y = x + dequantized w."""
    inputs = ["w", "scale", "zero"] if attributes.pop("zero", True) else ["w", "scale"]
    return [
        helper.make_node("DequantizeLinear", inputs, ["float_w"], **attributes),
        helper.make_node("Add", ["x", "float_w"], ["y"]),
    ]


def _reference(model: bytes, x: Any = X) -> Any:
    return ReferenceEvaluator(onnx.load_model_from_string(model)).run(None, {"x": x})[0]


def _runtime(model: bytes, x: Any = X) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def _graph(model: bytes) -> Any:
    return onnx.load_model_from_string(model).graph


def _operators(model: bytes) -> list[str]:
    return [node.op_type for node in _graph(model).node]


def _bytes(shape: tuple[int, ...], dtype: type, seed: int = 2) -> Any:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def _scales(*shape: int) -> Any:
    return np.random.default_rng(3).uniform(0.01, 0.2, shape).astype(np.float32)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "per tensor": (
        {},
        {"w": _bytes((3, 4, 6), np.int8), "scale": np.float32(0.05), "zero": np.int8(-7)},
    ),
    "per tensor, scale of one element": (
        {"axis": 0},
        {"w": _bytes((3, 4, 6), np.uint8), "scale": _scales(1), "zero": np.array([130], np.uint8)},
    ),
    "per tensor without zero point": ({"zero": False}, {"w": _bytes((3, 4, 6), np.int8), "scale": np.float32(0.05)}),
    "per axis by default": (
        {},
        {"w": _bytes((3, 4, 6), np.int8), "scale": _scales(4), "zero": _bytes((4,), np.int8, 5)},
    ),
    "per axis 0": (
        {"axis": 0},
        {"w": _bytes((3, 4, 6), np.uint8), "scale": _scales(3), "zero": _bytes((3,), np.uint8, 5)},
    ),
    "per axis from the end": (
        {"axis": -1},
        {"w": _bytes((3, 4, 6), np.int8), "scale": _scales(6), "zero": _bytes((6,), np.int8, 5)},
    ),
    "per axis without zero point": ({"axis": 2, "zero": False}, {"w": _bytes((3, 4, 6), np.int8), "scale": _scales(6)}),
    "blocks": (
        {"axis": 2, "block_size": 3},
        {"w": _bytes((3, 4, 6), np.int8), "scale": _scales(3, 4, 2), "zero": _bytes((3, 4, 2), np.int8, 5)},
    ),
    "blocks along the first axis": (
        {"axis": 0, "block_size": 2, "zero": False},
        {"w": _bytes((4, 6), np.int8), "scale": _scales(2, 6)},
    ),
    "blocks from the end": (
        {"axis": -2, "block_size": 2},
        {"w": _bytes((3, 4, 6), np.uint8), "scale": _scales(3, 2, 6), "zero": _bytes((3, 2, 6), np.uint8, 5)},
    ),
    "one value an axis of one dimension": (
        {"axis": 0},
        {"w": _bytes((6,), np.int8), "scale": _scales(6), "zero": _bytes((6,), np.int8, 5)},
    ),
    "a scalar": ({}, {"w": np.int8(5), "scale": np.float32(0.5), "zero": np.int8(1)}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_dequantized_constant_is_folded_to_what_the_reference_computes(name: str) -> None:
    attributes, constants = CASES[name]
    model = _model(_dequantize(**attributes), constants)
    rewritten = onnx_graph.plain(model)
    assert _operators(rewritten) == ["Add"]
    np.testing.assert_array_equal(_reference(rewritten), _reference(model))
    np.testing.assert_allclose(_runtime(rewritten), _runtime(model), rtol=1e-6, atol=1e-6)


def test_a_last_block_that_is_short_takes_the_last_scale() -> None:
    weights, scale = _bytes((3, 4, 6), np.int8), _scales(3, 4, 2)
    model = _model(_dequantize(axis=2, block_size=4, zero=False), {"w": weights, "scale": scale})
    expected = weights.astype(np.float32) * np.concatenate([scale[..., :1]] * 4 + [scale[..., 1:]] * 2, axis=2)
    np.testing.assert_array_equal(_runtime(onnx_graph.plain(model)), X + expected)


def test_a_block_size_on_a_scale_for_the_whole_tensor_is_ignored() -> None:
    # What one quantiser writes on every node, and newer runtimes refuse to load.
    constants = {"w": _bytes((3, 4, 6), np.int8), "scale": _scales(1), "zero": np.array([3], np.int8)}
    model = _model(_dequantize(axis=0, block_size=64), constants)
    expected = X + (constants["w"].astype(np.float32) - 3) * constants["scale"]
    np.testing.assert_array_equal(_runtime(onnx_graph.plain(model)), expected)


def test_a_half_precision_scale_gives_half_precision_weights() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["half_w"]),
        helper.make_node("Cast", ["x"], ["half_x"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["half_x", "half_w"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    model = _model(nodes, {"w": _bytes((3, 4, 6), np.int8), "scale": np.float16(0.05)})
    rewritten = onnx_graph.plain(model)
    assert _operators(rewritten) == ["Cast", "Add", "Cast"]
    np.testing.assert_array_equal(_runtime(rewritten), _runtime(model))


def test_a_reshape_of_a_folded_constant_is_folded_too() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["kernel"]),
        helper.make_node("Conv", ["x", "kernel"], ["y"]),
    ]
    constants = {"w": _bytes((5, 12), np.int8), "scale": np.float32(0.01), "shape": np.int64([0, 3, -1, 2])}
    model = _model(nodes, constants)
    rewritten = onnx_graph.plain(model)
    assert _operators(rewritten) == ["Conv"]
    assert [tensor.name for tensor in _graph(rewritten).initializer] == ["kernel"]
    np.testing.assert_allclose(_reference(rewritten), _reference(model), rtol=1e-5, atol=1e-6)


def test_what_depends_on_the_input_is_left_as_it_is() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["y"]),
    ]
    constants = {"scale": np.float32(0.05), "zero": np.uint8(128), "shape": np.int64([0, 0, 0, 0])}
    model = _model(nodes, constants)
    rewritten = onnx_graph.plain(model)
    assert _operators(rewritten) == ["QuantizeLinear", "DequantizeLinear", "Reshape"]
    np.testing.assert_array_equal(_runtime(rewritten), _runtime(model))


def _branch(name: str, value: str) -> Any:
    output = f"{value}_{name}"
    nodes = [helper.make_node("Identity", [value], [output])]
    return helper.make_graph(nodes, name, [], [_value(output, ["k"])])


def test_constants_that_only_a_branch_reads_stay_in_the_graph() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["d"]),
        helper.make_node("If", ["choice"], ["i"], then_branch=_branch("yes", "k"), else_branch=_branch("no", "d")),
        helper.make_node("Add", ["x", "i"], ["y"]),
    ]
    constants = {
        "w": _bytes((6,), np.int8),
        "scale": np.float32(0.1),
        "choice": np.array(False),
        "k": np.arange(6, dtype=np.float32),
    }
    model = _model(nodes, constants)
    np.testing.assert_array_equal(_runtime(onnx_graph.plain(model)), _runtime(model))


def test_a_constant_that_is_an_output_stays_in_the_graph() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["d"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    outputs = [_value("y", ["n", "c", "h", "w"]), _value("d", [6])]
    model = _model(nodes, {"w": _bytes((6,), np.int8), "scale": np.float32(0.1)}, outputs=outputs)
    session = onnxruntime.InferenceSession(onnx_graph.plain(model), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["d"], {"x": X})[0], _bytes((6,), np.int8) * np.float32(0.1))


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (("DequantizeLinear", {"axis": 5}), {"c": _scales(4)}),
        (("DequantizeLinear", {}), {"c": _scales(4)}),
        (("DequantizeLinear", {"axis": 0}), {"c": _scales(3)}),
        (("DequantizeLinear", {"axis": 0, "block_size": 2}), {"c": _scales(3)}),
        (("DequantizeLinear", {"axis": 0, "block_size": 2}), {"c": _scales(1, 2)}),
        (("Reshape", {}), {"c": np.int64([3, 3])}),
        (("Reshape", {}), {"c": np.int64([4, 0])}),
    ],
    ids=[
        "no such axis",
        "default axis",
        "scales too few",
        "blocks too many",
        "blocks of a matrix",
        "size",
        "dimension",
    ],
)
def test_constants_that_do_not_fit_their_node_are_refused(
    node: tuple[str, dict[str, int]], constants: dict[str, Any]
) -> None:
    operator, attributes = node
    nodes = [
        helper.make_node(operator, ["w", "c"], ["d"], **attributes),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    with pytest.raises(InvalidBundleError, match="does not fit its constants"):
        onnx_graph.plain(_model(nodes, {"w": _bytes((4,), np.int8), **constants}))


def test_weights_and_leftovers_listed_as_inputs_are_unlisted() -> None:
    inputs = [_value("x"), _value("k", [6]), _value("renamed_weight", [7])]
    nodes = [helper.make_node("Add", ["x", "k"], ["y"])]
    model = _model(nodes, {"k": np.arange(6, dtype=np.float32)}, inputs=inputs)
    rewritten = onnx_graph.plain(model)
    assert [value.name for value in _graph(rewritten).input] == ["x"]
    np.testing.assert_array_equal(_runtime(rewritten), X + np.arange(6, dtype=np.float32))


def test_a_graph_with_two_inputs_is_refused_and_they_are_named() -> None:
    nodes = [helper.make_node("Add", ["x", "second"], ["y"])]
    with pytest.raises(InvalidBundleError, match="'x', 'second'"):
        onnx_graph.plain(_model(nodes, {}, inputs=[_value("x"), _value("second")]))


def test_a_graph_without_an_input_is_refused() -> None:
    with pytest.raises(InvalidBundleError, match="one input"):
        onnx_graph.plain(_model([helper.make_node("Identity", ["k"], ["y"])], {"k": X}, inputs=[]))


def test_an_input_that_is_not_a_batch_of_images_is_refused() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {}, inputs=[_value("x", [1, 3])])
    with pytest.raises(InvalidBundleError, match="2 axes"):
        onnx_graph.plain(model)


def test_a_batch_of_one_is_freed_and_height_and_width_are_not() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {}, outputs=[_value("y")])
    rewritten = onnx_graph.plain(model)
    session = onnxruntime.InferenceSession(rewritten, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 4, 6]
    assert session.get_outputs()[0].shape == ["batch", 3, 4, 6]
    assert _runtime(rewritten, np.concatenate([X] * 5)).shape == (5, 3, 4, 6)


def test_a_batch_fixed_at_another_size_stays_fixed() -> None:
    shape = [8, 3, 4, 6]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = _model(nodes, {}, inputs=[_value("x", shape)], outputs=[_value("y", shape)])
    assert _graph(onnx_graph.plain(model)).input[0].type.tensor_type.shape.dim[0].dim_value == 8


def test_a_detector_takes_photos_of_any_size() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {}, outputs=[_value("y")])
    rewritten = onnx_graph.plain(model, free_size=True)
    large = np.ones((1, 3, 32, 64), np.float32)
    np.testing.assert_array_equal(_runtime(rewritten, large), large)


def test_shapes_noted_for_the_old_graph_are_forgotten() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["r"], ["y"])]
    proto = onnx.load_model_from_string(_model(nodes, {}))
    proto.graph.value_info.append(_value("r"))
    assert not _graph(onnx_graph.plain(proto.SerializeToString())).value_info


@pytest.mark.parametrize("name", CASES)
def test_rewriting_gives_the_same_bytes_each_time(name: str) -> None:
    attributes, constants = CASES[name]
    model = _model(_dequantize(**attributes), constants)
    assert onnx_graph.plain(model) == onnx_graph.plain(model)


@pytest.mark.parametrize("name", CASES)
def test_rewriting_twice_changes_nothing_more(name: str) -> None:
    attributes, constants = CASES[name]
    once = onnx_graph.plain(_model(_dequantize(**attributes), constants))
    assert onnx_graph.plain(once) == once


def _with_external_weights(location: str) -> bytes:
    proto = onnx.load_model_from_string(
        _model([helper.make_node("Add", ["x", "k"], ["y"])], {"k": np.zeros(6, np.float32)})
    )
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    data: bytes = proto.SerializeToString()
    return data


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../../etc/passwd"])
def test_weights_in_another_file_are_refused(location: str) -> None:
    with pytest.raises(InvalidBundleError):
        onnx_graph.plain(_with_external_weights(location))


def _external(tensor: Any) -> Any:
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return tensor


def _in_a_constant() -> bytes:
    tensor = _external(numpy_helper.from_array(np.zeros(6, np.float32), "k"))
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    return _model([constant, helper.make_node("Add", ["x", "k"], ["y"])], {})


def _in_a_branch(constant: bool) -> bytes:
    branches = {}
    for name in ("yes", "no"):
        tensor = _external(numpy_helper.from_array(np.zeros(6, np.float32), f"k_{name}"))
        if constant:
            nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor)]
        else:
            nodes = [helper.make_node("Identity", [f"w_{name}"], [tensor.name])]
            tensor.name = f"w_{name}"
        weights = [] if constant else [tensor]
        branches[name] = helper.make_graph(nodes, name, [], [_value(f"k_{name}", ["k"])], weights)
    nodes = [
        helper.make_node("If", ["choice"], ["i"], then_branch=branches["yes"], else_branch=branches["no"]),
        helper.make_node("Add", ["x", "i"], ["y"]),
    ]
    return _model(nodes, {"choice": np.array(False)})


@pytest.mark.parametrize(
    "model", [_in_a_constant, lambda: _in_a_branch(True), lambda: _in_a_branch(False)], ids=["node", "branch", "body"]
)
def test_weights_in_another_file_are_refused_wherever_they_are_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, model: Any
) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(24))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidBundleError, match="one file"):
        onnx_graph.plain(model())


def test_weights_in_a_file_that_is_there_are_refused_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file of that name in the working folder passes ONNX's own check.
    (tmp_path / "weights.bin").write_bytes(bytes(24))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidBundleError, match="one file"):
        onnx_graph.plain(_with_external_weights("weights.bin"))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000), b"<html></html>"]
)
def test_bytes_that_are_no_onnx_file_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InvalidBundleError, match="not a valid ONNX model") as caught:
        onnx_graph.plain(data)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_onnx_file_is_refused(share: float) -> None:
    attributes, constants = CASES["per axis 0"]
    model = _model(_dequantize(**attributes), constants)
    with pytest.raises(InvalidBundleError):
        onnx_graph.plain(model[: int(len(model) * share)])


def _without_idle_inputs(model: bytes) -> Any:
    """The original with nothing changed but its list of inputs, as it does not run with it."""
    proto = onnx.load_model_from_string(model)
    constants = {tensor.name for tensor in proto.graph.initializer}
    used = {name for node in proto.graph.node for name in node.input} - constants
    kept = [value for value in proto.graph.input if value.name in used]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return proto


@pytest.mark.slow
@pytest.mark.parametrize(("model_id", "size"), [("sface-2021dec", 112), ("yunet-2023mar", 640)])
def test_a_default_model_computes_what_its_original_computes(model_id: str, size: int, registry: Any) -> None:
    manifest = zoo.known_manifest(model_id)
    try:
        original = zoo.fetch(manifest.provenance.source)
    except SourceError as error:
        pytest.skip(f"the original cannot be fetched: {error.message}")
    reference = ReferenceEvaluator(_without_idle_inputs(original))
    path = registry.resolve(manifest.kind, model_id).model_path
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(4).uniform(0, 255, (1, 3, size, size)).astype(np.float32)
    expected = reference.run(None, {reference.input_names[0]: x})
    given = session.run(reference.output_names, {session.get_inputs()[0].name: x})
    for ours, theirs in zip(given, expected, strict=True):
        a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) >= 0.9999999
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize("slopes", [(3, 1, 1), (1,), (4, 6)])
def test_prelu_becomes_arithmetic_that_computes_the_same(slopes: tuple[int, ...]) -> None:
    slope = np.random.default_rng(5).uniform(-0.5, 1.5, slopes).astype(np.float32)
    nodes = [helper.make_node("PRelu", ["x", "a"], ["h"]), helper.make_node("PRelu", ["h", "a"], ["y"])]
    model = _model(nodes, {"a": slope})

    rewritten = onnx_graph.without_prelu(model)

    assert _operators(rewritten) == ["Relu", "Mul", "Mul", "Add"] * 2
    np.testing.assert_allclose(_reference(rewritten), _reference(model), atol=1e-6)
    np.testing.assert_allclose(_runtime(rewritten), _reference(model), atol=1e-6)


def test_a_prelu_whose_slopes_are_computed_stays_as_it_is() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("PRelu", ["x", "a"], ["y"])]
    model = _model(nodes, {})

    assert onnx_graph.without_prelu(model) == model


def test_a_network_without_prelu_stays_as_it_is() -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {})

    assert onnx_graph.without_prelu(model) is model


def test_the_default_embedder_gives_the_same_vectors_without_prelu(registry: Registry) -> None:
    model = registry.resolve("embedder").model_path.read_bytes()
    x = np.random.default_rng(6).uniform(0, 255, (2, 3, 112, 112)).astype(np.float32)

    rewritten = onnx_graph.without_prelu(model)

    assert "PRelu" in _operators(model)
    assert "PRelu" not in _operators(rewritten)
    a, b = (
        v.astype(np.float64) / np.linalg.norm(v, axis=1, keepdims=True) for v in map(_vectors_of(x), (model, rewritten))
    )
    np.testing.assert_allclose((a * b).sum(axis=1), 1, atol=1e-6)


def _vectors_of(x: Any) -> Callable[[bytes], Any]:
    return lambda model: onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"data": x})[
        0
    ]
