"""What each loss reaches: digits beside the L-Softmax paper's table, and people from scratch on LFW's training set.

    python benchmarks/losses.py mnist --data data/mnist [--steps 10000] [--seeds 1 2 3]      ten runs a seed
    python benchmarks/losses.py lfw --data data/lfw [--seeds 1 2 3]                          five losses a seed
    python benchmarks/losses.py mnist --table                                the table of what was run so far

Each run is `facesphere-train train` with a configuration of training/configs and one thread, `--lanes` of them side by
side. A run that was stopped is gone on with; one that is done is not repeated: its result is in
docs/results/losses.json, written as soon as there is one. The last validation counts, not the best: choosing a
checkpoint by the test set flatters it. 10,000 steps of MNIST are the paper's schedule: hours a run on two cores of a
CPU, a minute on a large GPU.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commandline import count, in_one_line, positive

# Python looks for modules beside the script first, and benchmarks/training.py would hide the package.
sys.path.pop(0)


from training.evaluation.intervals import wilson

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "losses.json"
REFERENCE_STEPS = 10_000
# Errors in percent of Liu et al., ICML 2016, table 2, as far as they are stated there.
PAPER = {"softmax": "0.40", "L-Softmax, m = 2": "0.32", "L-Softmax, m = 3": "0.31", "L-Softmax, m = 4": "0.31"}
_writing = threading.Lock()  # lanes end when they like
MNIST = ("softmax", "L-Softmax", "A-Softmax", "softmax + center", "triplet")
LFW = ("softmax", "l-softmax", "a-softmax", "center", "triplet")


@dataclass(frozen=True)
class Run:
    """One training run: its row in the table, its configuration, and what of it is changed."""

    row: str
    config: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its folder, and of its result."""
        margins = [f"m{change.partition('=')[2]}" for change in self.overrides if "margin" in change]
        return "-".join([self.config, *margins, f"seed{self.seed}"])


