"""A user's own ONNX file to a bundle: what is accepted, and that whatever is refused leaves nothing behind."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.errors import FaceError, InvalidBundleError, SourceError
from models.registry import ModelExistsError, Registry
from models.runtime import Session, SessionOptions
from service.errors import InvalidRequestError
from service.import_onnx import ImportOptions, import_onnx, in_precision
from service.inference.embedder import Embedder

SIZE = 32
OPTIONS = ImportOptions(
    model_id=None,
    input_size=(SIZE, SIZE),
    mean=(127.5, 127.5, 127.5),
    std=(128.0, 128.0, 128.0),
    channels="bgr",
    template="arcface",
    licence="MIT",
)


def _graph(
    nodes: Sequence[Any],
    outputs: Sequence[str] = ("vector",),
    *,
    shape: Sequence[Any] = ("batch", 3, SIZE, SIZE),
    inputs: Sequence[str] = ("image",),
    element: int = TensorProto.FLOAT,
    axes: int = 2,
    weights: Sequence[Any] = (),
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, element, list(shape)) for name in inputs],
        [helper.make_tensor_value_info(name, element, [None] * axes) for name in outputs],
        list(weights),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def _weights() -> Any:
    values = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    return numpy_helper.from_array(values, "weights")


def _embedder(**options: Any) -> bytes:
    """Mean colour of a crop, times a matrix: 8 values."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["vector"]),
    ]
    return _graph(nodes, weights=[_weights()], **options)


@pytest.fixture
def own(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry(tmp_path / "registry")


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., str]:
    """Writes a model file; its path as it would be typed."""

    def write(data: bytes, name: str = "model.onnx") -> str:
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


def _refusal(registry: Registry, source: str, options: ImportOptions = OPTIONS) -> str:
    with pytest.raises(FaceError) as refused:
        import_onnx(registry, source, options)
    assert registry.list() == []
    assert "\n" not in refused.value.message
    return refused.value.message


def test_the_default_embedder_with_another_scaling_becomes_a_model_of_another_contract(
    registry: Registry, own: Registry
) -> None:
    default = registry.resolve("embedder", "sface-2021dec")
    options = replace(OPTIONS, model_id="mine", input_size=(112, 112), channels="rgb")

    manifest = import_onnx(own, str(default.model_path), options)

    assert manifest.contract_id != default.manifest.contract_id
    assert manifest.model_sha256 == default.manifest.model_sha256
    assert manifest.dimension == default.manifest.dimension == 128
    assert manifest.calibration is None
    assert manifest.licence.spdx == "MIT"
    assert not manifest.licence.commercial_use
    stored = own.resolve("embedder", "mine")
    assert stored.manifest == manifest
    assert own.champion("embedder") is None

    # The same weights fed as the default model is fed them give its vectors, and fed as this one says, others.
    crops = [np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)]
    session = Session(stored.model_path, SessionOptions("cpu"))
    mine = Embedder(session, manifest).embed(crops)
    theirs = Embedder(session, default.manifest).embed(crops)
    assert float(mine[0] @ theirs[0]) < 0.99


def test_the_same_scaling_gives_the_same_contract(registry: Registry, own: Registry) -> None:
    default = registry.resolve("embedder", "sface-2021dec")
    same = ImportOptions("mine", (112, 112), (0, 0, 0), (1, 1, 1), "rgb", "arcface", "Apache-2.0")

    assert import_onnx(own, str(default.model_path), same).contract_id == default.manifest.contract_id


def test_what_the_file_does_not_say_is_taken_from_the_options(own: Registry, store: Callable[..., str]) -> None:
    source = store(_embedder(), "My Own_Model v2.onnx")

    manifest = import_onnx(own, source, OPTIONS)

    assert manifest.id == "my-own_model-v2"
    assert manifest.dimension == 8
    assert (manifest.input.width, manifest.input.height) == (SIZE, SIZE)
    assert (manifest.input.mean, manifest.input.std) == (OPTIONS.mean, OPTIONS.std)
    assert (manifest.input.channels, manifest.template) == ("bgr", "arcface")
    assert manifest.provenance.source == "My Own_Model v2.onnx"  # the name alone: a path tells where people live
    assert manifest.provenance.source_sha256 == hashlib.sha256(Path(source).read_bytes()).hexdigest()


