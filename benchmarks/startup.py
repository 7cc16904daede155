"""How long `facesphere serve` takes until it is ready, with snapshots of the index and without.

    python benchmarks/startup.py [--sizes 10000x128 100000x128 100000x512] [--rounds 3]

Every start follows a SIGKILL of the server before. The states take turns; medians of several rounds, in seconds from
the start of the process to its line on stdout. An empty gallery tells what loading the models takes.
"""

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from commandline import faces_by_values, in_one_line, positive
from live import default_models, server

from models.preprocess import l2_normalize
from service.domain import CollectionSettings, ModelInfo, NewFace
from service.gallery.embedded import EmbeddedGallery
from service.gallery.snapshots import FOLDER
from service.gallery.store import Store, open_store
from service.security.keyfolder import KeyFolder, open_keys

LATE = 100  # one in so many faces is enrolled after the snapshot was written
AT_ONCE = 10_000
OF_A_PERSON = 10
STATES = ("empty", "records", "snapshot", "snapshot, 1 % new")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        type=faces_by_values,
        nargs="+",
        default=["10000x128", "100000x128", "100000x512"],
        metavar="FACESxVALUES",
    )
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--states", nargs="+", choices=STATES, default=STATES)
    asked = parser.parse_args()
    default_models()
    print(f"\nseconds to ready: median (largest) of {asked.rounds}")
    print(f"{'':14}" + "".join(f"{each:>20}" for each in asked.states))
    for size in asked.sizes:
        faces, dimension = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as scratch:
            _make(Path(scratch), faces, dimension)
            times = _measured(Path(scratch), asked.rounds, asked.states)
        cells = [f"{statistics.median(times[each]):.2f} ({max(times[each]):.2f})" for each in asked.states]
        print(f"{size:14}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def _measured(scratch: Path, rounds: int, states: Sequence[str]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {state: [] for state in states}
    for _ in range(rounds):
        for state in states:
            shutil.rmtree(scratch / "data" / FOLDER, ignore_errors=True)
            if (scratch / state).exists():
                shutil.copytree(scratch / state, scratch / "data" / FOLDER)
            os.sync()  # what was copied is not on its way to the disk while the server reads
            began = time.perf_counter()
            with server(2, None if state == "empty" else scratch / "data", signal.SIGKILL):
                times[state].append(time.perf_counter() - began)
    return times


def _make(scratch: Path, faces: int, dimension: int) -> None:
    """A gallery, and in a folder each the snapshot of all of it and the one of its first 99 %."""
    early = faces - faces // LATE
    (scratch / "data").mkdir()
    with contextlib.closing(open_store(scratch / "data", _keys(scratch))) as store:
        model = ModelInfo("made up", "0123456789abcdef", dimension)
        with store.trail.change():
            store.records.adopt_collection("lab", CollectionSettings("a measurement"), model, store.database.now())
        _enrol(store, dimension, 0, early)
    _write_snapshot(scratch, "snapshot, 1 % new")
    with contextlib.closing(open_store(scratch / "data", _keys(scratch))) as store:
        _enrol(store, dimension, early, faces)
    _write_snapshot(scratch, "snapshot")


def _keys(scratch: Path) -> KeyFolder:
    return open_keys(scratch / "data.keys")


def _enrol(store: Store, dimension: int, start: int, end: int) -> None:
    """Many people in one transaction, each with ten faces."""
    rng = np.random.default_rng(start)
    for first in range(start, end, AT_ONCE):
        vectors = l2_normalize(rng.normal(size=(AT_ONCE, dimension)))
        with store.trail.change():
            for person in range(first, min(first + AT_ONCE, end), OF_A_PERSON):
                now, numbers = store.database.now(), range(person, min(person + OF_A_PERSON, end))
                new = [(f"{number:032x}", now, NewFace(vectors[number - first], 0.5, None, None)) for number in numbers]
                store.records.adopt_subject("lab", f"person {person}", now, new)


def _write_snapshot(scratch: Path, name: str) -> None:
    """As a server does that is stopped; nothing where the gallery is too small for one."""
    EmbeddedGallery(scratch / "data", _keys(scratch)).close()
    if (scratch / "data" / FOLDER).exists():
        (scratch / "data" / FOLDER).rename(scratch / name)


if __name__ == "__main__":
    in_one_line(main)
