"""A metric learned on top: what it does to vectors, and that the bundle with it is one like any other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from crops import people_set

from models.bundle import Licence
from models.preprocess import l2_normalize
from training.__main__ import main
from training.backbones import build
from training.backbones.weights import load_bundle_weights
from training.config import parse_config
from training.data.aligned import AlignedSet
from training.evaluation.verification import verification_accuracy
from training.export.checkpoint import Trained
from training.export.errors import ExportError
from training.export.metric import fit_metric, with_metric
from training.export.pipeline import Request, export_model

CONFIG: dict[str, Any] = {
    "name": "unit",
    "data": {"train": "aligned"},
    "input": {"height": 16, "width": 16},
    "dimension": 16,
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125, "batch_norm": True}},
    "loss": {"name": "softmax"},
    "steps": 1,
}


def _people(seed: int, people: int, photos: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in which four directions tell people apart and four others, larger, say how the light was."""
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(people, 4)).repeat(photos, axis=0)
    light = 3 * rng.normal(size=(people * photos, 4))
    noise = 0.2 * rng.normal(size=(people * photos, 8))
    vectors = np.concatenate([who, light], axis=1) + noise + 2
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(people).repeat(photos)


def test_people_who_were_not_learned_from_are_told_apart_better() -> None:
    vectors, labels = _people(0, 200, 4)
    mean, matrix = fit_metric(vectors, labels, ridge=0.01)
    unseen, whose = _people(1, 150, 4)

    before = verification_accuracy(unseen.astype(np.float32), whose).mean
    after = verification_accuracy(l2_normalize((unseen - mean) @ matrix), whose).mean

    assert before < 0.75
    assert after > before + 0.1


def test_scatter_within_people_is_whitened_and_weighed_by_how_well_a_direction_tells_them_apart() -> None:
    vectors, labels = _people(2, 60, 5)
    mean, matrix = fit_metric(vectors, labels, ridge=1e-9)
    moved = (vectors - mean) @ matrix

    own = np.stack([moved[labels == label].mean(axis=0) for label in range(60)])
    apart = moved - own[labels]
    within = apart.T @ apart / (60 * 4)  # 60 people with 4 degrees of freedom each
    between = moved.T @ moved / len(moved) - within

    # With b the scatter between people in units of that within, within is b / (b + 1), and between b times that.
    ratios = between.diagonal() / within.diagonal()
    np.testing.assert_allclose(within, np.diag(within.diagonal()), atol=1e-6)
    np.testing.assert_allclose(between, np.diag(between.diagonal()), atol=1e-6)
    useful = ratios > 1e-3
    assert useful.sum() >= 4
    np.testing.assert_allclose(within.diagonal()[useful], (ratios / (ratios + 1))[useful], rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.arange(6), "two or more photos"), (np.zeros(6, int), "from two people"), (np.arange(6) // 2, "do not differ")],
)
def test_what_no_metric_can_be_learned_from_is_said(labels: np.ndarray, message: str) -> None:
    vectors = np.eye(4)[labels % 4]

    with pytest.raises(ExportError, match=message):
        fit_metric(vectors, labels)


def _trained() -> Trained:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build("sphereface", 16, (16, 16), **CONFIG["backbone"]["params"]).eval()
    return Trained(network, parse_config(CONFIG), 1, "none", "0" * 64)


@pytest.fixture(scope="module")
def data() -> AlignedSet:
    return replace(people_set(people=40, images=4), template="arcface")


@pytest.mark.parametrize("mirror", [False, True])
def test_a_bundle_with_a_metric_says_so_serves_what_torch_computes_and_can_be_trained_further(
    tmp_path: Path, data: AlignedSet, mirror: bool
) -> None:
    trained = _trained()
    request = Request("unit", Licence(spdx="Apache-2.0", commercial_use=True), data.template, mirror, metric=True)
    said: list[str] = []

    (bundle,) = export_model(trained, request, tmp_path, data, said.append)

    assert any("a metric learned from" in line for line in said)
    assert bundle.manifest.architecture.endswith("metric learned on top")
    assert "| metric | learned from" in (bundle.card() or "")
    plain = export_model(trained, Request("plain", request.licence, data.template, mirror), tmp_path, data, said.append)
    assert plain[0].manifest.contract_id != bundle.manifest.contract_id
    again = build("sphereface", 16, (16, 16), **CONFIG["backbone"]["params"])
    load_bundle_weights(again, bundle.model_path)
    for name, value in trained.module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(again.state_dict()[name], value)


def test_a_network_with_a_metric_gives_the_affine_map_of_its_unit_vectors() -> None:
    module = _trained().module
    rng = np.random.default_rng(0)
    mean, matrix = rng.normal(size=16), rng.normal(size=(16, 16))
    images = torch.from_numpy(rng.normal(size=(5, 3, 16, 16))).float()

    with torch.no_grad():
        units = l2_normalize(module(images).numpy()).astype(np.float64)
        found = with_metric(module, mean, matrix)(images).numpy()

    np.testing.assert_allclose(found, (units - mean) @ matrix, atol=1e-5)
    assert type(module).__name__ == "SphereFace"  # the network itself is as it was


def test_a_metric_without_photos_is_refused_in_one_line(tmp_path: Path) -> None:
    request = Request("unit", Licence(spdx="Apache-2.0", commercial_use=True), metric=True)
    with pytest.raises(ExportError, match="learned from labelled crops"):
        export_model(_trained(), request, tmp_path, None, print)
    arguments = ["export", "--checkpoint", "runs/none", "--out", str(tmp_path), "--id", "x", "--metric", "lda"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "--calibration-data" in done.output
