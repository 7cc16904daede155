"""Nobody who was trained on is evaluated on."""

import csv
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from training.data.aligned import AlignedSet
from training.data.errors import DataError


def trained_people(path: Path) -> frozenset[str]:
    """Names of the people that a model was trained on.

    Args:
        path: a run of `facesphere-train train`, whose aligned set must be where it was; the folder of an aligned set; a
            folder with a folder a person; a .csv with a column `person`; or a text file with one name a line.

    Raises:
        DataError: it cannot be read, or names nobody.
    """
    try:
        names = _of_folder(path) if path.is_dir() else _of_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: it should be a list with one name a line") from error
    if not names:
        raise DataError(f"{path} names nobody")
    return frozenset(names)


def check_not_trained_on(evaluated: Iterable[str], trained: Iterable[str]) -> None:
    """Compare names without regard to case, and with "_" for a blank: lists of one set differ in that.

    Raises:
        DataError: naming a person who is in both.
    """
    known = {_plain(name) for name in trained}
    both = sorted(name for name in set(evaluated) if _plain(name) in known)
    if both:
        raise DataError(f"{len(both)} people of the evaluation were trained on, {both[0]!r} is one")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().replace("_", " ").strip()


def held_out_of(run: Path) -> frozenset[str]:
    """Names of the people that a run kept aside.

    Raises:
        DataError: it is no run, is damaged, or kept nobody aside.
    """
    record = run / "run.json"
    try:
        names = [str(name) for name in json.loads(record.read_bytes())["held_out"]]
    except OSError as error:
        raise DataError(f"{run} is no run of facesphere-train train: cannot read {record}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} is damaged") from error
    if not names:
        raise DataError(f"{run} held nobody out")
    return frozenset(names)


def only_held_out(data: AlignedSet, run: Path) -> AlignedSet:
    """The photos of the people that a run kept aside.

    Raises:
        DataError: as of held_out_of, or none of them is in the set.
    """
    names = held_out_of(run)
    keep = np.array([person in names for person in data.people], np.bool_)
    if not keep.any():
        raise DataError(f"none of the {len(names)} people that {run} held out is in this set")
    return data.subset(keep[data.labels])


def _of_run(run: Path) -> list[str]:
    """run.json names those held out, config.yaml the set: who was trained on are its other people."""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        data = Path(config["data"]["train"])
        held_out = set(json.loads((run / "run.json").read_bytes())["held_out"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run} is damaged: run.json or config.yaml is not as it was written") from error
    if not (data / "set.json").is_file():
        raise DataError(f"whom {run} was trained on cannot be told: its set {data} is not there; name a list instead")
    return [name for name in _of_folder(data) if name not in held_out]


def _of_folder(path: Path) -> list[str]:
    if (path / "run.json").is_file():
        return _of_run(path)
    header = path / "set.json"
    if not header.is_file():
        return [entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    try:
        people = json.loads(header.read_bytes())["people"]
        return [str(name) for name in people]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{header} is damaged") from error


def _of_file(path: Path) -> list[str]:
    if path.suffix.lower() != ".csv":
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if "person" not in (reader.fieldnames or ()):
            raise DataError(f"{path} has no column person")
        return [row["person"] for row in reader if row["person"]]
