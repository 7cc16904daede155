"""facesphere-train evaluate."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from models.calibration import Calibration
from models.registry import Registry
from training.calibrate import fit
from training.commands.labelled import Embedded, embedded, is_aligned, open_registry, set_options
from training.commands.progress import counter
from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.evaluation.disjoint import check_not_trained_on, held_out_of, trained_people

if TYPE_CHECKING:
    from training.evaluation.measure import Measurement

_ANY = click.Path(path_type=Path, exists=True)
_RUN = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog="Example: facesphere-train evaluate --data lfw.tar --registry data/models --report lfw.html")
@click.option("--pairs", "pairs_path", type=_FILE, help="Only these pairs: LFW's pairs.txt, or CSV.")
@click.option("--report", type=_FILE, help="Write all figures as one HTML page.")
@click.option("--json", "json_path", type=_FILE, help="Write all numbers.")
@click.option("--mirror", is_flag=True, help="Add the mirror image of each crop, whatever the model's manifest says.")
@click.option(
    "--trained-on", type=click.Path(path_type=Path, exists=True), help="Run, set or list; nobody may be in both."
)
@click.option("--held-out", type=_RUN, help="Only those people of an aligned set whom this run held out.")
@set_options
def evaluate(
    pairs_path: Path | None, report: Path | None, json_path: Path | None, mirror: bool, **options: Any
) -> None:
    """Print TAR at each false-match rate, with 95 % intervals, and the failure-to-enrol rate.

    --data may also be an aligned set, or a .bin of insightface with its pairs.
    """
    _check_places(report, json_path)
    trained_on, rounds, path = options.pop("trained_on"), options.pop("rounds"), options["path"]
    trained = trained_people(trained_on) if trained_on else None
    registry = open_registry(options["registry"], mirror)
    if options["held_out"] is not None and not is_aligned(path):
        raise click.UsageError("--held-out needs an aligned set: facesphere-train align makes one")
    whole = report is not None or json_path is not None
    found: Measurement | None
    if path.suffix.lower() == ".bin":
        facts, found = _packed(path, registry, options, trained is not None)
    else:
        if trained is not None and path.is_dir():  # better now than after embedding
            check_not_trained_on(_people(path, options["held_out"]), trained)
        embeddings = embedded(**options | {"registry": registry})
        if trained is not None:
            check_not_trained_on(embeddings.data.names, trained)
        facts, found = _labelled(embeddings, pairs_path, options, rounds, whole)
    if found is not None:
        _write(found, facts, report, json_path)


def _check_places(*places: Path | None) -> None:
    for place in places:
        if place is not None and not place.parent.is_dir():
            raise DataError(f"cannot write {place}: there is no folder {place.parent}")


def _people(path: Path, held_out: Path | None) -> Iterable[str]:
    if not is_aligned(path):
        return trained_people(path)
    people = AlignedSet.open(path).people
    return people if held_out is None else held_out_of(held_out).intersection(people)


def _labelled(
    found: Embedded, pairs_path: Path | None, options: dict[str, Any], rounds: int, whole: bool
) -> tuple[dict[str, Any], "Measurement | None"]:
    """Print what is asked for; the measurement is made where a file is to be written, or pairs are listed."""
    facts = _facts(found, options)
    if pairs_path is not None:
        measurement = _of_list(found, pairs_path)
        _print_facts(found, facts)
        _print_measurement(measurement)
        return facts | {"pairs": str(pairs_path)}, measurement
    calibration = _calibration(found, options["path"].name, rounds, whole)
    _print_facts(found, facts)
    if calibration is not None:
        _print_calibration(calibration)
    if not whole:
        if is_aligned(options["path"]):
            click.echo(_folds(found))
        return facts, None
    from training.evaluation.measure import measure_set

    known = {point.fmr: (point.tar_low, point.tar_high) for point in calibration.points} if calibration else {}
    measurement = measure_set(found.data, found.groups, known, rounds)
    if calibration is None:
        click.echo(f"genuine pairs {measurement.genuine_pairs:,}, impostor pairs {measurement.impostor_pairs:,}")
    _print_measurement(measurement)
    return facts, measurement


def _calibration(found: Embedded, name: str, rounds: int, whole: bool) -> Calibration | None:
    """What the service would decide by; a report says itself what cannot be measured."""
    try:
        return fit(found.data, name, found.detector_id, rounds)
    except DataError:
        if not whole:
            raise
        return None


def _folds(found: Embedded) -> str:
    from training.evaluation.measure import verify
    from training.evaluation.text import folds_line
    from training.evaluation.verification import balanced_pairs

    return folds_line(verify(found.data.vectors, balanced_pairs(found.data.people)))


def _of_list(found: Embedded, path: Path) -> "Measurement":
    from training.evaluation.measure import REJECTED, measure_pairs
    from training.evaluation.pairs import read_pairs, resolve
    from training.evaluation.verification import cosines

    pairs, compared = resolve(read_pairs(path), found.data.photos, found.data.failed, path)
    scores = np.where(compared, cosines(found.data.vectors, pairs), np.float32(REJECTED))
    return measure_pairs(scores, pairs, int((~compared).sum()))


def _packed(
    path: Path, registry: Registry, options: dict[str, Any], trained: bool
) -> tuple[dict[str, Any], "Measurement"]:
    """Photos and pairs of one .bin; its folds are ten runs of the list, as its makers take them."""
    from training.evaluation.crops import embed_files
    from training.evaluation.folds import FOLDS, PairList
    from training.evaluation.measure import measure_pairs
    from training.evaluation.packed import read_packed
    from training.evaluation.verification import cosines

    if trained:
        raise DataError(f"{path} does not say who is on its photos: --trained-on cannot be checked")
    bundle = registry.resolve("embedder", options["model"])
    packed = read_packed(path)
    with counter("embedding") as step:
        vectors = embed_files(bundle, packed.photos, path, options["threads"], step)
    rows = np.arange(len(packed.same))
    pairs = PairList(2 * rows, 2 * rows + 1, packed.same, rows * FOLDS // len(rows), disjoint=False)
    measurement = measure_pairs(cosines(vectors, pairs), pairs)
    click.echo(f"photos {len(vectors)}, pairs {len(rows)}")
    _print_measurement(measurement)
    facts = {"model": bundle.manifest.id, "contract": bundle.manifest.contract_id, "mirror": bundle.manifest.mirror}
    return facts | {"data": str(path), "photos": len(vectors)}, measurement


def _facts(found: Embedded, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": found.manifest.id,
        "contract": found.manifest.contract_id,
        "mirror": found.manifest.mirror,
        "detector": found.detector_id or "none: crops as they are",
        "face": "as aligned" if is_aligned(options["path"]) else options["choice"],
        "data": str(options["path"]) + (f", people whom {held} held out" if (held := options["held_out"]) else ""),
        "photos": len(found.data.photos) + len(found.data.failed),
        "people": len(found.data.names),
        "failure to enrol": found.data.failure_to_enrol,
    }


def _print_facts(found: Embedded, facts: dict[str, Any]) -> None:
    click.echo(f"photos {facts['photos']}, people {facts['people']}, face: {facts['face']}")
    click.echo(f"failure to enrol: {len(found.data.failed)} ({found.data.failure_to_enrol:.4%})")


def _print_calibration(calibration: Calibration) -> None:
    click.echo(f"genuine pairs {calibration.genuine_pairs:,}, impostor pairs {calibration.impostor_pairs:,}")
    click.echo("FMR     TAR      95 % interval      threshold  95 % interval")
    for point in calibration.points:
        click.echo(
            f"{point.fmr:<7.0e} {point.tar:.4f}   {point.tar_low:.4f} .. {point.tar_high:.4f}   "
            f"{point.threshold:.4f}     {point.threshold_low:.4f} .. {point.threshold_high:.4f}"
        )


def _print_measurement(found: "Measurement") -> None:
    from training.evaluation.text import lines

    click.echo("\n".join(lines(found)))


def _write(found: "Measurement", facts: dict[str, Any], report: Path | None, json_path: Path | None) -> None:
    from training.evaluation.report import to_html, to_json, write

    if json_path is not None:
        write(json_path, to_json(found, facts))
    if report is not None:
        write(report, to_html(found, facts))
