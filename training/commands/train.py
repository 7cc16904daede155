"""facesphere-train train."""

from pathlib import Path

import click


@click.command(epilog="Example: facesphere-train train --config training/configs/lfw-scratch.yaml --run runs/lfw")
@click.option("--config", "path", type=click.Path(path_type=Path), help="YAML file; of the run itself with --resume.")
@click.option("--run", type=click.Path(path_type=Path), required=True, help="Folder for checkpoints and curves.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value: --set optimiser.lr=0.05")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the run.")
@click.option("--threads", type=click.IntRange(1), help="Of PyTorch; all cores if left out.")
def train(path: Path | None, run: Path, overrides: tuple[str, ...], resume: bool, threads: int | None) -> None:
    """Train a network and keep the checkpoints of the run."""
    from training.config import read_config
    from training.trainer.distributed import speaks
    from training.trainer.interrupt import StoppedError
    from training.trainer.loop import TrainingError
    from training.trainer.run import train as fit

    if path is None:
        if not resume:
            raise click.UsageError("state --config FILE, or --resume")
        path = run / "config.yaml"
    try:
        result = fit(read_config(path, overrides), run, resume, threads)
    except (TrainingError, StoppedError):  # ends all ranks alike: one of them says why
        if speaks():
            raise
        raise click.exceptions.Exit(2) from None
    best = f", best validation {result.best:.4f} at step {result.best_step}" if result.best_step else ""
    if speaks():
        click.echo(f"{run}: {result.steps} steps{best}")
