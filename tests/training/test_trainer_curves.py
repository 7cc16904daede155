"""What a run says of its steps: each once, and of all photos of a step."""

import json
from pathlib import Path
from typing import Any

import pytest
from crops import people_set

from training.config import parse_config
from training.trainer.loop import TrainingError
from training.trainer.run import train

SMALL: dict[str, Any] = {
    "name": "curves",
    "input": {"height": 16, "width": 16},
    "dimension": 16,
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125}},
    "loss": {"name": "a_softmax", "params": {"margin": 2, "annealing": [100, 0.1, 1, 5]}},
    "augment": {"flip": 0.0},
    "optimiser": {"lr": 0.05},
    "batch": 16,
    "steps": 6,
    "compile": "off",
    "device": "cpu",
    "workers": 0,
    "validate_every": 6,
    "checkpoint_every": 3,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "crops"
    people_set(people=16, images=6).save(folder)
    return folder


def _train(crops: Path, run: Path, resume: bool = False, **changes: Any) -> None:
    config = parse_config({**SMALL, "data": {"train": str(crops), "held_out": 0.3}, **changes})
    train(config, run, resume=resume, threads=1)


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "main" in line]


def test_a_step_of_several_batches_is_shown_with_the_mean_of_them_all(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path / "whole", batch=32, steps=1)
    _train(crops, tmp_path / "parts", batch=8, accumulate=4, steps=1)

    assert _lines(tmp_path / "parts")[0]["main"] == pytest.approx(_lines(tmp_path / "whole")[0]["main"], rel=1e-5)


def test_each_step_is_there_once_however_often_a_run_was_stopped(crops: Path, tmp_path: Path) -> None:
    _train(crops, tmp_path)
    first = _lines(tmp_path)
    (tmp_path / "checkpoints" / "step-00000006.pt").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ma')  # killed in the middle of a line

    _train(crops, tmp_path, resume=True)

    again = _lines(tmp_path)
    assert [line["step"] for line in again] == [1, 2, 3, 4, 5, 6]
    assert [line["main"] for line in again] == [line["main"] for line in first]


def test_what_the_guard_went_back_over_is_forgotten(crops: Path, tmp_path: Path) -> None:
    never = {"name": "a_softmax", "params": {"margin": 4, "annealing": [1000, 0, 0, 0]}}
    with pytest.raises(TrainingError, match="ln C"):
        _train(crops, tmp_path, steps=30, loss=never, optimiser={"lr": 1e-9}, guard={"patience": 4, "rollbacks": 2})

    steps = [line["step"] for line in _lines(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
