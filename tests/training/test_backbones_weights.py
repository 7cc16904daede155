"""Weights out of ONNX files into networks, and PReLU as it is exported."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models.registry import Registry
from training.backbones import build
from training.backbones.activation import PReLU
from training.backbones.weights import load_bundle_weights

SIZE = (32, 24)
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("sphereface", {"depth": 10, "width": 0.125}),
    ("sphereface", {"depth": 10, "width": 0.125, "batch_norm": True}),
    ("mobilenet", {"width": 0.125}),
    ("mobilenet", {"width": 0.125, "head": "gdc"}),
    ("mobilenet", {"width": 0.125, "head": "projected", "rank": 4}),
    ("mobilefacenet", {"width": 0.25}),
    ("iresnet", {"depth": 18, "width": 0.125}),
    ("lnet", {}),
    ("mnist", {"width": 0.125}),
]
each_network = pytest.mark.parametrize(("name", "params"), NETWORKS, ids=[f"{n}-{p}" for n, p in NETWORKS])


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _trained(name: str, params: dict[str, Any], seed: int) -> nn.Module:
    """As after training: batch norm has seen something, slopes and biases are no longer what they began with."""
    torch.manual_seed(seed)
    network = build(name, 6, SIZE, **params)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features) * 0.1
            layer.running_var = torch.rand(layer.num_features) + 0.5
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += torch.rand_like(parameter) * 0.2
    return network.eval()


def _export(network: nn.Module, path: Path, *, fused: bool = False, size: tuple[int, int] = SIZE) -> Path:
    mode = torch.onnx.TrainingMode.EVAL if fused else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, *size),),
        str(path),
        dynamo=False,
        opset_version=17,
        training=mode,
        do_constant_folding=fused,
    )
    return path


def _with_foreign_prelu(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, PReLU):
            foreign = nn.PReLU(len(child.weight))
            foreign.load_state_dict(child.state_dict())
            setattr(module, name, foreign)
        _with_foreign_prelu(child)


def _rename(path: Path) -> None:
    """Give every weight a name that says nothing."""
    proto = onnx.load(str(path))
    names = {tensor.name: f"w{number}" for number, tensor in enumerate(proto.graph.initializer)}
    for tensor in proto.graph.initializer:
        tensor.name = names[tensor.name]
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(proto, str(path))


def _run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return result


def _same(first: nn.Module, second: nn.Module) -> None:
    images = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        ours, theirs = first.eval()(images), second.eval()(images)
    scale = theirs.abs().max()
    torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-4)


def test_mobilenet_with_the_weights_of_sface_gives_the_vectors_of_sface(registry: Registry) -> None:
    path = registry.resolve("embedder", "sface-2021dec").model_path
    network = build("mobilenet", 128, (112, 112))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 112, 112)).astype(np.float32)

    load_bundle_weights(network, path)

    with torch.no_grad():
        ours = network.eval()(torch.from_numpy((pixels - 127.5) / 128)).numpy()  # its graph normalises inside
    np.testing.assert_allclose(ours, _run(path, pixels), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "dimension", "params", "line"),
    [
        ("mobilenet", (112, 112), 64, {}, "fc: the network has fully connected 64x50176, the file .* 128x50176"),
        ("mobilenet", (112, 96), 128, {}, "fc: the network has fully connected 128x43008, the file .* 128x50176"),
        ("mobilenet", (112, 112), 128, {"width": 0.5}, r"body.0.0: .* convolution 16x3x3x3 .* convolution 32x3x3x3"),
        ("mobilenet", (112, 112), 128, {"head": "gdc"}, "gdc.0: .* 1024x1x7x7 .*, the file batch norm 1024"),
        ("lnet", (112, 112), 128, {}, r"body.0: .* 32x3x5x5 of stride \(1, 1\), the file convolution 32x3x3x3"),
        ("sphereface", (112, 112), 128, {}, r"body.0.0: .* 64x3x3x3 of stride \(2, 2\), the file convolution 32x3x3x3"),
    ],
)
def test_the_first_layer_that_does_not_fit_is_named(
    registry: Registry, name: str, size: tuple[int, int], dimension: int, params: dict[str, Any], line: str
) -> None:
    with torch.device("meta"):
        network = build(name, dimension, size, **params)

    with pytest.raises(ValueError, match=line):
        load_bundle_weights(network, registry.resolve("embedder", "sface-2021dec").model_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
class TestExported:
    """Torch warns of its older exporter."""

    @each_network
    def test_a_network_of_our_own_is_loaded_by_name(self, name: str, params: dict[str, Any], tmp_path: Path) -> None:
        trained, fresh = _trained(name, params, 0), _trained(name, params, 1)
        path = _export(trained, tmp_path / "own.onnx")
        assert "PRelu" not in {node.op_type for node in onnx.load(str(path)).graph.node}

        load_bundle_weights(fresh, path)

        own = fresh.state_dict()
        assert all(torch.equal(value, own[key]) for key, value in trained.state_dict().items())
        images = np.random.default_rng(0).standard_normal((2, 3, *SIZE)).astype(np.float32)
        with torch.no_grad():
            np.testing.assert_allclose(_run(path, images), fresh(torch.from_numpy(images)), rtol=1e-3, atol=1e-4)

    @each_network
    @pytest.mark.parametrize("fused", [False, True], ids=["normalising", "folded"])
    def test_a_foreign_network_is_loaded_layer_by_layer(
        self, name: str, params: dict[str, Any], fused: bool, tmp_path: Path
    ) -> None:
        trained, fresh = _trained(name, params, 0), _trained(name, params, 1)
        _with_foreign_prelu(trained)
        path = _export(trained, tmp_path / "foreign.onnx", fused=fused)
        _rename(path)

        load_bundle_weights(fresh, path)

        _same(fresh, trained)

    def test_batch_norm_that_was_folded_changes_nothing_and_can_be_trained(self, tmp_path: Path) -> None:
        trained, fresh = _trained(*NETWORKS[1], 0), _trained(*NETWORKS[1], 1)
        _with_foreign_prelu(trained)

        load_bundle_weights(fresh, _export(trained, tmp_path / "folded.onnx", fused=True))

        norm = next(layer for layer in fresh.modules() if isinstance(layer, nn.BatchNorm2d))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert (norm.weight == 1).all()
        assert not norm.running_mean.any()
        torch.testing.assert_close(norm.running_var, torch.full_like(norm.running_var, 1 - norm.eps))
        assert norm.bias.any()

    def test_what_is_added_to_the_variance_may_differ(self, tmp_path: Path) -> None:
        trained, fresh = _trained(*NETWORKS[1], 0), _trained(*NETWORKS[1], 1)
        _with_foreign_prelu(trained)
        for layer in trained.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 1e-2
        path = _export(trained, tmp_path / "other.onnx")
        _rename(path)

        load_bundle_weights(fresh, path)

        _same(fresh, trained)

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ({"width": 0.25}, "body.0.0.weight: the network has 16x3x3x3, the file 8x3x3x3"),
            ({"depth": 36}, "body.2.first.0.weight: the network has 8x8x3x3, the file nothing of that name"),
        ],
    )
    def test_another_size_of_our_own_network_is_refused_by_name(
        self, change: dict[str, Any], line: str, tmp_path: Path
    ) -> None:
        params = {"depth": 20, "width": 0.125}
        path = _export(_trained("sphereface", params, 0), tmp_path / "own.onnx")

        with pytest.raises(ValueError, match=line):
            load_bundle_weights(build("sphereface", 6, SIZE, **(params | change)), path)

    def test_more_layers_than_the_network_has_are_refused(self, tmp_path: Path) -> None:
        longer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1))
        path = _export(longer, tmp_path / "longer.onnx")
        _rename(path)

        with pytest.raises(ValueError, match="after the last layer: the network has nothing, the file conv"):
            load_bundle_weights(nn.Sequential(nn.Conv2d(3, 4, 3)), path)
        with pytest.raises(ValueError, match="2: the network has fully connected 2x5, the file no more layers"):
            load_bundle_weights(nn.Sequential(*longer, nn.Linear(5, 2)), path)

    def test_a_network_that_does_not_fit_is_not_changed(self, tmp_path: Path) -> None:
        path = _export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)), tmp_path / "other.onnx")
        _rename(path)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1))
        before = {key: value.clone() for key, value in network.state_dict().items()}

        with pytest.raises(ValueError, match=r"^1: .* convolution 6x4x1x1 .*, the file convolution 5x4x1x1"):
            load_bundle_weights(network, path)

        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    def test_a_bias_that_the_network_has_no_place_for_is_refused(self, tmp_path: Path) -> None:
        path = _export(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "biased.onnx")
        _rename(path)

        with pytest.raises(ValueError, match="0: the network has convolution without bias, the file convolution with"):
            load_bundle_weights(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False)), path)

    def test_prelu_is_exported_as_arithmetic_and_equal(self, tmp_path: Path) -> None:
        layer = PReLU(5)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([-0.5, 0.0, 0.25, 1.0, 2.0]))
        images = np.random.default_rng(0).standard_normal((2, 5, 8, 6)).astype(np.float32)
        network = nn.Sequential(nn.Conv2d(3, 5, 1), layer)
        del network[0]
        path = tmp_path / "prelu.onnx"
        torch.onnx.export(network, (torch.from_numpy(images),), str(path), dynamo=False, opset_version=17)

        kinds = {node.op_type for node in onnx.load(str(path)).graph.node}

        assert "PRelu" not in kinds
        assert "Relu" in kinds
        with torch.no_grad():
            np.testing.assert_allclose(_run(path, images), layer(torch.from_numpy(images)), rtol=1e-6, atol=1e-6)


def test_prelu_has_the_values_and_the_gradient_of_its_definition() -> None:
    layer = PReLU(4).double()
    x = torch.randn(3, 4, 5, 2, dtype=torch.float64, requires_grad=True)

    torch.testing.assert_close(layer(x), torch.where(x > 0, x, 0.25 * x))
    assert torch.autograd.gradcheck(layer, (x,))
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.detach().clamp(max=0).sum(dim=(0, 2, 3)))


def _constant(name: str, values: NDArray[Any]) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values.astype(np.float32), name))


def test_weights_that_are_transposed_scaled_or_constants_within_the_graph_are_read(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.standard_normal((3 * 4, 5)), generator.standard_normal(5)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        _constant("w", weight),
        _constant("b", bias),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], alpha=0.5, beta=2.0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 5])],
    )
    path = tmp_path / "gemm.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

    load_bundle_weights(network, path)

    images = generator.standard_normal((2, 3, 2, 2)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(images)), _run(path, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("write", [lambda path: None, lambda path: path.write_bytes(b"this is no model" * 9)])
def test_a_file_that_is_no_model_is_named_in_the_error(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "model.onnx"
    write(path)

    with pytest.raises(ValueError, match=r"cannot read weights from .*model\.onnx: "):
        load_bundle_weights(build("lnet", 2, (28, 28)), path)
