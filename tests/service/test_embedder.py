"""Crops to unit vectors, alone and with their mirror images."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models import bundle as bundles
from models.bundle import Manifest, seal
from models.registry import Registry
from models.runtime import Session, SessionOptions
from service.inference.embedder import Embedder

SIZE = 16
VALUES = 5
CROPS = [np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8) for i in range(7)]
# x @ WEIGHTS: no two pixels weigh the same, so that a crop and its mirror image differ.
WEIGHTS = np.random.default_rng(9).normal(size=(3 * SIZE * SIZE, VALUES)).astype(np.float32)


def _embedder(
    folder: Path, mirror: bool, batch: int | str = "batch", weights: NDArray[np.float32] = WEIGHTS
) -> Embedder:
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, VALUES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    folder.mkdir(parents=True, exist_ok=True)
    loaded = bundles.write(folder, model, _manifest(model, mirror))
    return Embedder(Session(loaded.model_path, SessionOptions("cpu")), loaded.manifest)


def _manifest(model: bytes, mirror: bool) -> Manifest:
    fields: dict[str, Any] = {
        "id": "linear",
        "kind": "embedder",
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "input": {"width": SIZE, "height": SIZE, "channels": "bgr", "mean": [100, 110, 120], "std": [50, 60, 70]},
        "template": "arcface",
        "dimension": VALUES,
        "mirror": mirror,
        "licence": {"spdx": "Apache-2.0", "commercial_use": True},
        "provenance": {"origin": "a test"},
    }
    return seal(Manifest.model_validate(fields))


def _raw(crop: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The network in float64."""
    fed = (crop[..., ::-1].astype(np.float64) - [100, 110, 120]) / [50, 60, 70]
    vector: NDArray[np.float64] = fed.transpose(2, 0, 1).reshape(-1) @ WEIGHTS.astype(np.float64)
    return vector


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("most", [1, 3, 7, 8])
def test_crops_that_are_run_a_few_at_once_get_the_vectors_of_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: bool, most: int
) -> None:
    expected = _embedder(tmp_path / "all", mirror).embed(CROPS)
    embedder, sizes = _embedder(tmp_path / "few", mirror), []
    run = embedder._session.run

    def counted(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        sizes.append(len(batch))
        return run(batch)

    monkeypatch.setattr(embedder._session, "run", counted)
    embedder.run_at_once(most)

    np.testing.assert_allclose(embedder.embed(CROPS), expected, atol=1e-6)
    few = [min(most, len(CROPS) - start) for start in range(0, len(CROPS), most)]
    assert sizes == [size * (2 if mirror else 1) for size in few]


@pytest.mark.parametrize("batch", ["batch", 1, 2, 7, 16])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_vector_is_that_of_the_crop_alone_where_mirror_is_off(tmp_path: Path, batch: int | str, count: int) -> None:
    found = _embedder(tmp_path, mirror=False, batch=batch).embed(CROPS[:count])

    np.testing.assert_allclose(found, [_unit(_raw(crop)) for crop in CROPS[:count]], atol=1e-5)


@pytest.mark.parametrize("batch", ["batch", 1, 2, 7, 16])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_with_mirror_the_raw_vectors_of_both_views_are_added_before_scaling(
    tmp_path: Path, batch: int | str, count: int
) -> None:
    found = _embedder(tmp_path, mirror=True, batch=batch).embed(CROPS[:count])

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [_unit(_raw(c) + _raw(c[:, ::-1])) for c in CROPS[:count]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_with_mirror_a_crop_and_its_mirror_image_have_one_vector(tmp_path: Path) -> None:
    embedder = _embedder(tmp_path, mirror=True)

    np.testing.assert_allclose(
        embedder.embed(CROPS), embedder.embed([np.ascontiguousarray(crop[:, ::-1]) for crop in CROPS]), atol=1e-6
    )


def test_mirror_makes_another_contract_of_the_same_weights(tmp_path: Path) -> None:
    plain, both = (_embedder(tmp_path / str(mirror), mirror).manifest for mirror in (False, True))

    assert plain.model_sha256 == both.model_sha256
    assert plain.contract_id != both.contract_id


def test_two_views_that_cancel_out_have_no_direction_and_are_refused(tmp_path: Path) -> None:
    corners = np.zeros((3, SIZE, SIZE, VALUES), np.float32)
    corners[0, 0, 0], corners[0, 0, -1] = 1, -1  # left minus right: the mirror image has just the opposite vector
    embedder = _embedder(tmp_path, mirror=True, weights=corners.reshape(-1, VALUES))

    with pytest.raises(ValueError, match="zero or not finite"):
        embedder.embed(CROPS[:1])


@pytest.mark.parametrize("mirror", [False, True])
def test_a_crop_of_another_size_is_refused(tmp_path: Path, mirror: bool) -> None:
    with pytest.raises(ValueError, match="crops must be"):
        _embedder(tmp_path, mirror).embed([CROPS[0][:-1]])


def test_the_default_model_embeds_as_it_did_before_there_were_mirror_images(registry: Registry) -> None:
    bundle = registry.resolve("embedder")
    crop = np.random.default_rng(3).integers(0, 256, (112, 112, 3), np.uint8)
    session = Session(bundle.model_path, SessionOptions("cpu"))

    (raw,) = session.run(np.ascontiguousarray(crop.transpose(2, 0, 1))[None].astype(np.float32)).values()

    spec = bundle.manifest.input
    assert (bundle.manifest.mirror, spec.channels, spec.mean, spec.std) == (False, "rgb", (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(Embedder(session, bundle.manifest).embed([crop])[0], _unit(raw[0]), atol=1e-6)
