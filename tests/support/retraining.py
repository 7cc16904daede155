"""A tiny retrain job: people that are patterns, a model that tells them apart untrained, and one that hardly does."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from crops import people_set
from onnx import TensorProto, helper
from photos import encode

from models import bundle as bundles
from models.bundle import Licence, Manifest, Provenance, seal
from models.registry import Registry
from training.calibrate import fit
from training.data.aligned import AlignedSet
from training.evaluation.crops import labelled

SIZE = 16
PEOPLE, IMAGES = 100, 6
TRAIN: dict[str, Any] = {
    "input": {"height": SIZE, "width": SIZE},
    "dimension": 16,
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125, "batch_norm": True}},
    "loss": {"name": "softmax"},
    "optimiser": {"lr": 0.05},
    "batch": 32,
    "steps": 40,
    "compile": "off",
    "device": "cpu",
    "workers": 0,
    "checkpoint_every": 4,
    "log_every": 4,
}


def crops(people: int = PEOPLE, images: int = IMAGES, noise: float = 30.0) -> AlignedSet:
    """The people of these tests."""
    return people_set(people, images, SIZE, noise=noise)


def write_photos(folder: Path, data: AlignedSet, names: list[str] | None = None) -> Path:
    """A folder PERSON/PHOTO.png; `names` says whose folder each photo goes to, instead of its own person's."""
    for row, photo in enumerate(data.photos):
        person = data.people[data.labels[row]] if names is None else names[row]
        target = folder / person / f"{photo.replace('/', '-')}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode(np.asarray(data.crops[row])))
    return folder


def pooling_model(cells: int) -> bytes:
    """ONNX: the crop's means over cells x cells fields; with a single one it hardly tells anybody apart."""
    field = SIZE // cells
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], kernel_shape=[field, field], strides=[field, field]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    shape = ["batch", 3, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "pooling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3 * cells * cells])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def pooling_manifest(name: str, cells: int) -> Manifest:
    """Its manifest, with a calibration on patterns of other people."""
    model = pooling_model(cells)
    return seal(
        Manifest.model_validate(
            {
                "id": name,
                "kind": "embedder",
                "model_sha256": hashlib.sha256(model).hexdigest(),
                "input": {"width": SIZE, "height": SIZE, "channels": "rgb", "mean": (127,) * 3, "std": (50,) * 3},
                "template": "arcface",
                "dimension": 3 * cells * cells,
                "licence": Licence(spdx="Apache-2.0", commercial_use=True),
                "provenance": Provenance(origin="a test"),
                "calibration": _calibration(cells),
            }
        )
    )


def _calibration(cells: int) -> Any:
    others = people_set(160, 3, SIZE, seed=7)
    field = SIZE // cells
    shape = (len(others), cells, field, cells, field, 3)
    values = (np.asarray(others.crops, np.float32).reshape(shape).mean(axis=(2, 4)) - 127) / 50
    vectors = values.reshape(len(others), -1)
    return fit(labelled(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), others), "patterns", rounds=20)


def registry_with(root: Path, champion: int = 1) -> Registry:
    """`sharp` tells the patterns apart; the champion pools over so many cells."""
    registry = Registry(root)
    for name, cells in (("sharp", 4), ("champion", champion)):
        registry.add(pooling_model(cells), pooling_manifest(name, cells))
    registry.promote("champion")
    return registry


def job_file(root: Path, photos: Path, **changes: Any) -> Path:
    """retrain.yaml of a job in `root`; sections of `changes` are put over those of the tiny job."""
    job: dict[str, Any] = {
        "name": "patterns-1",
        "job": str(root / "job"),
        "registry": str(root / "models"),
        "data": str(photos),
        "align": {"aligned": True, "height": SIZE},
        "clean": {"model": "sharp"},
        "split": {"held_out": 0.4},
        "train": TRAIN,
        "calibrate": {"rounds": 20},
        "evaluate": {"rounds": 20},
        "gate": {"fmr": 0.01, "serves_fmr": 0.01, "rounds": 100, "min_people": 20, "accuracy_margin": 0.1},
        "threads": 1,
    }
    for name, value in changes.items():
        job[name] = {**job[name], **value} if isinstance(value, dict) and isinstance(job.get(name), dict) else value
    path = root / "retrain.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def bundle_digests(registry: Registry, name: str) -> tuple[str, str]:
    """Of the model and of the manifest of a bundle."""
    bundle = registry.resolve("embedder", name)
    manifest = (bundle.folder / bundles.MANIFEST).read_bytes()
    return bundle.manifest.model_sha256, hashlib.sha256(manifest).hexdigest()


def alone() -> dict[str, str]:
    """The environment of a process with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
