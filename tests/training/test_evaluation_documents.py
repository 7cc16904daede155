"""docs/evaluation.md and the command say the same."""

import re
from pathlib import Path

import click
import pytest

from training.__main__ import main

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMAND = main.get_command(click.Context(main), "evaluate")
assert COMMAND is not None
OPTIONS = {name for parameter in COMMAND.params for name in parameter.opts if name.startswith("--")}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_every_option_is_documented(option: str) -> None:
    assert re.search(rf"`{option}[` ]", TEXT)


def test_no_option_is_documented_that_there_is_not() -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= OPTIONS
