"""facesphere-train evaluate."""

from typing import Any

import click

from training.commands.labelled import calibrated, set_options


@click.command(epilog="Example: facesphere-train evaluate --data lfw.tar --registry data/models")
@set_options
def evaluate(**options: Any) -> None:
    """Print TAR at each false-match rate, with 95 % intervals, and the failure-to-enrol rate."""
    _, data, calibration = calibrated(**options)
    click.echo(f"photos {len(data.photos) + len(data.failed)}, people {len(data.names)}, face: {options['choice']}")
    click.echo(f"failure to enrol: {len(data.failed)} ({data.failure_to_enrol:.4%})")
    click.echo(f"genuine pairs {calibration.genuine_pairs:,}, impostor pairs {calibration.impostor_pairs:,}")
    click.echo("FMR     TAR      95 % interval      threshold  95 % interval")
    for point in calibration.points:
        click.echo(
            f"{point.fmr:<7.0e} {point.tar:.4f}   {point.tar_low:.4f} .. {point.tar_high:.4f}   "
            f"{point.threshold:.4f}     {point.threshold_low:.4f} .. {point.threshold_high:.4f}"
        )
