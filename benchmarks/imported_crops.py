"""What an import of crops is worth: embeddings from them against embeddings from the photos they were cut out of.

    .venv/bin/python benchmarks/imported_crops.py --photos FOLDER --count 150

The crops are made as InsightFace Server makes them, out of the box of our own detector: 112 x 112 pixels, whatever its
proportions, as a JPEG.
"""

import argparse
import json
import random
from pathlib import Path

import cv2
import numpy as np
from commandline import in_one_line, positive
from facesphere_client import Client
from live import server

from service.commands.importing.insightface import restored


def crop_of(photo: Path, client: Client) -> tuple[bytes, str, np.ndarray] | None:
    """The crop of the largest face, its box, and its embedding from the photo."""
    pixels = cv2.imread(str(photo))
    faces = client.embed(photo, faces="largest").faces
    if pixels is None or not faces:
        return None
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(each) for each in faces[0].bbox)
    part = pixels[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
    squeezed = cv2.resize(part, (112, 112), interpolation=cv2.INTER_AREA)
    crop = bytes(cv2.imencode(".jpg", squeezed, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])
    box = json.dumps({"pixels": {"width": part.shape[1], "height": part.shape[0]}})
    return crop, box, faces[0].embedding


def main() -> None:
    """Print how many faces are found, and the cosines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=positive, default=150)
    options = parser.parse_args()
    files = sorted(options.photos.rglob("*.jpg"))
    chosen = random.Random(1).sample(files, min(options.count, len(files)))
    cosines: dict[str, list[float]] = {"as it is": [], "with its proportions": []}
    faces = 0
    with server(threads=0) as address, Client(f"grpc://{address.grpc}") as client:
        for photo in chosen:
            found = crop_of(photo, client)
            if found is None:
                continue
            crop, box, embedding = found
            faces += 1
            forms = {"as it is": crop, "with its proportions": restored(lambda crop=crop: crop, box)}
            for name, image in forms.items():
                again = client.embed(image, faces="largest").faces
                cosines[name] += [float(embedding @ each.embedding) for each in again]
    for name, values in cosines.items():
        low, middle = np.percentile(values, 5), np.mean(values)
        found_of = f"found {len(values)} of {faces}"
        print(f"{name}: {found_of}, cosine {middle:.3f}, 5th percentile {low:.3f}, least {min(values):.3f}")


if __name__ == "__main__":
    in_one_line(main)
