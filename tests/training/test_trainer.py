"""The training loop, run for real on a small set of people."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crops import people_set

from models.bundle import Licence
from models.errors import FaceError
from training.config import ConfigError, config_yaml, parse_config
from training.data.people import DataError
from training.export.checkpoint import load_trained
from training.export.pipeline import Request, export_model
from training.trainer import checkpoint
from training.trainer.checkpoint import CheckpointError
from training.trainer.loop import Result, TrainingError
from training.trainer.run import train

SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "input": {"height": 16, "width": 16},
    "dimension": 16,
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125, "batch_norm": True}},
    "loss": {"name": "a_softmax", "params": {"margin": 2, "annealing": [100, 0.1, 1, 5]}},
    "augment": {"flip": 0.5, "brightness": 0.1},
    "optimiser": {"lr": 0.05},
    "batch": 16,
    "steps": 12,
    "compile": "off",
    "ema": 0.9,
    "workers": 0,
    "validate_every": 6,
    "checkpoint_every": 4,
    "keep": 10,
    "log_every": 2,
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "crops"
    people_set(people=16, images=6).save(folder)
    return folder


def _config(crops: Path, **changes: Any) -> Any:
    return parse_config({**SMALL, "data": {"train": str(crops), "held_out": 0.3}, **changes})


def _train(crops: Path, run: Path, resume: bool = False, **changes: Any) -> Result:
    return train(_config(crops, **changes), run, resume=resume, threads=1)


def _state(run: Path, step: int) -> dict[str, Any]:
    return checkpoint.read(run / "checkpoints" / checkpoint.name(step))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for part, inner in value.items() for key, leaf in _flat(inner, f"{name}/{part}").items()}
    if isinstance(value, list | tuple):
        return {key: leaf for part, inner in enumerate(value) for key, leaf in _flat(inner, f"{name}/{part}").items()}
    return {name: value}


def _assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    ours, theirs = _flat(first), _flat(second)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert same, key


JOINT = {"center": {"weight": 0.01}}
TRIPLET = {
    "loss": {"name": "triplet", "params": {"mining": "semi_hard"}},
    "sampler": {"kind": "people", "people": 4, "images": 4},
}


@pytest.mark.parametrize("changes", [{}, JOINT, TRIPLET], ids=["a_softmax", "with center", "triplet"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    crops: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    _train(crops, tmp_path / "whole", **changes)
    _train(crops, tmp_path / "parts", **changes)
    for late in ("step-00000008.pt", "step-00000012.pt"):
        (tmp_path / "parts" / "checkpoints" / late).unlink()

    _train(crops, tmp_path / "parts", resume=True, **changes)

    _assert_same(_state(tmp_path / "whole", 12), _state(tmp_path / "parts", 12))


def test_worker_processes_change_nothing(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "none", steps=4)
    _train(crops, tmp_path / "one", steps=4, workers=1)

    first, second = _state(tmp_path / "none", 4), _state(tmp_path / "one", 4)
    first.pop("config")
    second.pop("config")
    _assert_same(first, second)


def test_accumulated_batches_are_one_large_batch(crops: Path, tmp_path: Path) -> None:
    plain = {"name": "sphereface", "params": {"depth": 4, "width": 0.125}}  # batch norm sees the small batches
    shared = {"backbone": plain, "steps": 4, "center": {"weight": 0.1}}
    _train(crops, tmp_path / "whole", batch=16, **shared)
    _train(crops, tmp_path / "parts", batch=4, accumulate=4, **shared)

    first, second = _state(tmp_path / "whole", 4), _state(tmp_path / "parts", 4)

    assert first["objective"]["main.iteration"] == second["objective"]["main.iteration"] == 4
    for part in ("model", "objective"):
        for name, value in first[part].items():
            torch.testing.assert_close(value, second[part][name], rtol=1e-4, atol=1e-6)


def test_training_tells_unseen_people_apart(crops: Path, tmp_path: Path) -> None:
    result = _train(crops, tmp_path / "run", steps=60, validate_every=60, checkpoint_every=60)

    assert result.best > 0.9
    saved = checkpoint.read(tmp_path / "run" / "best.pt")
    assert saved["best"] == result.best
    assert saved["average"] is not None


def test_a_run_says_what_it_was_made_of(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path, steps=2, validate_every=2)

    description = json.loads((tmp_path / "run.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    assert description["seed"] == 3
    assert description["data"]["people"] + len(description["held_out"]) == 16
    assert len(description["data"]["digest"]) == 64
    assert description["versions"]["torch"] == torch.__version__
    assert (tmp_path / "config.yaml").exists()
    assert list((tmp_path / "tensorboard").iterdir())
    assert "lambda" in lines[0]
    assert "validation/accuracy" in lines[-1]


def test_a_killed_run_ends_as_if_it_had_not_been(crops: Path, tmp_path: Path) -> None:
    config = _config(crops, steps=120, checkpoint_every=10, validate_every=120)
    file, run = tmp_path / "config.yaml", tmp_path / "killed"
    file.write_text(config_yaml(config))
    command = [sys.executable, "-m", "training", "train", "--threads", "1", "--run", str(run), "--config", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not checkpoint.steps(run / "checkpoints"):
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()

    assert 10 <= checkpoint.read(checkpoint.newest(run))["step"] < 120, output
    train(config, run, resume=True, threads=1)
    train(config, tmp_path / "whole", threads=1)
    _assert_same(_state(tmp_path / "whole", 120), _state(run, 120))


def test_a_resumed_run_must_keep_its_configuration(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path, steps=4)

    with pytest.raises(ConfigError, match="begun with another 'steps'"):
        _train(crops, tmp_path, resume=True, steps=8)


def test_a_loss_that_learns_nothing_is_rolled_back_with_a_larger_lambda(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With a learning rate next to nothing the loss keeps to ln C, whatever lambda is.
    guard = {"patience": 4, "rollbacks": 2, "raise_to": 5.0}
    optimiser = {"lr": 1e-9}
    backbone = {"name": "sphereface", "params": {"depth": 4, "width": 0.125}}
    loss = {"name": "a_softmax", "params": {"margin": 4, "annealing": [1000, 0, 0, 0]}}

    with pytest.raises(TrainingError, match="ln C") as caught:
        _train(crops, tmp_path, guard=guard, optimiser=optimiser, backbone=backbone, loss=loss)

    assert "after 2 rollbacks" in caught.value.message
    output = capsys.readouterr()
    assert "back to step 0, with lambda >= 5" in output.out + output.err
    assert "back to step 0, with lambda >= 10" in output.out + output.err


def test_a_loss_that_is_no_number_is_rolled_back_with_half_the_rate(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"loss": {"name": "softmax"}, "optimiser": {"lr": 1e30}, "guard": {"rollbacks": 1}}

    with pytest.raises(TrainingError, match="not a number"):
        _train(crops, tmp_path, **changes)

    output = capsys.readouterr()
    assert "lr x 0.5" in output.out + output.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"name": "softermax"}}, "unknown loss 'softermax'"),
        ({"loss": {"name": "center"}}, "stands beside another loss"),
        ({"loss": {"name": "a_softmax", "params": {"margim": 4}}}, "unknown parameter 'margim'"),
        ({"loss": {"name": "a_softmax", "params": {"margin": 0.5}}}, "margin must be an integer"),
        ({"backbone": {"name": "resnet9000"}}, "resnet9000"),
        ({"backbone": {"name": "sphereface", "params": {"depht": 4}}}, "depht"),
        ({"input": {"height": 16, "width": 12}}, "another shape"),
        ({"input": {"height": 16, "width": 16, "channels": "gray"}}, "channel"),
        ({"loss": {"name": "a_softmax", "params": {"margin": 10**9}}}, "from 1 to 1000"),
        ({"device": "tpu"}, "device must be"),
        *([] if torch.cuda.is_available() else [({"device": "auto", "precision": "fp16"}, "fp16 needs a GPU")]),
        ({"data": {"held_out": 0.05}}, "data.held_out"),
        ({"sampler": {"kind": "people", "people": 40, "images": 2}, "batch": 80}, "people have two or more photos"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    crops: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    data = {"train": str(crops), "held_out": 0.3, **changes.get("data", {})}
    with pytest.raises(FaceError) as caught:
        _train(crops, tmp_path, **{**changes, "data": data})

    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_one_photo_a_person_is_refused_for_triplets(tmp_path: Path) -> None:
    people_set(people=12, images=1).save(tmp_path / "crops")

    with pytest.raises(DataError, match="two or more photos"):
        _train(tmp_path / "crops", tmp_path / "run", **TRIPLET, data={"train": str(tmp_path / "crops"), "held_out": 0})


def test_a_folder_with_a_run_is_not_written_over(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path, steps=2)

    with pytest.raises(CheckpointError, match="--resume"):
        _train(crops, tmp_path, steps=2)


def test_nothing_to_resume_is_said(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        _train(crops, tmp_path, resume=True)


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_trains_with_losses_in_float32(crops: Path, tmp_path: Path, precision: str) -> None:
    _train(crops, tmp_path, steps=4, precision=precision)

    assert all(value.dtype != torch.bfloat16 for value in _state(tmp_path, 4)["model"].values())
    losses = [
        json.loads(line)["main"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"main"' in line
    ]
    assert np.isfinite(losses).all()


def test_a_run_can_begin_with_the_weights_of_a_bundle(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "first", steps=4, validate_every=4)
    request = Request(id="first", licence=Licence(spdx="unknown", commercial_use=False), template="arcface")
    export_model(load_trained(tmp_path / "first"), request, tmp_path / "bundles", None, print)

    _train(crops, tmp_path / "second", steps=1, seed=9, start={"bundle": str(tmp_path / "bundles" / "first")})

    taught = checkpoint.read(tmp_path / "first" / "best.pt")["average"]["state"]
    begun = checkpoint.read(tmp_path / "second" / "checkpoints" / "start.pt")["model"]
    for name, value in taught.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(begun[name], value)


def test_a_bundle_of_another_network_is_refused_in_one_line(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "first", steps=1, validate_every=1)
    request = Request(id="first", licence=Licence(spdx="unknown", commercial_use=False), template="arcface")
    export_model(load_trained(tmp_path / "first"), request, tmp_path / "bundles", None, print)
    wider = {"name": "sphereface", "params": {"depth": 4, "width": 0.25, "batch_norm": True}}

    with pytest.raises(ConfigError, match="cannot begin with"):
        _train(crops, tmp_path / "second", backbone=wider, start={"bundle": str(tmp_path / "bundles" / "first")})


def test_a_bundle_that_was_fed_otherwise_is_no_start(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "first", steps=1, validate_every=1)
    request = Request(id="first", licence=Licence(spdx="unknown", commercial_use=False), template="arcface")
    export_model(load_trained(tmp_path / "first"), request, tmp_path / "bundles", None, print)
    other = {"height": 16, "width": 16, "channels": "bgr", "mean": 100, "std": 50}

    with pytest.raises(ConfigError, match=r"trained on rgb with mean 127\.5"):
        _train(crops, tmp_path / "second", input=other, start={"bundle": str(tmp_path / "bundles" / "first")})


def test_a_triplet_run_shows_how_many_triplets_were_active_and_how_far_pairs_are_apart(
    crops: Path, tmp_path: Path
) -> None:
    _train(crops, tmp_path, steps=2, **TRIPLET)

    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])

    assert 0 <= line["triplet/active"] <= 1
    assert 0 < line["triplet/pair_distance"] < 4
    assert line["triplet/count"] >= 0