def test_a_model_of_a_fixed_batch_of_one_takes_any_batch_afterwards(own: Registry, store: Callable[..., str]) -> None:
    manifest = import_onnx(own, store(_embedder(shape=(1, 3, SIZE, SIZE))), OPTIONS)

    session = Session(own.resolve("embedder", manifest.id).model_path, SessionOptions("cpu"))
    assert session.fixed_batch is None
    crops = list(np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8))
    assert Embedder(session, manifest).embed(crops).shape == (5, 8)


def test_adding_the_same_again_does_nothing_and_another_under_the_same_name_is_refused(
    own: Registry, store: Callable[..., str]
) -> None:
    source = store(_embedder())
    first = import_onnx(own, source, OPTIONS)

    assert import_onnx(own, source, OPTIONS) == first
    with pytest.raises(ModelExistsError):
        import_onnx(own, source, replace(OPTIONS, mean=(0, 0, 0)))
    assert own.list() == [first]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_id": "Not A Name"}, "id"),
        ({"model_id": "../escape"}, "id"),
        ({"model_id": "x" * 65}, "id"),
        ({"input_size": (0, 0)}, "width"),
        ({"input_size": (-112, 112)}, "width"),
        ({"input_size": (112, 10**6)}, "height"),
        ({"input_size": (48, 32)}, "48 x 32"),
        ({"input_size": (64, 64)}, "64 x 64"),
        ({"std": (128.0, 0.0, 128.0)}, "std"),
        ({"std": (-1.0, 1.0, 1.0)}, "std"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "mean"),
        ({"mean": (0.0, float("inf"), 0.0)}, "mean"),
        ({"channels": "grey"}, "channels"),
        ({"template": "passport"}, "arcface"),
        ({"template": "sphereface"}, "shape"),
    ],
)
def test_a_bad_option_is_named_and_nothing_is_stored(
    own: Registry, store: Callable[..., str], change: dict[str, Any], says: str
) -> None:
    assert says in _refusal(own, store(_embedder()), replace(OPTIONS, **change))


def test_a_file_name_that_leaves_no_name_asks_for_one(own: Registry, store: Callable[..., str]) -> None:
    source = store(_embedder(), "模型.onnx")

    assert "id" in _refusal(own, source)
    assert import_onnx(own, source, replace(OPTIONS, model_id="model-1")).id == "model-1"


def _two_outputs() -> bytes:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Neg", ["vector"], ["other"]),
    ]
    return _graph(nodes, ["vector", "other"])


def _not_flat() -> bytes:
    return _graph([helper.make_node("GlobalAveragePool", ["image"], ["vector"])], axes=4)


def _one_vector_for_all() -> bytes:
    return _graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("ReduceMean", ["flat"], ["vector"], axes=[0], keepdims=0),
        ],
        axes=1,
    )


def _single_value() -> bytes:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["vector"], axes=[1]),
    ]
    return _graph(nodes)


def _not_finite() -> bytes:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Sub", ["flat", "flat"], ["zero"]),
        helper.make_node("Div", ["flat", "zero"], ["vector"]),
    ]
    return _graph(nodes)


def _of_integers() -> bytes:
    return _graph([helper.make_node("Flatten", ["image"], ["vector"])], element=TensorProto.INT32)


def _of_two_images() -> bytes:
    nodes = [
        helper.make_node("Add", ["image", "second"], ["sum"]),
        helper.make_node("Flatten", ["sum"], ["vector"]),
    ]
    return _graph(nodes, inputs=("image", "second"))


def _of_text() -> bytes:
    return _graph([helper.make_node("Identity", ["image"], ["vector"])], shape=("batch", 512))


