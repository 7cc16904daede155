"""facesphere-train retrain."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from models.commandline import Failure
from models.registry import Registry

if TYPE_CHECKING:
    from training.retrain.job import Job

_STAGES = (
    "ingest",
    "align",
    "clean",
    "split",
    "train",
    "evaluate",
    "calibrate",
    "export",
    "parity",
    "compare",
    "gate",
    "register",
    "promote",
)


class Refusal(Failure):
    """All was done, and the gate says no: exit status 3, so that a scheduler can tell it from a failure."""

    exit_code = 3


@click.command(epilog="Example: facesphere-train retrain --config retrain.yaml")
@click.option("--config", "path", type=click.Path(path_type=Path), required=True, help="YAML file of the job.")
@click.option("--only", type=click.Choice(_STAGES), help="Run this stage alone; what it reads must be there.")
@click.option("--from", "begin", type=click.Choice(_STAGES), help="Run this stage and all after it again.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace a value: --set gate.margin=0.02")
def retrain(path: Path, only: str | None, begin: str | None, overrides: tuple[str, ...]) -> None:
    """Take photos of people all the way to a calibrated model, promoted only if it is proven not worse.

    A job that was stopped goes on where it was, and runs again only what has changed. Exit status 2: a stage failed; 3:
    the gate refused. Either way the champion serves on.
    """
    if only and begin:
        raise click.UsageError("--only and --from exclude each other")
    from training.retrain.config import read_retrain
    from training.retrain.errors import RefusedError
    from training.retrain.job import Job, run_job
    from training.retrain.shadow import read_shadow
    from training.retrain.stages import STAGES
    from training.retrain.state import JobFolder

    config = read_retrain(path, overrides)
    if config.shadow is not None:
        read_shadow(config.shadow, config.name)  # what is wrong with it is told before any work
    folder = JobFolder(config.job)
    with folder.held():
        job = Job(config, folder, Registry(config.registry), click.echo)
        try:
            run_job(job, STAGES, only, begin)
        except RefusedError as error:
            raise Refusal(error.message) from error
        finally:
            _report(job)


def _report(job: "Job") -> None:
    """Whatever is wrong with the report, how the job itself ended is what its exit status says."""
    if not job.done:
        return
    try:
        from training.retrain.report import write_report

        click.echo(f"report: {write_report(job)}")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        click.echo(f"report: could not be written: {reason}", err=True)
