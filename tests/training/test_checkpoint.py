"""Checkpoint files: whole or not there, and never a way to run code."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from training.trainer import checkpoint
from training.trainer.checkpoint import CheckpointError


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / checkpoint.name(7)
    checkpoint.write(file, {"step": 7, "model": {"w": torch.arange(3)}})

    state = checkpoint.read(file)

    assert state["step"] == 7
    assert torch.equal(state["model"]["w"], torch.arange(3))
    assert [path.name for path in file.parent.iterdir()] == ["step-00000007.pt"]


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        checkpoint.write(folder / checkpoint.name(step), {"step": step})
    last = folder / checkpoint.name(3)
    last.write_bytes(last.read_bytes()[:100])

    assert checkpoint.newest(tmp_path) == folder / checkpoint.name(2)


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"format": 1}), b"PK\x03\x04" + bytes(64)])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(content)

    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(file)

    assert "x.pt" in caught.value.message
    assert "\n" not in caught.value.message


class _RunsCode:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def test_a_crafted_checkpoint_runs_nothing(tmp_path: Path) -> None:
    file, trace = tmp_path / "x.pt", tmp_path / "trace"
    torch.save({"format": 1, "model": _RunsCode(trace)}, file)

    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.read(file)

    assert not trace.exists()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        checkpoint.write(tmp_path / checkpoint.name(step), {"step": step})

    checkpoint.prune(tmp_path, keep=2)

    assert [step for step, _ in checkpoint.steps(tmp_path)] == [20, 100]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CheckpointError, match="cannot write"):
        checkpoint.write(tmp_path / "file" / "x.pt", {})
