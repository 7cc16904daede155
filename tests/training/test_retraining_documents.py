"""docs/retraining.md names every key of a job and every stage, and its example is a job that can be read."""

import re
from pathlib import Path

import pytest
from config_keys import keys

from training.commands.retrain import _STAGES
from training.retrain.config import RetrainConfig, read_retrain
from training.retrain.stages import NAMES

TEXT = (Path(__file__).parents[2] / "docs" / "retraining.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_0-9.]+)`", TEXT))


@pytest.mark.parametrize("key", keys(RetrainConfig))
def test_every_key_is_documented(key: str) -> None:
    assert key in NAMED


@pytest.mark.parametrize("stage", NAMES)
def test_every_stage_is_documented(stage: str) -> None:
    assert f"| {stage} |" in TEXT


def test_the_command_offers_the_stages_that_there_are() -> None:
    assert _STAGES == NAMES  # the command names them without loading torch


def test_the_example_is_a_job(tmp_path: Path) -> None:
    block = TEXT.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "retrain.yaml").write_text(block)

    assert read_retrain(tmp_path / "retrain.yaml").name == "people-1"


def test_the_jobs_that_the_tables_were_made_with_can_be_read() -> None:
    job = read_retrain(Path(__file__).parents[2] / "training" / "configs" / "retrain" / "lfw.yaml")

    assert (job.gate.fmr, job.gate.margin, job.gate.against) == (0.01, 0.02, "champion")
