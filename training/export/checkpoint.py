"""A checkpoint of a run to the network that was trained."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.backbones import build
from training.config import ConfigError, TrainConfig, parse_config
from training.trainer import checkpoint as files
from training.trainer.checkpoint import CheckpointError

_CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network in evaluation mode, and the configuration and step it comes from.

    `module` maps float32 (N, C, H, W), normalised already, to (N, D); its weights are the moving average of the
    trained ones where one was kept. `source` is the name of the file, `sha256` its digest. `template` and `held_out`,
    the people that were not trained on, are of the run's own record, where that lies beside the file.
    """

    module: nn.Module
    config: TrainConfig
    step: int
    source: str
    sha256: str
    template: str | None = None
    held_out: tuple[str, ...] = ()


def load_trained(path: Path) -> Trained:
    """The network of a checkpoint, or of a run: its best checkpoint, or its newest where none was validated.

    Raises:
        CheckpointError: missing, damaged, or of another network than its own configuration says.
    """
    file = _file(path)
    state = files.read(file)
    try:
        config = parse_config(state["config"], str(file))
        module = _build(config)
        module.load_state_dict(_weights(state))
        step = int(state.get("step", 0))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, ConfigError) as error:
        raise CheckpointError(f"{file} holds no network that can be built: {_reason(error)}") from error
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return Trained(module.eval(), config, step, file.name, digest, *_record(file))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    best = path / "best.pt"
    return best if best.is_file() else files.newest(path)


def _record(file: Path) -> tuple[str | None, tuple[str, ...]]:
    """Template and people held out, out of run.json."""
    found = next((each for each in (file.parent, file.parent.parent) if (each / "run.json").is_file()), None)
    if found is None:
        return None, ()
    try:
        record = json.loads((found / "run.json").read_text(encoding="utf-8"))
        return record["data"]["template"], tuple(str(name) for name in record["held_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{found / 'run.json'} is damaged: {_reason(error)}") from error


def _build(config: TrainConfig) -> nn.Module:
    size = (config.input.height, config.input.width)
    backbone = config.backbone
    channels = _CHANNELS[config.input.channels]
    module: nn.Module = build(backbone.name, config.dimension, size, channels=channels, **backbone.params)
    return module


def _weights(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    average = state.get("average")
    weights: Mapping[str, Tensor] = state["model"] if average is None else average["state"]
    return weights


def _reason(error: Exception) -> str:
    """One line; torch's list of misfits names the first of them on its second."""
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r} in it"
    return " ".join(line.strip() for line in str(error).splitlines()[:2])[:300] or type(error).__name__
