"""Approximate search on real faces: is the right person still the nearest, and what does the server's own check say?

    facesphere-train align --data lfw_devtrain.tar --out lfw --face central
    .venv/bin/python benchmarks/real_search.py --data lfw [--model ID] [--probed 16 32 64] [--json OUT]

One photo of each person who has several is held out, and searched for among all others, exactly and in so many groups.
`right` is how often the nearest face is of the right person; `found` which share of a person's faces among the ten
nearest of exact search the other one has too; `checked` what the server's own check of 200 enrolled faces says of it,
three times over. Made up people would say nothing: how the faces of strangers lie is what decides.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before this folder, which has a training.py

from commandline import in_one_line, positive
from latency import machine
from live import default_models
from reports import report

from models.errors import FaceError
from models.preprocess import Vectors
from service.gallery.recall import NEAREST, Sample
from service.gallery.tiers import TieredIndex
from service.threads import hold_libraries
from training.data.aligned import AlignedSet
from training.data.errors import DataError
from training.embeddings import EmbeddedSet
from training.evaluation.crops import embed_aligned

_CHECKS = 3


@dataclass(frozen=True, slots=True)
class Gallery:
    """Faces that are searched, with the people that they are of by row number, and the photos that were held out."""

    index: TieredIndex
    people: np.ndarray
    probes: list[int]
    vectors: Vectors


def enrolled(faces: EmbeddedSet, seed: int = 0) -> Gallery:
    """All but one photo of each person who has several."""
    people = faces.people
    counts, held = np.bincount(people), dict[int, int]()
    for row in np.random.default_rng(seed).permutation(len(people)).tolist():
        if counts[people[row]] > 1:
            held.setdefault(int(people[row]), row)
    probes = sorted(held.values())
    rest = np.setdiff1d(np.arange(len(people)), probes)
    index = TieredIndex(faces.vectors.shape[1])
    index.add(rest.tolist(), faces.vectors[rest])
    index.group(lambda: False)
    return Gallery(index, people, probes, faces.vectors)


def searched(gallery: Gallery, probed: int | None) -> dict[str, Any]:
    """A row of the table; exactly, where no number of groups is given."""
    index, people = gallery.index, gallery.people
    right = wanted = found = 0
    for probe in gallery.probes:
        exact = index.exact.search(gallery.vectors[probe], NEAREST)
        ours = exact if probed is None else index.search_groups(gallery.vectors[probe], NEAREST, probed)
        mates = {row for row, _ in exact if people[row] == people[probe]}
        wanted, found = wanted + len(mates), found + len(mates & {row for row, _ in ours})
        right += bool(ours) and people[ours[0][0]] == people[probe]
    row = {"right": float(right / len(gallery.probes)), "found": float(found / wanted)}
    if probed is not None:
        for turn in range(_CHECKS):
            sample = Sample(index.exact, turn)
            row[f"checked_{turn + 1}"] = sample.recall(lambda vector, count: index.search_groups(vector, count, probed))
    return row


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an aligned set")
    parser.add_argument("--model", help="embedder, if not the promoted one")
    parser.add_argument("--probed", type=positive, nargs="+", default=[16, 32, 64], help="groups (default: 16 32 64)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    hold_libraries()
    about = machine()
    try:
        bundle = default_models().resolve("embedder", options.model)
        faces = embed_aligned(bundle, AlignedSet.open(options.data), 0, lambda _: None)
    except (DataError, FaceError) as error:
        parser.error(str(error))
    gallery = enrolled(faces)
    print(f"{len(gallery.index)} faces, {len(gallery.probes)} probes")
    rows = {"exact": searched(gallery, None)}
    rows |= {f"{probed} groups": searched(gallery, probed) for probed in options.probed}
    report("nearest of real faces", about, rows, options.json)
    return 0


if __name__ == "__main__":
    in_one_line(main)
