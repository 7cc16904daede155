"""Do thresholds hold for people they were not fitted on? Fitted on half of the people, measured on the other half.

    make bench-calibration ARGS="--data data/lfw"
    make bench-calibration ARGS="--data data/lfw --model bundles/mine --held-out runs/mine"

The model is one of the registry, or a bundle in any folder. Of a model that was trained on people of the set, only
those whom its run held out say anything; a gallery that leaves fewer than a hundred of a half as strangers is left out.

Prints Markdown for docs/retraining.md and docs/accuracy.md: the false-match rate at each fitted threshold on the other
people, and that of open-set search by gallery size. The 95 % interval is bootstrapped over the people of both halves,
since the threshold is as uncertain as the rate that is measured at it. Several ways to halve the people, since one is a
single draw.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from commandline import count, in_one_line
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).resolve().parent.parent)


from models import bundle as bundles
from models.bundle import Bundle
from models.calibration import Calibration
from models.registry import Registry
from training import calibrate
from training.calibrate import Pairs, compare_all, fit, threshold_at
from training.data.aligned import AlignedSet, split_people
from training.embeddings import EmbeddedSet
from training.evaluation.crops import embed_crops, labelled
from training.evaluation.disjoint import only_held_out

RATES = (1e-2, 1e-3)
GALLERIES = (10, 100, 1000)
STRANGERS = 100  # fewer of them tell nothing of an FPIR of 0.05
FPIR = 0.05
SPLITS = 5
ROUNDS = 200


def main() -> None:
    """Embed once, then halve and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="aligned set of people")
    parser.add_argument("--registry", type=Path, default=Path("data/models"))
    parser.add_argument(
        "--model", help="embedder of the registry, or the folder of a bundle; the promoted one if left out"
    )
    parser.add_argument("--held-out", type=Path, help="only those people whom this run held out")
    parser.add_argument("--threads", type=count, default=_cores(), help="of the network; all cores if left out")
    parser.add_argument("--vectors", type=Path, help="keep the embeddings here, and take them from here")
    given = parser.parse_args()
    bundle = _bundle(given.registry, given.model)
    data = AlignedSet.open(given.data)
    data = data if given.held_out is None else only_held_out(data, given.held_out)
    vectors = _vectors(given.vectors, lambda: embed_crops(bundle, data, given.threads, lambda _: None))
    print(f"{bundle.manifest.id}, {len(data):,} photos of {len(data.people):,} people, {SPLITS} ways to halve them\n")
    halves = [_halves(data, vectors, f"half {number}") for number in range(SPLITS)]
    _print_rates(halves)
    fitted = [(fit(first, "one half"), second) for first, second in halves]
    _print_search(fitted)


def _bundle(registry: Path, model: str | None) -> Bundle:
    if model is not None and Path(model).is_dir():
        return bundles.load(Path(model))
    return Registry(registry).resolve("embedder", model)


def _print_rates(halves: list[tuple[EmbeddedSet, EmbeddedSet]]) -> None:
    print("| half | stated FMR | threshold | measured FMR | 95 % interval | stated lies within |")
    print("|---|---|---|---|---|---|")
    for number, (first, second) in enumerate(halves):
        pairs = compare_all(first), compare_all(second)
        for rate in RATES:
            threshold = threshold_at(pairs[0].top_impostors, pairs[0].impostor_count, rate)
            measured = _false_matches(second, pairs[1], threshold, np.ones(len(second.names)))
            low, high = np.quantile(_drawn(first, second, pairs, rate), [0.025, 0.975])
            inside = "yes" if low <= rate <= high else "no"
            print(
                f"| {number + 1} | {rate:g} | {threshold:.4f} | {measured:.2e} | {low:.2e} .. {high:.2e} | {inside} |"
            )


def _drawn(first: EmbeddedSet, second: EmbeddedSet, pairs: tuple[Pairs, Pairs], rate: float) -> list[float]:
    """Rounds of the bootstrap over people of both halves: a threshold out of the one, its FMR on the other."""
    found = []
    for number in range(ROUNDS):
        rng = np.random.default_rng([0, number])
        threshold = float(calibrate._bootstrap(first, pairs[0], [rate], rng)[0][0])
        people = len(second.names)
        times = np.bincount(rng.integers(people, size=people), minlength=people).astype(np.float64)
        found.append(_false_matches(second, pairs[1], threshold, times))
    return found


def _print_search(fitted: list[tuple[Calibration, EmbeddedSet]]) -> None:
    print("\n| gallery | stated FPIR | measured FPIR, mean | lowest .. highest |\n|---|---|---|---|")
    fewest = min(len(other.names) for _, other in fitted)
    for size in (each for each in GALLERIES if each + STRANGERS <= fewest):
        thresholds = [calibration.threshold_for_gallery(FPIR, size).value for calibration, _ in fitted]
        found = [_named_strangers(each, other, size) for each, (_, other) in zip(thresholds, fitted, strict=True)]
        print(f"| {size:,} | {FPIR:g} | {np.mean(found):.4f} | {min(found):.4f} .. {max(found):.4f} |")


def _halves(data: AlignedSet, vectors: NDArray[np.float32], salt: str) -> tuple[EmbeddedSet, EmbeddedSet]:
    rows = replace(data, photos=tuple(str(row) for row in range(len(data))))
    parts = split_people(rows, 0.5, salt)
    return tuple(labelled(vectors[[int(row) for row in part.photos]], part) for part in parts)  # type: ignore[return-value]


def _false_matches(data: EmbeddedSet, pairs: Pairs, threshold: float, times: NDArray[np.float64]) -> float:
    """FMR at a threshold, with each person counted so many times."""
    photos = times * np.bincount(data.people, minlength=len(data.names))
    total = (photos.sum() ** 2 - (photos**2).sum()) / 2
    beyond = pairs.top_people[pairs.top_impostors >= threshold]
    return float((times[beyond[:, 0]] * times[beyond[:, 1]]).sum() / total)


def _named_strangers(threshold: float, data: EmbeddedSet, size: int, galleries: int = 20) -> float:
    """FPIR: share of people outside of a random gallery, one photo each, whom somebody in it resembles enough."""
    found = []
    for seed in range(galleries):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(data.people))
        _, first = np.unique(data.people[order], return_index=True)
        chosen = rng.permutation(order[first])
        gallery, strangers = chosen[:size], chosen[size:]
        best = (data.vectors[strangers] @ data.vectors[gallery].T).max(axis=1)
        found.append((best >= threshold).mean())
    return float(np.mean(found))


def _vectors(path: Path | None, make: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    if path is not None and path.is_file():
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    vectors: NDArray[np.float32] = make()
    if path is not None:
        np.save(path, vectors)
    return vectors


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    in_one_line(main)
