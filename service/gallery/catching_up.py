"""An index from a snapshot and the records: what both know comes from the one, what is new from the other.

The tags of all rows are read, which takes a fraction of the time of opening their vectors, and must come to the tally
of the collection: so nobody is missing, and nobody is there who was put in. A vector is taken from the snapshot for
the row that has its number and its tag. The other values of that row are checked when it is answered with.
"""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from models.preprocess import Vectors
from service.errors import StorageError
from service.gallery.blocks import Ids
from service.gallery.database import Database
from service.gallery.sealing import EMPTY, CollectionRow, combined
from service.gallery.snapshot_file import Faces, Tags
from service.gallery.snapshots import Snapshots
from service.security.vault import MAC_BYTES

# A search waits for the read of so many, and comes next: a lock that is taken again at once gives nobody else a turn.
_CHUNK_BESIDE_SEARCHES = 256
_LET_OTHERS_S = 0.0005


def caught_up(
    database: Database,
    collection: CollectionRow,
    snapshots: Snapshots,
    vectors_at: Callable[[CollectionRow, Ids], Vectors],
) -> tuple[list[int], Vectors] | None:
    """Row numbers (N) and vectors (N, D) of a collection; None if it has no snapshot, or none that agrees.

    Args:
        database: that one state is read of.
        collection: its row, checked.
        snapshots: where its snapshot is, if it has one.
        vectors_at: vectors of rows, from the records.

    Raises:
        StorageError: people or faces are missing, or one that is not in the snapshot is not what was stored.
    """
    if not snapshots.has(collection.uid):
        return None
    with ThreadPoolExecutor(1, "facesphere-snapshot") as beside:  # one waits for the disk, the other for SQLite
        reading = beside.submit(snapshots.read, collection.uid, collection.model)
        rows, tags = _all_tags(database, collection)
        kept = reading.result()
    if kept is None:
        return None
    places = _places(kept, rows, tags)
    if places is None:
        snapshots.refuse(collection.uid, "it holds a face that the records do not")
        return None
    missing = np.ones(len(rows), bool)
    missing[places] = False
    new = rows[missing]
    vectors = np.concatenate([kept.vectors, vectors_at(collection, new)]) if len(new) else kept.vectors
    return [*kept.rows.tolist(), *new.tolist()], vectors


def tags_of(database: Database, rows: Ids) -> Tags:
    """Tags of faces (n, MAC_BYTES), in the order of their row numbers (n,).

    Raises:
        StorageError: one is not there.
    """
    found: dict[int, bytes] = {}
    for start in range(0, len(rows), _CHUNK_BESIDE_SEARCHES):
        wanted = rows[start : start + _CHUNK_BESIDE_SEARCHES].tolist()
        listed = (json.dumps(wanted),)
        found.update(database.read("SELECT id, mac FROM faces WHERE id IN (SELECT value FROM json_each(?))", listed))
        time.sleep(_LET_OTHERS_S)
    if len(found) != len(rows):
        raise StorageError("the index holds a face that the records do not")
    return _stacked([found[row] for row in rows.tolist()])


def _all_tags(database: Database, collection: CollectionRow) -> tuple[Ids, Tags]:
    """Row numbers of all faces, ascending, and their tags; which come to the tally, with those of the people."""
    people = database.read("SELECT mac FROM subjects WHERE collection = ?", (collection.id,))
    # In one go, and sorted here: SQLite would sort all of them again for each portion.
    faces = database.read(
        "SELECT f.id, f.mac FROM faces f JOIN subjects s ON s.id = f.subject WHERE s.collection = ?", (collection.id,)
    )
    faces.sort()
    tags = _stacked([tag for _, tag in faces])
    tally = combined(EMPTY, np.bitwise_xor.reduce(tags, axis=0).tobytes(), *(tag for (tag,) in people))
    if tally != collection.tally:
        raise StorageError(f"the gallery is damaged: people or faces of collection {collection.name} are missing")
    return np.array([row for row, _ in faces], np.int64), tags


def _stacked(tags: list[bytes]) -> Tags:
    if any(len(tag) != MAC_BYTES for tag in tags):
        raise StorageError("the gallery is damaged: a face is not what was stored; restore a backup")
    return np.frombuffer(b"".join(tags), np.uint8).reshape(-1, MAC_BYTES)


def _places(kept: Faces, rows: Ids, tags: Tags) -> Ids | None:
    """Where among the rows of the records each face of a snapshot is; None unless all of them are, with their tags."""
    places = np.searchsorted(rows, kept.rows)
    if len(kept.rows) > len(rows) or (places == len(rows)).any():
        return None
    agree = (rows[places] == kept.rows).all() and (tags[places] == kept.tags).all()
    return places if agree else None
