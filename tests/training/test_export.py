"""A trained network to a bundle: weights keep their names, and the service computes what torch computes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from photos import ROOT
from torch import Tensor, nn

from models import bundle as bundles
from models.bundle import InputSpec, Manifest
from models.errors import InvalidBundleError
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder
from training.export.bundle import make_manifest, write_bundle
from training.export.errors import ExportError
from training.export.onnx import export_onnx
from training.export.parity import check_rates, check_vectors, noise_crops, torch_vectors

HEIGHT, WIDTH, DIMENSION = 28, 24, 8
SPEC = InputSpec(width=WIDTH, height=HEIGHT, channels="bgr", mean=(127.5, 120, 110), std=(128, 64, 32))
CROPS = noise_crops(SPEC, 9)


class Tiny(nn.Module):
    """Convolutions with normalisation and PReLU, a residual, a linear layer with normalisation behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.PReLU(8), nn.Dropout(0.5))
        self.linear = nn.Linear(8 * (HEIGHT // 4) * (WIDTH // 4), DIMENSION)
        self.norm = nn.BatchNorm1d(DIMENSION)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, D)."""
        x = self.stem(x)
        x = nn.functional.avg_pool2d(x + self.block(x), 2)
        y: Tensor = self.norm(self.linear(x.flatten(1)))
        return y


class Constant(Tiny):
    """Has taken the size of its example batch for a constant, which a trace does not notice."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, D)."""
        y = super().forward(x)
        if torch.onnx.is_in_onnx_export():
            return y.reshape(-1)[: 2 * DIMENSION].reshape(2, DIMENSION)
        return y


class Forked(Tiny):
    """Computes something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, D)."""
        y = super().forward(x)
        return y + y.flip(1) if torch.onnx.is_in_onnx_export() else y


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _network(kind: Callable[[], nn.Module] = Tiny, warm: bool = True) -> nn.Module:
    """Random weights, and running means and variances as after some training."""
    torch.manual_seed(0)
    network = kind()
    for module in network.modules():
        if warm and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.uniform_(-1, 1)
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.2, 3)  # type: ignore[union-attr]
    return network.eval()


def _manifest(model: bytes, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "id": "tiny",
        "input": SPEC,
        "template": "sphereface",
        "dimension": DIMENSION,
        "architecture": "tiny",
        "licence": {"spdx": "Apache-2.0", "commercial_use": True},
        "provenance": {"origin": "a test"},
        "metrics": {"accuracy": 0.987654},
    }
    return make_manifest(model, **{**fields, **changes})


def _embedder(folder: Path, module: nn.Module, **changes: Any) -> Embedder:
    model = export_onnx(module, (HEIGHT, WIDTH))
    written = write_bundle(folder / "bundle", model, _manifest(model, **changes))
    return Embedder(Session(written.model_path, SessionOptions("cpu")), written.manifest)


def _weights(model: bytes) -> dict[str, np.ndarray[Any, Any]]:
    graph = onnx.load_model_from_string(model).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.mark.parametrize("warm", [True, False], ids=["trained", "fresh"])
def test_every_weight_is_in_the_file_under_its_own_name(warm: bool) -> None:
    network = _network(warm=warm)  # of a fresh one many tensors are equal, which the exporter would share
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}

    weights = _weights(export_onnx(network, (HEIGHT, WIDTH)))

    assert set(weights) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(weights[name], value.numpy(), err_msg=name)


def test_normalisation_stays_and_what_is_for_training_only_is_left_out() -> None:
    graph = onnx.load_model_from_string(export_onnx(_network(), (HEIGHT, WIDTH))).graph
    operators = [node.op_type for node in graph.node]

    assert operators.count("BatchNormalization") == 3
    assert "Dropout" not in operators
    assert "Identity" not in operators
    assert [len(node.output) for node in graph.node if node.op_type == "BatchNormalization"] == [1, 1, 1]