def main() -> None:
    """Run what is not done yet, and print the table."""
    asked = _arguments()
    runs = _mnist(asked) if asked.table_of == "mnist" else _lfw(asked)
    runs = [run for run in runs if not asked.only or run.row in asked.only]
    if not asked.table:
        with ThreadPoolExecutor(asked.lanes) as lanes:
            for _ in lanes.map(lambda run: _train(run, asked), runs):
                pass
    done = _read().get(_key(asked), {})
    print(_mnist_table(done) if asked.table_of == "mnist" else _lfw_table(done))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table_of", choices=["mnist", "lfw"])
    parser.add_argument("--data", type=Path, help="IDX files, or an aligned set")
    parser.add_argument("--runs", type=Path, default=Path("runs/losses"), help="folder of the runs")
    parser.add_argument("--steps", type=positive, default=REFERENCE_STEPS, help="of MNIST; fewer: the schedule scaled")
    parser.add_argument("--seeds", type=positive, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", metavar="LOSS", help="rows of the table, by their names there")
    parser.add_argument("--lanes", type=count, default=2, help="runs side by side, a thread each")
    parser.add_argument("--workers", type=count, default=1, help="processes that prepare photos, for each run")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16")
    parser.add_argument("--table", action="store_true", help="print the table and run nothing")
    asked = parser.parse_args()
    if asked.data is None and not asked.table:
        parser.error("--data is needed")
    return asked


def _mnist(asked: argparse.Namespace) -> list[Run]:
    share = asked.steps / REFERENCE_STEPS
    schedule = (
        f"steps={asked.steps}",
        f"schedule.milestones=[{round(5000 * share)}, {round(7500 * share)}]",
        f"validate_every={asked.steps}",
        f"checkpoint_every={max(1, asked.steps // 10)}",
    )
    gamma = (
        f"loss.params.annealing.gamma={2.5e-5 / share:.12f}"  # lambda falls over the run as it does over the paper's
    )
    plain = [("softmax", "mnist-softmax"), ("softmax + center", "mnist-center"), ("triplet", "mnist-triplet")]
    margins = [("L-Softmax", "mnist-l-softmax", m) for m in (2, 3, 4)]
    margins += [("A-Softmax", "mnist-a-softmax", m) for m in (1, 2, 3, 4)]
    rows: list[tuple[str, str, tuple[str, ...]]] = [(row, config, schedule) for row, config in plain]
    rows[1:1] = [(f"{row}, m = {m}", c, (*schedule, gamma, f"loss.params.margin={m}")) for row, c, m in margins]
    return [Run(row, config, seed, overrides) for seed in asked.seeds for row, config, overrides in rows]


def _lfw(asked: argparse.Namespace) -> list[Run]:
    once = ("validate_every=1000000", "checkpoint_every=200")
    return [Run(loss, f"lfw-{loss}", seed, once) for seed in asked.seeds for loss in LFW]


def _key(asked: argparse.Namespace) -> str:
    return f"mnist, {asked.steps} steps" if asked.table_of == "mnist" else "lfw"


def _train(run: Run, asked: argparse.Namespace) -> None:
    if run.name in _read().get(_key(asked), {}):
        return
    folder = asked.runs / (f"{asked.steps}-" if asked.table_of == "mnist" else "") / run.name
    resume = any((folder / "checkpoints").glob("step-*.pt"))
    changes = [f"data.train={asked.data}", f"seed={run.seed}", f"precision={asked.precision}"]
    changes += [f"workers={asked.workers}", f"device={asked.device}", *run.overrides]
    command = [sys.executable, "-m", "training", "train", "--run", str(folder), "--threads", "1"]
    command += ["--resume"] if resume else ["--config", str(ROOT / "training" / "configs" / f"{run.config}.yaml")]
    command += [] if resume else [word for change in changes for word in ("--set", change)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("a") as output:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode:
        last = (folder / "output.txt").read_text().strip().splitlines()[-1:]
        _write(asked, run, {"row": run.row, "seed": run.seed, "failed": "".join(last)})
        return
    _write(asked, run, {"row": run.row, "seed": run.seed, **_last(folder)})


def _last(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "validation/accuracy" in line][-1]
    values = {name.removeprefix("validation/"): value for name, value in last.items()}
    record = json.loads((folder / "run.json").read_text())
    made_with = {"git_commit": record["git_commit"], "torch": record["versions"]["torch"], "device": record["device"]}
    return {**values, **made_with}


def _read() -> dict[str, dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def _write(asked: argparse.Namespace, run: Run, result: dict[str, Any]) -> None:
    with _writing:
        results = _read()
        results.setdefault(_key(asked), {})[run.name] = result
        RESULTS.parent.mkdir(exist_ok=True)
        partial = RESULTS.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        partial.replace(RESULTS)
    print(f"{run.row}, seed {run.seed}: {result.get('failed') or result['accuracy']}", flush=True)


def _mnist_table(done: dict[str, Any]) -> str:
    lines = ["| loss | test error, % | 95 % interval | each seed | paper |", "|---|---|---|---|---|"]
    for row in sorted({each["row"] for each in done.values()}, key=_place):
        of_row = [each for each in done.values() if each["row"] == row]
        errors = [round(each["errors"]) for each in of_row if "failed" not in each]
        if not errors:
            lines.append(f"| {row} | {of_row[0]['failed']} | | | |")
            continue
        # Of the test digits: the same ones for each seed, so more seeds do not make it narrower.
        low, high = wilson(round(statistics.mean(errors)), 10_000)
        each = ", ".join(f"{count / 100:.2f}" for count in errors)
        interval = f"{100 * low:.2f} .. {100 * high:.2f}"
        lines.append(f"| {row} | {statistics.mean(errors) / 100:.2f} | {interval} | {each} | {PAPER.get(row, '')} |")
    return "\n".join(lines)


def _place(row: str) -> tuple[int, str]:
    """Softmax first, then the margins in the order of their papers."""
    return MNIST.index(row.partition(",")[0]), row


def _lfw_table(done: dict[str, Any]) -> str:
    lines = ["| loss | accuracy | standard error of the folds | of the seeds | seeds |", "|---|---|---|---|---|"]
    for loss in LFW:
        found = [each for each in done.values() if each["row"] == loss and "failed" not in each]
        if not found:
            continue
        values = [each["accuracy"] for each in found]
        folds = statistics.mean(each["standard_error"] for each in found)
        seeds = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        lines.append(f"| {loss} | {statistics.mean(values):.4f} | {folds:.4f} | {seeds:.4f} | {len(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    in_one_line(main)
