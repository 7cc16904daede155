"""Who was there? Enrols people from a folder, and looks for them in the photos of another.

    python examples/attendance.py people/ photos/ --server grpc://127.0.0.1:50051 > attendance.csv

`people` has a folder for each person, PERSON/PHOTO.jpg. May be run again with more photos of either: under its
idempotency key nobody is enrolled twice. Strangers are named at a rate that is stated, not at a threshold that was
guessed.
"""

import argparse
import csv
import os
import sys
from pathlib import Path

from facesphere_client import Client, FacesphereError


def main() -> int:
    """Print a line for each person: name, in how many photos, the surest of them, and how sure."""
    options = _options()
    with Client(options.server, key=os.environ.get("FACESPHERE_API_KEY")) as client:
        client.put_collection(options.collection, "attendance", retention_days=options.keep_days)
        for enrolled in client.enrol_folder(
            options.collection, options.people, consent=options.consent, idempotency_key="attendance", progress=True
        ):
            if enrolled.error is not None:
                print(f"{enrolled.id}: not enrolled, {enrolled.error}", file=sys.stderr)
        seen = _seen(client, options)
        everybody = [each.name for each in client.subjects(options.collection)]
    table = csv.writer(sys.stdout)
    table.writerow(["name", "photos", "surest", "similarity"])
    for name in everybody:
        found = seen.get(name, [])
        similarity, photo = max(found, default=(0.0, ""))
        table.writerow([name, len(found), photo, f"{similarity:.3f}" if found else ""])
    return 0


def _seen(client: Client, options: argparse.Namespace) -> dict[str, list[tuple[float, str]]]:
    """Similarity and photo of each sight of a person; every face of every photo is asked about."""
    files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = ((path.relative_to(options.photos).as_posix(), path) for path in files)
    seen: dict[str, list[tuple[float, str]]] = {}
    for outcome in client.identify_many(
        options.collection, photos, faces="all", limit=1, target_fpir=options.target_fpir
    ):
        if outcome.error is not None:
            print(f"{outcome.id}: {outcome.error}", file=sys.stderr)
            continue
        for face in outcome.get():
            for candidate in face.candidates:
                seen.setdefault(candidate.subject, []).append((candidate.similarity, outcome.id))
    return seen


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--collection", default="attendance")
    parser.add_argument("--consent", help="reference to the consent of these people")
    parser.add_argument("--keep-days", type=int, default=30, help="faces are erased after that many days")
    parser.add_argument("--target-fpir", type=float, default=0.01, help="share of strangers who may be named")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FacesphereError, OSError) as error:
        sys.exit(f"attendance: {error}")
