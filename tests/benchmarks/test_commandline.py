"""What a benchmark cannot be given is told in one line."""

import subprocess
import sys

import pytest
from photos import ROOT


def _told(*arguments: str) -> tuple[int, str]:
    """The exit status, and what is on stderr."""
    script = ROOT / "benchmarks" / arguments[0]
    run = subprocess.run([sys.executable, script, *arguments[1:]], capture_output=True, text=True, timeout=60, cwd=ROOT)
    return run.returncode, run.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("throughput.py", "--seconds", "0"), "'0' is no number over 0"),
        (("throughput.py", "--seconds", "inf"), "'inf' is no number over 0"),
        (("throughput.py", "--rounds", "two"), "'two' is no whole number from 1 on"),
        (("ceiling.py", "--threads", "-1"), "'-1' is no whole number from 0 on"),
        (("startup.py", "--sizes", "10000"), "'10000' is not of the form 10000x128"),
        (("gallery.py", "--sizes", "0x128"), "'0x128' is not of the form 10000x128"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(arguments: tuple[str, ...], word: str) -> None:
    status, said = _told(*arguments)
    assert (status, word in said.splitlines()[-1]) == (2, True), said


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("routes.py", "--data", "/nowhere"), "/nowhere is no aligned set"),
        (("shapes.py", "--device", "cpu", "--model", "nobody"), "there is no model 'nobody'"),
        (("latency.py", "--photo", "/nowhere.jpg"), "No such file or directory: '/nowhere.jpg'"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(arguments: tuple[str, ...], word: str) -> None:
    status, said = _told(*arguments)
    assert status == 1
    assert said.count("\n") == 1
    assert said.startswith(f"{arguments[0]}: ")
    assert word in said
