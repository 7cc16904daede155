"""Four retrain jobs on LFW's training people: a first, a better, a worse one that must be refused, and that cleaned.

    make bench-gate ARGS="--data data/lfw --photos data/lfw_devtrain.tar --out gate"

`--data` are the crops of `--photos`, aligned with `--face central`. A registry of its own begins in OUT/models with the
default models. Each job is training/configs/retrain/lfw.yaml with a few values replaced; they go on where they were
stopped. An hour and a half on one thread, most of it embedding the photos for cleaning; `--only first` is ten minutes
of it. Prints the table of docs/retraining.md.
"""

import argparse
import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from commandline import in_one_line
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)


from models import zoo
from models.registry import Registry
from training.data.aligned import AlignedSet

JOBS = ("first", "all", "poisoned", "cleaned")
STATUS = {"poisoned": 3}  # the gate refuses; the others are promoted
CONFIG = ROOT / "training" / "configs" / "retrain" / "lfw.yaml"


def main() -> None:
    """Write the lists, run the jobs, print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="aligned set")
    parser.add_argument("--photos", type=Path, required=True, help="the photos that it was made of")
    parser.add_argument("--out", type=Path, required=True, help="folder for lists, jobs and registry")
    parser.add_argument("--only", choices=JOBS, help="stop after this one")
    given = parser.parse_args()
    prepare(AlignedSet.open(given.data), given.out / "crops")
    registry = Registry(given.out / "models")
    for model_id in zoo.default_ids():
        zoo.pull(registry, model_id)
    print("| job | data | held out | TAR, difference | gate | seconds |\n|---|---|---|---|---|---|", flush=True)
    for name in JOBS[: JOBS.index(given.only) + 1 if given.only else None]:
        run(name, given.out.absolute(), given.photos.absolute())
        print(row(given.out / name), flush=True)


def prepare(data: AlignedSet, folder: Path) -> None:
    """The crops as files, and two lists of them: two fifths of the people, and all with every fifth label wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"{Path(photo).stem}.png" for photo in data.photos]
    for name, crop in zip(files, data.crops, strict=True):
        if not (folder / name).exists():
            Image.fromarray(np.asarray(crop)).save(folder / name, compress_level=1)
    people = [data.people[label] for label in data.labels]
    first = [(file, person) for file, person in zip(files, people, strict=True) if _share("old" + person) < 0.4]
    _write_list(folder / "first.csv", first)
    wrong = [data.people[label] for label in _poisoned(data)]
    _write_list(folder / "poisoned.csv", list(zip(files, wrong, strict=True)))


def _share(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def _poisoned(data: AlignedSet) -> Any:
    rng, labels = np.random.default_rng(0), data.labels.copy()
    rows = rng.permutation(len(labels))[: int(0.2 * len(labels))]
    others = rng.integers(len(data.people) - 1, size=len(rows))
    others[others >= labels[rows]] += 1
    labels[rows] = others
    return labels


def _write_list(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "person"), *rows])


def changes(name: str, out: Path, photos: Path) -> Iterator[str]:
    """What is replaced in the configuration."""
    yield from (f"name=lfw-{name}", f"job={out / name}", f"registry={out / 'models'}")
    if name == "all":
        yield f"data={photos}"
        return
    yield from (f"data={out / 'crops' / ('first' if name == 'first' else 'poisoned')}.csv", "align.aligned=true")
    yield from ("align.face=largest", "align.height=112")
    if name == "first":
        yield from ("gate.against=none", "train.epochs=25")
        return
    # The people of the second job judge the other two, under the names that cleaning gave them there.
    yield f"split.trusted={_stage(out / 'all', 'split') / 'held_out'}"
    if name == "poisoned":
        yield "clean.enabled=false"


def run(name: str, out: Path, photos: Path) -> None:
    """One job, to its end."""
    options = [option for change in changes(name, out, photos) for option in ("--set", change)]
    command = [sys.executable, "-m", "training", "retrain", "--config", str(CONFIG), *options]
    with (out / f"{name}.log").open("w") as log:
        status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status != STATUS.get(name, 0):
        raise SystemExit(f"{name} ended with {status}; see {out / name}.log")
    if name == "first":  # which was compared with nobody
        Registry(out / "models").promote(f"lfw-{name}")


def _stage(job: Path, name: str) -> Path:
    (folder,) = (each.parent for each in job.glob(f"stages/{name}-*/done.json"))
    return folder


def row(job: Path) -> str:
    """A line of the table, out of what the stages left."""
    done = {
        path.parent.name.partition("-")[0]: json.loads(path.read_bytes()) for path in job.glob("stages/*/done.json")
    }
    data, split, measured, compared, gate = (
        done[stage]["line"] for stage in ("ingest", "split", "evaluate", "compare", "gate")
    )
    seconds = sum(each["seconds"] for each in done.values())
    return f"| {job.name} | {data} | {split}; {measured} | {compared} | {gate} | {seconds:.0f} |"


if __name__ == "__main__":
    in_one_line(main)