def test_input_and_output_have_their_names_and_a_free_batch_axis() -> None:
    proto = onnx.load_model_from_string(export_onnx(_network(), (HEIGHT, WIDTH)))
    (given,), (made,) = proto.graph.input, proto.graph.output
    onnx.checker.check_model(proto, full_check=True)

    assert (given.name, made.name) == ("input", "embedding")
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 3, HEIGHT, WIDTH]
    assert [d.dim_param or d.dim_value for d in made.type.tensor_type.shape.dim] == ["batch", DIMENSION]
    assert proto.opset_import[0].version >= 17


def test_exporting_twice_gives_the_same_bytes_and_leaves_the_network_as_it_was() -> None:
    network = _network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    first, second = export_onnx(network, (HEIGHT, WIDTH)), export_onnx(network, (HEIGHT, WIDTH))

    assert first == second
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_network_in_training_or_of_half_precision_is_exported_as_it_serves() -> None:
    network = _network()
    plain = export_onnx(network, (HEIGHT, WIDTH))

    assert export_onnx(_network().train(), (HEIGHT, WIDTH)) == plain
    halved = _weights(export_onnx(_network().bfloat16(), (HEIGHT, WIDTH)))
    assert {value.dtype for value in halved.values()} == {np.dtype(np.float32)}


def test_the_newer_exporter_and_its_package_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("onnxscript", "onnx_ir")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # importing it fails, as where it is not installed

    assert export_onnx(_network(), (HEIGHT, WIDTH))


def test_a_network_that_does_not_take_the_size_is_refused_in_one_line() -> None:
    with pytest.raises(ExportError, match="cannot be exported for 40 x 40 input") as caught:
        export_onnx(_network(), (40, 40))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("count", [1, 2, 7, 9])
