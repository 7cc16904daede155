"""What the benchmarks' command lines share: numbers that make sense, and errors in one line."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class StartError(Exception):
    """A program that is to be measured, or that measures, did not do what it should; with what it said."""


def in_one_line(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark; what cannot be measured is told in one line, without a traceback."""
    from models.errors import FaceError  # not above: the load needs nothing of the project

    name = Path(sys.argv[0]).name
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        sys.exit(130)
    except FaceError as error:
        sys.exit(f"{name}: {error.message}")
    except (OSError, StartError) as error:
        sys.exit(f"{name}: {' '.join(str(error).split())}")


def in_turns(parser: argparse.ArgumentParser, seconds: float, rounds: int = 3) -> None:
    """Add what those have in common who measure for a while, several times, in turns; with these defaults."""
    parser.add_argument("--seconds", type=amount, default=seconds, help=f"of each measurement (default: {seconds})")
    parser.add_argument(
        "--rounds", type=positive, default=rounds, help=f"of all measurements in turns (default: {rounds})"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")


def positive(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def count(text: str) -> int:
    """A number of things, or none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def amount(text: str) -> float:
    """A number over 0: of seconds, of times."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number over 0")
    return value


def faces_by_values(text: str) -> str:
    """FACESxVALUES: 10000x128."""
    faces, times, values = text.partition("x")
    if not times or not all(each.isdecimal() and int(each) > 0 for each in (faces, values)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 10000x128")
    return text
