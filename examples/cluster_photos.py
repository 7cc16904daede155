"""Whose faces are in a photo library? Groups all faces of a folder by person, without knowing anybody.

    python examples/cluster_photos.py photos/ --server grpc://127.0.0.1:50051 > people.json

Faces are taken best quality first. Each joins the group whose mean it is nearest to, if that is at or above the
threshold of the false-match rate, and else begins a group. Nothing is enrolled.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from facesphere_client import Client, EmbeddedFace, Embedding, FacesphereError
from numpy.typing import NDArray


@dataclass
class Group:
    """Faces that are taken for one person: the sum of their vectors, and where they are."""

    total: NDArray[np.float32]
    faces: list[dict[str, object]] = field(default_factory=list)

    def similarity(self, vector: NDArray[np.float32]) -> float:
        """The cosine of a vector and the mean."""
        return float(self.total @ vector / np.linalg.norm(self.total))


def main() -> int:
    """Print the groups as JSON, the largest first."""
    options = _options()
    with Client(options.server, key=os.environ.get("FACESPHERE_API_KEY")) as client:
        found: list[tuple[str, EmbeddedFace]] = []
        for outcome in client.embed_folder(options.photos, progress=True):
            if outcome.error is not None:
                print(f"{outcome.id}: {outcome.error}", file=sys.stderr)
                continue
            found += [(outcome.id, face) for face in outcome.get().faces if face.quality >= options.min_quality]
        if not found:
            sys.exit("cluster_photos: there is no face of that quality")
        probe = Embedding(found[0][1].embedding, found[0][1].contract_id)
        threshold = client.verify(probe, probe, target_fmr=options.target_fmr).threshold
    groups = _grouped(found, threshold)
    groups.sort(key=lambda group: -len(group.faces))
    json.dump({f"person {number}": group.faces for number, group in enumerate(groups, 1)}, sys.stdout, indent=1)
    print(f"{len(found)} faces of {len(groups)} people", file=sys.stderr)
    return 0


def _grouped(found: list[tuple[str, EmbeddedFace]], threshold: float) -> list[Group]:
    groups: list[Group] = []
    for photo, face in sorted(found, key=lambda each: (-each[1].quality, each[0])):
        best = max(groups, key=lambda group: group.similarity(face.embedding), default=None)
        if best is None or best.similarity(face.embedding) < threshold:
            best = Group(np.zeros_like(face.embedding))
            groups.append(best)
        best.total = best.total + face.embedding
        best.faces.append({"photo": photo, "bbox": [round(each) for each in face.bbox], "quality": face.quality})
    return groups


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--target-fmr", type=float, default=1e-4)
    parser.add_argument("--min-quality", type=float, default=0.0, help="leave out faces of less quality, 0..1")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FacesphereError, OSError) as error:
        sys.exit(f"cluster_photos: {error}")
