"""Is somebody in there twice? Compares all people of a folder, PERSON/PHOTO.jpg, with one another.

    python examples/duplicates.py people/ --server grpc://127.0.0.1:50051 --target-fmr 0.00001

Among n people there are n (n - 1) / 2 comparisons, so even a small false-match rate makes some false pairs; how many to
expect is said beside what was found. Nothing is enrolled.
"""

import argparse
import os
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from facesphere_client import Client, EmbeddedFace, Embedding, FacesphereError


def main() -> int:
    """Print pairs of people who may be one, the most similar first."""
    options = _options()
    with Client(options.server, key=os.environ.get("FACESPHERE_API_KEY")) as client:
        faces = _faces(client, options.people)
        if len(faces) < 2:
            sys.exit("duplicates: it takes two people with a face")
        threshold = _threshold(client, next(iter(faces.values()))[0], options.target_fmr)
    means = {name: np.stack([face.embedding for face in each]).mean(0) for name, each in faces.items()}
    vectors = {name: mean / np.linalg.norm(mean) for name, mean in means.items()}
    scored = [(float(vectors[a] @ vectors[b]), a, b) for a, b in combinations(sorted(vectors), 2)]
    for similarity, a, b in sorted(scored, reverse=True):
        if similarity >= threshold:
            print(f"{similarity:.3f}  {a}  {b}")
    expected = len(scored) * options.target_fmr
    print(
        f"{len(scored)} comparisons at FMR {options.target_fmr:g}: expect {expected:.3g} false pairs", file=sys.stderr
    )
    return 0


def _faces(client: Client, folder: Path) -> dict[str, list[EmbeddedFace]]:
    """The largest face of each photo, by person."""
    faces: dict[str, list[EmbeddedFace]] = {}
    for outcome in client.embed_folder(folder, faces="largest", progress=True):
        if outcome.error is not None:
            print(f"{outcome.id}: {outcome.error}", file=sys.stderr)
        elif "/" in outcome.id:
            faces.setdefault(outcome.id.split("/")[0], []).extend(outcome.get().faces)
    return {name: each for name, each in faces.items() if each}


def _threshold(client: Client, face: EmbeddedFace, target_fmr: float) -> float:
    """The cosine that the model decides at for a rate: any comparison tells."""
    probe = Embedding(face.embedding, face.contract_id)
    return client.verify(probe, probe, target_fmr=target_fmr).threshold


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--target-fmr", type=float, default=1e-5)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FacesphereError, OSError) as error:
        sys.exit(f"duplicates: {error}")