@pytest.mark.parametrize("mirror", [False, True])
def test_the_service_computes_what_torch_computes(tmp_path: Path, count: int, mirror: bool) -> None:
    network = _network()
    embedder = _embedder(tmp_path, network, mirror=mirror)
    # By hand, in float64 and another order of operations than the functions under test.
    pixels = np.stack(CROPS[:count])[..., ::-1].astype(np.float64)
    x = torch.from_numpy(((pixels - SPEC.mean) / SPEC.std).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        wide = _network().double()
        raw = wide(x) + (wide(x.flip(3)) if mirror else 0)
    expected = nn.functional.normalize(raw).numpy()

    np.testing.assert_allclose(embedder.embed(CROPS[:count]), expected, atol=2e-6)
    np.testing.assert_allclose(torch_vectors(network, embedder.manifest, CROPS[:count]), expected, atol=2e-6)


def test_parity_of_an_honest_export_is_stated(tmp_path: Path) -> None:
    network = _network()

    assert 1 - 1e-5 < check_vectors(network, _embedder(tmp_path, network), CROPS) < 1 + 1e-5


@pytest.mark.parametrize("given", [1, 3])
def test_fewer_crops_than_the_largest_batch_are_taken_more_than_once(tmp_path: Path, given: int) -> None:
    network = _network()

    assert check_vectors(network, _embedder(tmp_path, network), CROPS[:given]) > 0.9999


def test_a_batch_axis_that_was_taken_for_a_constant_is_found_and_the_batch_is_named(tmp_path: Path) -> None:
    network = _network(Constant)

    with pytest.raises(ExportError, match="batch of 1 "):
        check_vectors(network, _embedder(tmp_path, network), CROPS)


def test_an_export_that_computes_something_else_is_refused_with_batch_and_cosine(tmp_path: Path) -> None:
    network = _network(Forked)

    with pytest.raises(ExportError, match=r"batch of 1 .* cosine of only -?0\.\d{6}"):
        check_vectors(network, _embedder(tmp_path, network), CROPS)


def test_weights_that_moved_a_little_are_refused(tmp_path: Path) -> None:
    network = _network()
    embedder = _embedder(tmp_path, network)
    with torch.no_grad():
        network.linear.weight.mul_(1 + 0.05 * torch.randn_like(network.linear.weight))  # type: ignore[union-attr, arg-type, operator]

    with pytest.raises(ExportError, match="cosine"):
        check_vectors(network, embedder, CROPS)


def test_both_sides_are_fed_the_same_channel_order_and_scale(tmp_path: Path) -> None:
    """A manifest that is wrong about the input is wrong for both: parity is about the graph, not about the manifest."""
    network, other = _network(), SPEC.model_copy(update={"channels": "rgb"})

    assert check_vectors(network, _embedder(tmp_path, network, input=other), CROPS) > 0.9999


def _vectors(spread: float, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """60 people with three vectors each; `spread` is what tells those apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(60, dtype=np.int32), 3)
    centres = rng.normal(size=(60, 16))[labels]
    vectors = centres + spread * rng.normal(size=centres.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_vectors_that_differ_by_rounding_accept_the_same_pairs() -> None:
    vectors, labels = _vectors(0.6)
    other = vectors * (1 + np.float32(1e-7) * np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32))

    counts = check_rates(vectors, other, labels)

    assert list(counts) == [1e-2, 1e-3]
    assert all(abs(a - b) <= 1 and 0 < a < 180 for a, b in counts.values())


def test_vectors_of_another_network_are_refused_with_rate_and_both_numbers() -> None:
    vectors, labels = _vectors(0.6)

    with pytest.raises(ExportError, match=r"at FMR 0.01 torch accepts \d+ of 180 genuine pairs, the exported file \d+"):
        check_rates(vectors, _vectors(0.7)[0], labels)


def test_the_bundle_is_taken_by_a_registry_and_resolved_with_its_card(tmp_path: Path) -> None:
    model = export_onnx(_network(), (HEIGHT, WIDTH))
    written = write_bundle(tmp_path / "bundle", model, _manifest(model), {"data": "made up"})
    registry = Registry(tmp_path / "models")

    registry.add(written.model_path.read_bytes(), written.manifest, written.card())
    registry.promote("tiny")

    found = registry.resolve("embedder")
    assert found.manifest == written.manifest == bundles.load(tmp_path / "bundle").manifest
    assert found.card() == written.card()
    vectors = Embedder(Session(found.model_path, SessionOptions("cpu")), found.manifest).embed(CROPS)
    assert vectors.shape == (9, DIMENSION)


def test_the_card_says_what_the_manifest_says(tmp_path: Path) -> None:
    model = export_onnx(_network(), (HEIGHT, WIDTH))
    manifest = _manifest(model, mirror=True, metrics={"accuracy": 0.987654, "bytes": 12345678})
    facts = {"data": "made up", "teacher": "", "loss": "a|b\n| c"}
    card = write_bundle(tmp_path / "bundle", model, manifest, facts).card() or ""

    assert card.startswith("# tiny\n")
    for part in (
        manifest.contract_id, manifest.model_sha256, "24 x 28", "sphereface", "BGR", "127.5, 120, 110",
        "added to the crop's own vector", "0.987654", "| size of the file | 12,345,678 |",
        "Apache-2.0; commercial use is allowed.", "| data | made up |", "| loss | a\\|b \\| c |",
    ):  # fmt: skip
        assert part in card, part
    assert "teacher" not in card


def test_a_bundle_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    model = export_onnx(_network(), (HEIGHT, WIDTH))
    write_bundle(tmp_path / "bundle", model, _manifest(model))

    with pytest.raises(ExportError, match="is there already"):
        write_bundle(tmp_path / "bundle", model, _manifest(model))


def test_a_bundle_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    model = export_onnx(_network(), (HEIGHT, WIDTH))

    with pytest.raises(InvalidBundleError, match="digest"):
        write_bundle(tmp_path / "new" / "bundle", model + b"\0", _manifest(model))
    assert list((tmp_path / "new").iterdir()) == []

    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write .*bundle"):
        write_bundle(tmp_path / "file" / "bundle", model, _manifest(model))


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "No Name"), ("template", "arcface"), ("template", "dlib"), ("dimension", 0), ("surprise", 1)],
)
def test_a_manifest_that_would_not_be_taken_is_refused_in_one_line(field: str, value: object) -> None:
    with pytest.raises(ExportError, match="this makes no bundle") as caught:
        _manifest(b"model", **{field: value})
    assert "\n" not in caught.value.message


def test_the_service_is_importable_without_torch_after_export_is_there() -> None:
    code = "import sys; sys.modules['torch'] = None; import service.inference.embedder, models.registry"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
