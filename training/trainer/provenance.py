"""What a run was made of: written beside its checkpoints, and later into the bundle."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from training.config import ConfigError, TrainConfig, config_yaml
from training.data.aligned import AlignedSet

_PACKAGES = ("facesphere", "torch", "numpy", "opencv-python-headless")


def describe(
    config: TrainConfig, train: AlignedSet, held_out: AlignedSet | None, world: int, device: torch.device
) -> dict[str, Any]:
    """Seed, commit, versions, device, digests and the people that were not trained on."""
    return {
        "name": config.name,
        "seed": config.seed,
        "ranks": world,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "git_commit": git_commit(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "data": {
            "source": train.source,
            "digest": train.digest,
            "template": train.template,
            "people": len(train.people),
            "photos": len(train.photos),
        },
        "held_out": list(held_out.people) if held_out is not None else [],
    }


def record(run: Path, config: TrainConfig, description: dict[str, Any]) -> None:
    """Write config.yaml and run.json into the run's folder."""
    try:
        (run / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
        (run / "run.json").write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write into {run}: {error.strerror}") from error


def git_commit() -> str | None:
    """The commit of the code, with "+" where it has been changed since; None outside of a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 (fixed arguments)
        ["git", *arguments],  # noqa: S607 (the user's git)
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
