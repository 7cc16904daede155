"""What a run leaves behind when something goes wrong, and that it can be gone on with."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from crops import people_set

from training.config import ConfigError, parse_config
from training.data.aligned import AlignedSet
from training.trainer import checkpoint
from training.trainer.checkpoint import CheckpointError
from training.trainer.loop import TrainingError
from training.trainer.run import train
from training.trainer.validate import verification

SMALL: dict[str, Any] = {
    "name": "recovery",
    "input": {"height": 16, "width": 16},
    "dimension": 16,
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125, "batch_norm": True}},
    "loss": {"name": "softmax"},
    "optimiser": {"lr": 0.05},
    "batch": 16,
    "steps": 8,
    "compile": "off",
    "device": "cpu",
    "workers": 0,
    "validate_every": 8,
    "checkpoint_every": 1,
    "keep": 2,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "crops"
    people_set(people=16, images=6).save(folder)
    return folder


def _train(crops: Path, run: Path, resume: bool = False, **changes: Any) -> Any:
    config = parse_config({**SMALL, "data": {"train": str(crops), "held_out": 0.3}, **changes})
    return train(config, run, resume=resume, threads=1)


def _steps(run: Path) -> list[int]:
    return [step for step, _ in checkpoint.steps(run / "checkpoints")]


def test_there_is_always_a_checkpoint_from_before_the_guards_window(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "guarded", guard={"patience": 5})
    _train(crops, tmp_path / "unguarded", guard={"enabled": False})

    assert _steps(tmp_path / "guarded") == [1, 4, 7, 8]
    assert _steps(tmp_path / "unguarded") == [7, 8]


STUCK: dict[str, Any] = {
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125}},
    "loss": {"name": "a_softmax", "params": {"margin": 4, "annealing": [1000, 0, 0, 0]}},
    "optimiser": {"lr": 1e-9},
    "guard": {"patience": 4, "rollbacks": 1},
}


def test_a_run_that_was_rolled_back_is_resumed_with_its_remedies_and_not_from_what_failed(
    crops: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="after 1 rollbacks"):
        _train(crops, tmp_path, **STUCK)
    kept = [checkpoint.read(file) for _, file in checkpoint.steps(tmp_path / "checkpoints")]
    start = checkpoint.read(tmp_path / "checkpoints" / checkpoint.START)

    assert start["remedies"] == {"rollbacks": 1, "minimum_lambda": 5.0, "lr_scale": 1.0}
    assert kept
    assert all(state["remedies"] == start["remedies"] for state in kept)
    with pytest.raises(TrainingError, match="after 1 rollbacks"):
        _train(crops, tmp_path, resume=True, **STUCK)


def test_the_best_validation_is_not_forgotten_when_the_guard_goes_back(crops: Path, tmp_path: Path) -> None:
    # Trains well at first; then a rate that is far too large takes over.
    schedule = {"name": "step", "milestones": [6], "factor": 1e30}
    with pytest.raises(TrainingError, match="not a number"):
        _train(crops, tmp_path, schedule=schedule, validate_every=5, steps=12, guard={"patience": 4, "rollbacks": 2})

    state = checkpoint.read(checkpoint.newest(tmp_path))
    assert state["step"] < 6 or state["remedies"]["rollbacks"] == 2
    assert checkpoint.read(tmp_path / "best.pt")["best"] == state["best"] > 0.5


def test_a_run_stopped_before_its_first_checkpoint_is_resumed_from_the_start(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "whole")
    _train(crops, tmp_path / "parts")
    for _, file in checkpoint.steps(tmp_path / "parts" / "checkpoints"):
        file.unlink()

    _train(crops, tmp_path / "parts", resume=True)

    first, second = (checkpoint.read(tmp_path / run / "checkpoints" / checkpoint.name(8)) for run in ("whole", "parts"))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name])


def test_a_folder_in_which_no_step_was_taken_can_be_used_again(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "other", steps=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "other" / "run.json").rename(tmp_path / "run" / "run.json")

    assert _train(crops, tmp_path / "run", steps=1).steps == 1


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path) -> None:
    people_set(people=16, images=6).save(tmp_path / "crops")
    _train(tmp_path / "crops", tmp_path / "run", steps=2)
    for file in (tmp_path / "crops").iterdir():
        file.unlink()
    people_set(people=16, images=6, seed=1).save(tmp_path / "crops")

    with pytest.raises(CheckpointError, match=r"is not what .* was begun with"):
        _train(tmp_path / "crops", tmp_path / "run", resume=True, steps=2)


@pytest.fixture
def _small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_small_files")
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_no_rest(tmp_path: Path) -> None:
    file = tmp_path / checkpoint.name(1)
    checkpoint.write(file, {"step": 1})

    with pytest.raises(CheckpointError, match="cannot write") as caught:
        checkpoint.write(file, {"step": 2, "model": {"w": torch.zeros(100_000)}})

    assert "\n" not in caught.value.message
    assert checkpoint.read(file)["step"] == 1
    assert list(tmp_path.iterdir()) == [file]


class _Silent(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """All zeros: a network that has died."""
        return images.new_zeros(len(images), 4)


def test_a_network_whose_vectors_have_no_direction_scores_nothing(crops: Path) -> None:
    spec = parse_config({**SMALL, "data": {"train": str(crops)}}).input

    assert verification(_Silent(), AlignedSet.open(crops), spec, torch.device("cpu"))["accuracy"] == 0


@pytest.mark.parametrize("name", ["group", "seed", "sample_rate"])
def test_what_only_the_sharded_classifier_takes_is_no_parameter_of_a_loss(
    crops: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"unknown parameter '{name}'"):
        _train(crops, tmp_path, sharded=True, loss={"name": "softmax", "params": {name: 1}})
