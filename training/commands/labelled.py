"""Options that `evaluate` and `calibrate` share, and the work that both begin with."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from models.calibration import Calibration
from models.registry import Registry
from training.calibrate import fit
from training.commands.progress import counter
from training.embeddings import EmbeddedSet, SetEmbedder

F = TypeVar("F", bound=Callable[..., Any])


def set_options(command: F) -> F:
    """Add the options that name the photos, the models and how to count."""
    for option in (
        click.option("--threads", type=click.IntRange(1), default=len(os.sched_getaffinity(0)), show_default="cores"),
        click.option(
            "--rounds",
            type=click.IntRange(20, 10_000),
            default=200,
            show_default=True,
            help="Of the bootstrap.",
        ),
        click.option(
            "--face",
            "choice",
            type=click.Choice(["largest", "central"]),
            default="largest",
            show_default=True,
        ),
        click.option("--detector", metavar="ID", help="Detector; the promoted one if left out."),
        click.option("--model", metavar="ID", help="Embedder; the promoted one if left out."),
        click.option("--registry", type=click.Path(path_type=Path), default="data/models", show_default=True),
        click.option(
            "--data",
            "path",
            type=click.Path(path_type=Path, exists=True),
            required=True,
            help="PERSON/PHOTO folder or tar.",
        ),
    ):
        command = option(command)
    return command


def calibrated(
    path: Path,
    registry: Path,
    model: str | None,
    detector: str | None,
    choice: Any,
    rounds: int,
    threads: int,
    describe: str = "",
) -> tuple[SetEmbedder, EmbeddedSet, Calibration]:
    """Embed a set of photos and calibrate on it; the options of set_options are the arguments."""
    embedder = SetEmbedder(Registry(registry), model, detector, choice)
    with counter("embedding") as step:
        data = embedder.embed_people(path, threads, step)
    description = describe or path.name
    return embedder, data, fit(data, description, embedder.detector_id, rounds)
