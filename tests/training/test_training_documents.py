"""docs/training.md names every key of a configuration."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from training.config import TrainConfig

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_0-9.]+)`", TEXT))


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = [
            part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(part, type)
        ]
        section = next((part for part in inner if issubclass(part, BaseModel)), None)
        found += _keys(section, f"{prefix}{name}.") if section and not prefix else [f"{prefix}{name}"]
    return found


@pytest.mark.parametrize("key", _keys(TrainConfig))
def test_every_key_is_documented(key: str) -> None:
    assert key in NAMED
