"""docs/training.md names every key of a configuration."""

import re
from pathlib import Path

import pytest
from config_keys import keys

from training.config import TrainConfig

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_0-9.]+)`", TEXT))


@pytest.mark.parametrize("key", keys(TrainConfig))
def test_every_key_is_documented(key: str) -> None:
    assert key in NAMED
