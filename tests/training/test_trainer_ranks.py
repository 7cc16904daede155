"""Training on two ranks: real processes that meet over gloo, against one process that sees the same photos."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.multiprocessing
from crops import people_set
from trainer_ranks import RANKS, Job, work

from training.config import config_yaml, parse_config
from training.trainer import checkpoint
from training.trainer.run import train

# No batch norm, which sees the batch of one rank only.
SMALL: dict[str, Any] = {
    "name": "ranks",
    "seed": 3,
    "input": {"height": 16, "width": 16},
    "dimension": 16,
    "backbone": {"name": "sphereface", "params": {"depth": 4, "width": 0.125}},
    "loss": {"name": "softmax"},
    "augment": {"flip": 0.5, "brightness": 0.1},
    "optimiser": {"lr": 0.05},
    "batch": 8,
    "steps": 6,
    "compile": "off",
    "device": "cpu",
    "ema": 0.9,
    "workers": 0,
    "validate_every": 3,
    "checkpoint_every": 3,
    "keep": 20,
    "log_every": 2,
}
A_SOFTMAX = {"loss": {"name": "a_softmax", "params": {"margin": 2, "annealing": [100, 0.1, 1, 5]}}}
SHARDED = {**A_SOFTMAX, "sharded": True}
# Dropout asks for the random numbers of each rank.
DROPOUT = {"backbone": {"name": "mobilenet", "params": {"width": 0.125, "head": "gdc", "dropout": 0.5}}}
LONG = {**SHARDED, **DROPOUT, "steps": 12, "checkpoint_every": 4, "validate_every": 6}
JOINT = {"center": {"weight": 0.1}}


EQUAL: dict[str, dict[str, Any]] = {
    "softmax with center": JOINT,
    "accumulated a_softmax": {**A_SOFTMAX, "batch": 4, "accumulate": 2},
    "sharded a_softmax": SHARDED,
    "sharded with center": {**SHARDED, **JOINT},
}


def _config(crops: Path, **changes: Any) -> dict[str, Any]:
    return {**SMALL, "data": {"train": str(crops), "held_out": 0.3}, **changes}


def _jobs(crops: Path) -> list[Job]:
    def job(name: str, settings: dict[str, Any] | None = None, **special: Any) -> Job:
        return Job(name, _config(crops, **(settings or {})), **special)

    half = {**SHARDED, "precision": "fp16", "device": "auto"}
    no_number = {"optimiser": {"lr": 1e30}, "guard": {"rollbacks": 1}}
    return [
        *(job(name, changes) for name, changes in EQUAL.items()),
        job("whole", LONG),
        job("parts", LONG),
        job("parts", LONG, resume=True, forget=(8, 12)),
        job("sampled", {**SHARDED, "sample_rate": 0.5}),
        job("no number", no_number),
        job("overflow", half),
        job("overflow", half, resume=True, forget=(6,), scale=2.0**40),
        job("lost", nowhere=True),
        job("stopped", LONG, stop_after=4),
        job("stopped", LONG, resume=True),
    ]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "crops"
    people_set(people=16, images=6).save(folder)
    return folder


@pytest.fixture(scope="module")
def runs(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left: a folder a run, and NAME.RANK.json."""
    folder = tmp_path_factory.mktemp("runs")
    torch.multiprocessing.start_processes(work, (str(folder), _jobs(crops)), nprocs=RANKS, start_method="spawn")
    return folder


def _alone(crops: Path, run: Path, resume: bool = False, **changes: Any) -> None:
    train(parse_config(_config(crops, **changes)), run, resume=resume, threads=1)


def _state(run: Path, step: int = 6) -> dict[str, Any]:
    return checkpoint.read(run / "checkpoints" / checkpoint.name(step))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for part, inner in parts for key, leaf in _flat(inner, f"{name}/{part}").items()}
    return {name: value}


def _assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    ours, theirs = _flat(first), _flat(second)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key]
        assert same, key


def _assert_close(first: dict[str, Any], second: dict[str, Any]) -> None:
    ours, theirs = _flat(first), _flat(second)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                value, theirs[key], rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


