"""What cleaning finds where labels are wrong on purpose: precision and recall, and what is left.

    make bench-cleaning ARGS="--data data/lfw --share 0.2"

Every fifth photo is given to another person at random; nothing tells cleaning which. A photo counts as found if it is
dropped or given to another person, on its own or with the whole of its person. Prints Markdown for docs/retraining.md.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from commandline import amount, in_one_line, positive
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).resolve().parent.parent)


from models.registry import Registry
from training.data.aligned import AlignedSet
from training.evaluation.crops import embed_crops
from training.retrain import cleaning, duplicates, review
from training.retrain.cleaning import Levels
from training.retrain.config import Clean


def main() -> None:
    """Embed once; clean the set as it is, and with wrong labels by several seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="aligned set of people")
    parser.add_argument("--registry", type=Path, default=Path("data/models"))
    parser.add_argument("--model", help="embedder; the promoted one if left out")
    parser.add_argument("--share", type=amount, default=0.2, help="of wrong labels")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--vectors", type=Path, help="take the embeddings from this .npy")
    given = parser.parse_args()
    if given.share >= 1:
        parser.error(f"--share is of the labels, less than 1 and not {given.share:g}")
    bundle = Registry(given.registry).resolve("embedder", given.model)
    data = AlignedSet.open(given.data)
    if given.vectors is not None:
        vectors = np.load(given.vectors, allow_pickle=False)
    else:
        vectors = embed_crops(bundle, data, len(os.sched_getaffinity(0)), lambda _: None)
    bits = duplicates.perceptual_hashes(data.crops)
    assert data.hashes is not None
    settings = Clean()
    same = duplicates.alike(
        vectors, bits, ([each.tobytes() for each in data.hashes],), settings.near, settings.hash_bits
    )
    calibration = bundle.manifest.calibration
    assert calibration is not None
    print(f"{bundle.manifest.id}, {len(data):,} photos of {len(data.people):,} people\n")
    print(
        "| wrong labels | found | precision | recall | of people with two photos or more | pairs under one name ",
        end="",
    )
    print("of two people: before, after | photos left |\n|---|---|---|---|---|---|---|")
    for seed in (None, *range(given.seeds)):
        labels = data.labels if seed is None else poisoned(data, given.share, seed)
        blank = np.zeros((len(data), 1, 1, 3), np.uint8)  # only names are looked at from here on
        named = AlignedSet.of(blank, [data.people[label] for label in labels], data.photos)
        levels = Levels(
            calibration.threshold_at(settings.outlier_fmr).value,
            calibration.threshold_for_gallery(settings.move_fpir, len(named.people)).value,
        )
        findings = cleaning.find(vectors, named.labels, named.people, same, levels)
        _print(data, labels, named, review.apply(findings, [], named), Counter(each.kind for each in findings))


def poisoned(data: AlignedSet, share: float, seed: int) -> NDArray[np.int32]:
    """The labels, so many of them another person's."""
    rng = np.random.default_rng(seed)
    labels = data.labels.copy()
    rows = rng.permutation(len(labels))[: int(share * len(labels))]
    others = rng.integers(len(data.people) - 1, size=len(rows)).astype(np.int32)
    labels[rows] = others + (others >= labels[rows])
    return labels


def _print(
    data: AlignedSet, labels: NDArray[np.int32], named: AlignedSet, names: list[str | None], kinds: Counter[str]
) -> None:
    wrong = labels != data.labels
    old = [named.people[label] for label in named.labels]
    changed = np.array([name != before for name, before in zip(names, old, strict=True)])
    several = named.counts[named.labels] > 1
    found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    hits = int((changed & wrong).sum())
    precision = f"{hits / changed.sum():.3f}" if wrong.any() else "–"
    recall = f"{hits / wrong.sum():.3f}" if wrong.any() else "–"
    of_several = f"{(changed & wrong & several).sum() / (wrong & several).sum():.3f}" if wrong.any() else "–"
    before, after = _mixed(old, data), _mixed(names, data)
    left = len(names) - names.count(None)
    print(
        f"| {wrong.sum():,} | {found} | {precision} | {recall} | {of_several} | {before:.4f}, {after:.4f} | {left:,} |"
    )


def _mixed(names: list[str | None] | list[str], data: AlignedSet) -> float:
    """Share of the pairs of photos under one name that are of two people, by the labels of the set."""
    groups: dict[str, Counter[int]] = {}
    for name, label in zip(names, data.labels.tolist(), strict=True):
        if name is not None:
            groups.setdefault(name, Counter())[label] += 1
    pairs = sum(group.total() * (group.total() - 1) for group in groups.values())
    same = sum(count * (count - 1) for group in groups.values() for count in group.values())
    return 1 - same / pairs


if __name__ == "__main__":
    in_one_line(main)
