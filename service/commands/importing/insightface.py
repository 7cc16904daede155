"""InsightFace Server (deepinsight/insightface, folder server/): its SQLite file, migrations 0001 to 0007.

Tables: collections (id, model_id), persons (collection_id, id, name, external_id), face_samples (id, collection_id,
person_id, bounding_box_json, crop_path, and since 0004 crop_image). It keeps no photos, and crops where it was told to:
the face's box, squeezed into 112 x 112 pixels, as a JPEG in the file or, from earlier versions, beside it.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from service.commands.importing.source import BadRecordError, NoPhotoError, Source, SourcePhoto
from service.errors import InvalidRequestError

NAMES = ("id", "name", "external_id")
_SIDE = 112  # of a crop, in pixels


def read(database: Path, files: Path | None, collection_id: str | None, named_by: str) -> Source:
    """What a file holds of one collection.

    Raises:
        InvalidRequestError: it is no file of InsightFace Server, or has several collections and none was named.
    """
    if not database.is_file():
        raise InvalidRequestError(f"there is no file {database}")
    try:
        with closing(_opened(database)) as db:
            chosen, model = _collection(db, database, collection_id)
            return _people(db, database, (files or database.parent).resolve(), chosen, model, named_by)
    except sqlite3.Error as error:
        raise InvalidRequestError(f"{database} is no SQLite file of InsightFace Server: {error}") from error


def _opened(database: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    return db


def _collection(db: sqlite3.Connection, database: Path, wanted: str | None) -> tuple[str, str]:
    rows = {row["id"]: row["model_id"] for row in db.execute("SELECT id, model_id FROM collections ORDER BY id")}
    listed = ", ".join(map(repr, rows)) or "none"
    if wanted is not None:
        if wanted not in rows:
            raise InvalidRequestError(f"{database} has no collection {wanted!r}; it has: {listed}")
        return wanted, rows[wanted]
    if len(rows) != 1:
        raise InvalidRequestError(f"say which collection by --from; {database} has: {listed}")
    return next(iter(rows.items()))


def _people(db: sqlite3.Connection, database: Path, files: Path, collection: str, model: str, named_by: str) -> Source:
    columns = {row["name"] for row in db.execute("PRAGMA table_info(face_samples)")}
    in_file = "f.crop_image IS NOT NULL" if "crop_image" in columns else "0"
    rows = db.execute(
        f"SELECT f.id, f.person_id, p.{named_by} AS named, f.bounding_box_json, f.crop_path, {in_file} AS in_file"  # noqa: S608
        " FROM face_samples f JOIN persons p ON p.collection_id = f.collection_id AND p.id = f.person_id"
        " WHERE f.collection_id = ? ORDER BY f.person_id, f.id",
        (collection,),
    )
    photos, vectors, problems = [], Counter[str](), list[str]()
    for row in rows:
        name = row["named"]
        if not isinstance(row["id"], str):
            problems.append(f"face {row['id']!r}: its id is no text")
        elif not isinstance(name, str) or not name:
            problems.append(f"face {row['id']}: person {row['person_id']!r} has no {named_by}")
        elif row["in_file"] or row["crop_path"]:
            stored: Callable[[], bytes | None] = (
                partial(_from_database, database, row["id"])
                if row["in_file"]
                else partial(_from_file, files, row["crop_path"])
            )
            photos.append(SourcePhoto(row["id"], name, partial(restored, stored, row["bounding_box_json"])))
        else:
            vectors[name] += 1
    return Source("insightface", photos, vectors, model, problems)


def _from_database(database: Path, face: str) -> bytes | None:
    with closing(_opened(database)) as db:
        row = db.execute("SELECT crop_image FROM face_samples WHERE id = ?", (face,)).fetchone()
    return row["crop_image"] if row else None


def _from_file(files: Path, crop_path: str) -> bytes | None:
    try:
        path = (files / crop_path).resolve()
    except (ValueError, TypeError) as error:  # a NUL, or no text at all
        raise BadRecordError(f"its crop {crop_path!r} is no path") from error
    if not path.is_relative_to(files):  # a file that was made up could name any other
        raise BadRecordError(f"its crop {crop_path!r} lies outside of {files}")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRecordError(f"its crop cannot be read: {error.strerror}") from error


def restored(stored: Callable[[], bytes | None], box: str) -> bytes:
    """A crop as a photo to look for the face in: with its proportions again. A margin around it makes embeddings worse
    (benchmarks/imported_crops.py)."""
    try:
        crop = stored()
    except sqlite3.Error as error:
        raise BadRecordError(f"its crop cannot be read: {error}") from error
    if not crop:
        raise NoPhotoError
    if not isinstance(crop, bytes):
        raise BadRecordError("its crop is no image of 112 x 112 pixels")
    pixels = cv2.imdecode(np.frombuffer(crop, np.uint8), cv2.IMREAD_COLOR) if len(crop) < 2**20 else None
    if pixels is None or pixels.shape[:2] != (_SIDE, _SIDE):
        raise BadRecordError("its crop is no image of 112 x 112 pixels")
    pixels = cv2.resize(pixels, _proportions(box), interpolation=cv2.INTER_CUBIC)
    return bytes(cv2.imencode(".png", pixels)[1])


def _proportions(box: str) -> tuple[int, int]:
    """Width and height of a crop as it was in its photo, in the pixels that there are."""
    try:
        pixels = json.loads(box)["pixels"]
        ratio = float(pixels["width"]) / float(pixels["height"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError):
        return _SIDE, _SIDE
    ratio = min(max(ratio, 0.25), 4.0) if ratio > 0 else 1.0
    return (_SIDE, round(_SIDE / ratio)) if ratio < 1 else (round(_SIDE * ratio), _SIDE)
