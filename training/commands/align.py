"""facesphere-train align."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from models.alignment import TEMPLATE_NAMES, Template
from models.registry import Registry
from training.commands.progress import counter
from training.data.aligning import Cut, Report, align_photos
from training.data.errors import DataError
from training.data.faces import Choice, DetectingCutter, WholeCutter
from training.data.parts import AlignSettings

# Height and width of a template's own crop.
_SIZES = {"arcface": (112, 112), "sphereface": (112, 96)}


@click.command(epilog="Example: facesphere-train align --data photos/ --out crops/ --registry data/models")
@click.option("--data", "path", type=click.Path(path_type=Path), required=True, help="Source; see docs/data.md.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the aligned set.")
@click.option("--template", type=click.Choice(TEMPLATE_NAMES), default="arcface", show_default=True)
@click.option("--size", metavar="HxW", help="Of a crop; the template's own if left out.")
@click.option("--face", type=click.Choice(["largest", "central"]), default="largest", show_default=True)
@click.option("--aligned", is_flag=True, help="The images are aligned crops already.")
@click.option("--min-images", type=click.IntRange(1), default=1, show_default=True, help="Of a person.")
@click.option("--min-face", type=click.IntRange(0), default=0, show_default=True, help="Shorter side, in pixels.")
@click.option("--detector", metavar="ID", help="Detector; the promoted one if left out.")
@click.option("--registry", type=click.Path(path_type=Path), default="data/models", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=len(os.sched_getaffinity(0)), show_default="cores")
def align(path: Path, out: Path, min_images: int, threads: int, **options: Any) -> None:
    """Cut the face out of every photo, and write the crops as the set that training reads.

    A run that was stopped goes on where it was when it is started again with the same options.
    """
    settings, cut = _settings(path, **options)
    with _progress() as step:
        report = align_photos(path, out, settings, cut, threads, min_images, step)
    _print(report, out)


def _settings(
    path: Path,
    template: str,
    size: str | None,
    face: Choice,
    aligned: bool,
    min_face: int,
    detector: str | None,
    registry: Path,
) -> tuple[AlignSettings, Cut]:
    height, width = _size(template, size)
    try:
        place = Template(template, width, height)
    except ValueError as error:
        raise DataError(str(error)) from error
    name: str | None
    cut: Cut
    if aligned:
        name = None
        cut = WholeCutter(place)
    else:
        bundle = Registry(registry).resolve("detector", detector)
        name, cut = (
            f"{bundle.manifest.id} {bundle.manifest.model_sha256}",
            DetectingCutter(bundle, place, face, min_face),
        )
    settings = AlignSettings(
        source=str(path.absolute()),
        template=template,
        height=height,
        width=width,
        face="whole image" if aligned else face,
        aligned=aligned,
        min_face=min_face,
        detector=name,
    )
    return settings, cut


def _size(template: str, size: str | None) -> tuple[int, int]:
    if size is None:
        return _SIZES[template]
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size)
    if not match:
        raise DataError(f"--size must be HEIGHTxWIDTH in pixels, such as 112x112, got {size!r}")
    return int(match[1]), int(match[2])


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        with counter("aligning") as plain_step:
            yield plain_step
        return
    with tqdm(desc="aligning", unit=" photos") as bar:

        def step(count: int) -> None:
            bar.update(count)

        yield step


def _print(report: Report, out: Path) -> None:
    click.echo(f"{out}: {report.aligned} crops of {report.people} people out of {report.photos} photos")
    for code, count in report.skipped.items():
        click.echo(f"skipped {count}: {code}, such as {report.examples[code]}")
    if report.skipped:
        click.echo(f"all of them: {out / 'skipped.csv'}")
