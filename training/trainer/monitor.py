"""Where a run tells how it goes: a progress bar or plain lines, metrics.jsonl, TensorBoard, and MLflow if wished."""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from training.config import ConfigError, TrainConfig

METRICS = "metrics.jsonl"


class Clock:
    """Photos a second since it was last asked; nan the first time."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None

    def rate(self, photos: int) -> float:
        """The rate, given how many photos there have been in all."""
        now, last = time.monotonic(), self._last
        self._last = (now, photos)
        return (photos - last[1]) / (now - last[0]) if last and now > last[0] else math.nan


class Monitor:
    """Open for the time of a run, on rank 0 only; the others get a silent one."""

    def __init__(self, run: Path, config: TrainConfig, first_step: int, total: int, silent: bool) -> None:
        self.silent = silent
        if silent:
            return
        self._run = run
        _forget_after(run / METRICS, first_step)
        self._lines = (run / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(run / "tensorboard", purge_step=first_step + 1 if first_step else None)
        self._mlflow = _mlflow(config) if config.mlflow else None
        self._bar = tqdm(total=total, initial=first_step, desc=config.name, unit="step", disable=None)
        self._began, self._total = time.monotonic(), total

    def step(self) -> None:
        """One more step is done."""
        if not self.silent:
            self._bar.update()

    def log(self, step: int, values: dict[str, float], say: bool = True) -> None:
        """Values at a step; each a curve."""
        if self.silent:
            return
        values = {name: value for name, value in values.items() if math.isfinite(value)}  # JSON knows no other numbers
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._mlflow is not None:
            self._mlflow.log_metrics(values, step=step)
        if say:
            self.say(f"step {step}/{self._total}  " + "  ".join(f"{n} {v:.4g}" for n, v in values.items()))

    def rewind(self, step: int) -> None:
        """Training goes on from `step`: what was said of later ones is no longer so."""
        if self.silent:
            return
        self._lines.close()
        self._board.close()
        _forget_after(self._run / METRICS, step)
        self._lines = (self._run / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(self._run / "tensorboard", purge_step=step + 1)
        self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """A line for the user, above the bar if there is one."""
        if not self.silent:
            tqdm.write(f"[{time.monotonic() - self._began:7.1f} s] {text}")

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.silent:
            return
        self._bar.close()
        self._lines.close()
        self._board.close()
        if self._mlflow is not None:
            self._mlflow.end_run("FAILED" if kind else "FINISHED")


def _forget_after(file: Path, step: int) -> None:
    """Leave lines of steps up to `step`, whole ones: a run that was killed may have left half a line."""
    if file.exists():
        kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        partial = file.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        partial.replace(file)


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _mlflow(config: TrainConfig) -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise ConfigError("mlflow is named in the configuration and not installed: pip install mlflow") from error
    try:
        mlflow.set_tracking_uri(config.mlflow)
        mlflow.set_experiment("facesphere")
        mlflow.start_run(run_name=config.name)
        mlflow.log_params({"seed": config.seed, "backbone": config.backbone.name, "batch": config.batch})
    except mlflow.exceptions.MlflowException as error:
        raise ConfigError(f"mlflow at {config.mlflow}: {str(error).splitlines()[0]}") from error
    return mlflow
