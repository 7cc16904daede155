"""facesphere-train figures."""

from pathlib import Path

import click

from training.data.errors import DataError

_NAMES = ("psi", "features", "angles", "margin", "m_min")


@click.command(epilog="Example: facesphere-train figures --data data/mnist --out docs/figures --only psi,margin")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of MNIST's four IDX files.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Pictures, results.json.")
@click.option("--only", default=",".join(_NAMES), show_default=True, metavar="NAME,...", help="Which pictures.")
@click.option("--steps", type=click.IntRange(20), default=350, show_default=True, help="Of training, of each run.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True)
@click.option(
    "--cache", type=click.Path(path_type=Path), default="data/figures", show_default=True, help="Of the runs."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of PyTorch.")
def figures(data: Path, out: Path, only: str, steps: int, seed: int, cache: Path, threads: int) -> None:
    """Draw the pictures that docs/losses.md teaches with, on digits.

    Eleven small networks are trained, one a loss. A call that was stopped goes on where it was; what is in the cache is
    not trained again.
    """
    names = _chosen(only)
    if not data.is_dir():
        raise DataError(f"there is no folder {data}")
    import torch

    from training.data.mnist import read_mnist
    from training.figures.make import Request, make
    from training.figures.runs import Plan

    read_mnist(data, "train")  # a missing file is told before an hour of training
    torch.set_num_threads(threads)
    make(Request(names, Plan(data, steps, seed), out, cache, threads), lambda text: click.echo(text, err=True))


def _chosen(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(names) - set(_NAMES))
    if unknown or not names:
        raise click.UsageError(f"--only takes {', '.join(_NAMES)}; got {unknown[0] if unknown else only!r}")
    return names