def _ends(runs: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((runs / f"{name}.{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_end_at_the_weights_of_one_process(crops: Path, runs: Path, tmp_path: Path, name: str) -> None:
    _alone(crops, tmp_path, **{**EQUAL[name], "batch": 16, "accumulate": 1})

    two, one = _state(runs / name), _state(tmp_path)

    for part in ("model", "average", "objective", "optimiser"):
        _assert_close(two[part], one[part])
    iterations = [int(value) for key, value in _flat(two["objective"]).items() if key.endswith("iteration")]
    assert iterations == [6]
    start = checkpoint.read(runs / name / "checkpoints" / checkpoint.START)
    assert not torch.equal(start["model"]["fc.weight"], two["model"]["fc.weight"])


def test_a_sharded_run_on_two_ranks_is_resumed_bit_for_bit(runs: Path) -> None:
    _assert_same(_state(runs / "whole", 12), _state(runs / "parts", 12))


def test_each_rank_has_random_numbers_of_its_own_in_the_checkpoint(runs: Path) -> None:
    for step in (4, 12):
        states = _state(runs / "whole", step)["random"]
        assert len(states) == RANKS
        assert not torch.equal(states[0], states[1])


def test_a_run_of_two_ranks_goes_on_on_one_with_its_momentum(crops: Path, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "whole", tmp_path / "run")
    for late in (8, 12):
        (tmp_path / "run" / "checkpoints" / checkpoint.name(late)).unlink()
    before = _state(tmp_path / "run", 4)

    _alone(crops, tmp_path / "run", resume=True, **{**LONG, "checkpoint_every": 1})

    after = _state(tmp_path / "run", 5)
    weight, momentum = before["objective"]["sharded"]["weight"], _head_momentum(before)
    assert momentum.shape == weight.shape
    # v <- 0.9 v + g; a rank that began with v = 0 would have it far from 0.9 v.
    fresh = _head_momentum(after) - 0.9 * momentum
    assert momentum.abs().max() > 0
    moved = after["objective"]["sharded"]["weight"] - weight
    rate = after["optimiser"]["param_groups"][-1]["lr"]
    torch.testing.assert_close(moved, -rate * (0.9 * momentum + fresh), rtol=1e-3, atol=1e-7)
    assert fresh.norm() < _head_momentum(after).norm()
    assert len(_state(tmp_path / "run", 12)["random"]) == 1


def _head_momentum(state: dict[str, Any]) -> torch.Tensor:
    shape = state["objective"]["sharded"]["weight"].shape
    (found,) = [
        entry["momentum_buffer"]
        for entry in state["optimiser"]["state"].values()
        if entry["momentum_buffer"].shape == shape
    ]
    return found


def test_a_sampled_classifier_trains(runs: Path) -> None:
    start = checkpoint.read(runs / "sampled" / "checkpoints" / checkpoint.START)["objective"]["sharded"]["weight"]
    end = _state(runs / "sampled")["objective"]["sharded"]["weight"]

    assert [found["steps"] for found in _ends(runs, "sampled")] == [6, 6]
    assert torch.isfinite(end).all()
    assert not torch.equal(start, end)


def test_all_ranks_come_to_the_same_verdict_on_a_loss_that_is_no_number(runs: Path) -> None:
    first, second = _ends(runs, "no number")

    assert first == second
    assert first["error"] == "TrainingError"
    assert "not a number" in first["message"]
    assert "after 1 rollbacks" in first["message"]


def test_an_overflow_of_the_gradient_stops_the_step_on_all_ranks(runs: Path) -> None:
    before, after = _state(runs / "overflow", 3), _state(runs / "overflow", 6)

    assert [found["steps"] for found in _ends(runs, "overflow resumed")] == [6, 6]
    assert after["scaler"]["scale"] == 2.0**37  # halved at each of three steps that were not taken
    for part in ("model", "optimiser"):
        _assert_close(before[part], after[part])


def test_a_rank_whose_peer_has_failed_says_so_in_one_line(runs: Path) -> None:
    first, second = _ends(runs, "lost")

    assert second["error"] == "DataError"
    assert first == {"error": "RankError", "message": "rank 0 has lost another rank, which says why"}


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint_to_go_on_from(runs: Path) -> None:
    first, second = _ends(runs, "stopped")

    assert first == second
    assert first["error"] == "StoppedError"
    assert re.fullmatch(r"stopped at step \d+ of 12; go on with --resume", first["message"])
    _assert_same(_state(runs / "whole", 12), _state(runs / "stopped", 12))


def test_only_the_first_rank_writes(runs: Path) -> None:
    lines = [json.loads(line) for line in (runs / "whole" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "main" in line]

    assert steps == sorted(set(steps))
    assert len(list((runs / "whole" / "tensorboard").iterdir())) == 1
    assert not list((runs / "whole").rglob("*.partial"))
    assert json.loads((runs / "whole" / "run.json").read_text())["ranks"] == RANKS


def _command(crops: Path, run: Path, *more: str, **changes: Any) -> list[str]:
    file = run.parent / f"{run.name}.yaml"
    file.write_text(config_yaml(parse_config(_config(crops, **changes))))
    return ["training", "train", "--threads", "1", "--run", str(run), "--config", str(file), *more]


def _torchrun(command: list[str]) -> subprocess.Popen[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "-m", "--"]
    return subprocess.Popen(
        [*start, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_under_torchrun_a_run_that_fails_ends_at_once_with_its_reason(crops: Path, tmp_path: Path) -> None:
    process = _torchrun(_command(crops, tmp_path / "run", optimiser={"lr": 1e30}, guard={"rollbacks": 0}))
    output, _ = process.communicate(timeout=90)

    assert process.returncode != 0
    assert output.count("Error: ") - output.count("FailedError: ") == 1
    assert "Error: the loss is not a number at step 2, after 0 rollbacks\n" in output


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_under_torchrun_a_killed_run_ends_as_if_it_had_not_been(crops: Path, tmp_path: Path) -> None:
    long = {**SHARDED, "steps": 150, "checkpoint_every": 10, "validate_every": 150}
    process = _torchrun(_command(crops, tmp_path / "killed", **long))
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.steps(tmp_path / "killed" / "checkpoints"):
            break
        time.sleep(0.01)
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()
    output, _ = process.communicate(timeout=60)
    assert 10 <= checkpoint.read(checkpoint.newest(tmp_path / "killed"))["step"] < 150, output

    for name, more in (("killed", ["--resume"]), ("whole", [])):
        process = _torchrun(_command(crops, tmp_path / name, *more, **long))
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 0, output
        assert output.count(f"{tmp_path / name}: 150 steps") == 1
    _assert_same(_state(tmp_path / "whole", 150), _state(tmp_path / "killed", 150))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_ends_in_one_line_with_a_checkpoint(
    crops: Path, tmp_path: Path, number: signal.Signals
) -> None:
    long = {"steps": 2000, "checkpoint_every": 2000, "validate_every": 2000, "workers": 1}
    command = _command(crops, tmp_path / "run", **long)
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.01)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)

    last = output.splitlines()[-1]
    found = re.fullmatch(r"Error: stopped at step (\d+) of 2000; go on with --resume", last)
    assert process.returncode == 2
    assert found, output
    assert "Traceback" not in output
    assert checkpoint.read(checkpoint.newest(tmp_path / "run"))["step"] == int(found[1])