def _with_weights_elsewhere() -> bytes:
    model = onnx.load_model_from_string(_embedder())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (_two_outputs, "one vector a crop"),
        (_not_flat, "one vector a crop"),
        (_one_vector_for_all, "one vector a crop"),
        (_single_value, "dimension"),
        (_not_finite, "not finite"),
        (_of_integers, "does not run"),
        (_of_two_images, "one input"),
        (_of_text, "axes"),
        (_with_weights_elsewhere, "ONNX|other files"),
        (lambda: b"", "ONNX"),
        (lambda: b"certainly not a protobuf", "ONNX"),
        (lambda: _embedder()[:-40], "ONNX"),
        (lambda: _graph([helper.make_node("NoSuchOperator", ["image"], ["vector"])]), "NoSuchOperator"),
    ],
)
def test_a_file_that_is_no_embedder_is_refused_and_nothing_is_stored(
    own: Registry, store: Callable[..., str], model: Callable[[], bytes], says: str
) -> None:
    message = _refusal(own, store(model()))

    assert any(part in message for part in says.split("|"))


def test_a_detector_is_no_embedder(registry: Registry, own: Registry) -> None:
    source = str(registry.resolve("detector", "yunet-2023mar").model_path)

    _refusal(own, source, replace(OPTIONS, input_size=(32, 32)))


def test_a_source_that_cannot_be_read_is_told_with_its_name(own: Registry, tmp_path: Path) -> None:
    for source in (str(tmp_path / "missing.onnx"), str(tmp_path), "ftp://example.org/model.onnx"):
        with pytest.raises(SourceError, match=source):
            import_onnx(own, source, OPTIONS)
    assert own.list() == []


def test_a_file_with_the_stated_digest_is_taken_in_either_case(own: Registry, store: Callable[..., str]) -> None:
    source = store(_embedder())
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()

    assert import_onnx(own, source, replace(OPTIONS, sha256=digest.upper())).provenance.source_sha256 == digest


def test_a_file_with_another_digest_is_refused_and_both_are_told(own: Registry, store: Callable[..., str]) -> None:
    source = store(_embedder())

    message = _refusal(own, source, replace(OPTIONS, sha256="ab" * 32))

    assert "ab" * 32 in message
    assert hashlib.sha256(Path(source).read_bytes()).hexdigest() in message


@pytest.mark.parametrize("digest", ["", "ab", "g" * 64, "a" * 64 + "\n"])
def test_what_is_no_digest_is_refused(own: Registry, store: Callable[..., str], digest: str) -> None:
    assert "64 hexadecimal digits" in _refusal(own, store(_embedder()), replace(OPTIONS, sha256=digest))


@pytest.mark.parametrize("source", ["https://example.invalid/model.onnx", "pypi:some-model==1.0#model.onnx"])
def test_a_file_from_elsewhere_is_not_fetched_without_a_digest(own: Registry, source: str) -> None:
    assert "--sha256" in _refusal(own, source)


def test_options_are_checked_before_anything_is_fetched(own: Registry) -> None:
    with pytest.raises(InvalidBundleError, match="width"):
        import_onnx(own, "https://example.invalid/model.onnx", replace(OPTIONS, input_size=(1, 1)))


def test_a_model_in_another_precision_is_the_same_network_under_another_contract(
    registry: Registry, tmp_path: Path
) -> None:
    mine = Registry(tmp_path / "models")
    original = registry.resolve("embedder")
    mine.add(original.model_path.read_bytes(), original.manifest)

    manifest = in_precision(mine, original.manifest.id, "bfloat16")

    assert manifest.id == f"{original.manifest.id}-bf16"
    assert mine.resolve_any(manifest.id).manifest == manifest
    assert (manifest.precision, manifest.model_sha256) == ("bfloat16", original.manifest.model_sha256)
    assert manifest.contract_id != original.manifest.contract_id
    with pytest.raises(InvalidRequestError, match="embedder of bfloat16 already"):
        in_precision(mine, manifest.id, "bfloat16")
