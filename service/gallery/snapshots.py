"""Snapshots of the indexes, which spare a large gallery from opening its vectors one by one when it starts.

    DATA/index/UID.snapshot     of the collection with this uid (snapshot_file.py)

They are derived and never trusted: every face of one must be in the records, with the tag that it has there, and what
was enrolled since is read from the records. One that does not agree, is damaged or of something else is thrown away.

Nobody who was erased stays in one, not even encrypted: an erasure removes the snapshot of its collection before it is
committed, and none is written meanwhile. A backup holds none.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from models.errors import FaceError
from service.domain import ModelInfo
from service.gallery.blocks import Ids, Part
from service.gallery.folder import overwrite
from service.gallery.snapshot_file import UNFINISHED, Faces, Tags, UnusableError, new_header, read, write
from service.gallery.tiers import TieredIndex
from service.security.master import sync_folder
from service.security.vault import Vault, as_storage_error

log = logging.getLogger("facesphere.gallery")
FOLDER = "index"
FROM_FACES = 5000  # fewer are read from the records in the blink of an eye
SHARE = 0.1  # of the faces that are not in the snapshot yet, at which it is written anew
Look = Callable[[str], tuple[str, ModelInfo]]
TagsOf = Callable[[Ids], Tags]


class Snapshots:
    """Those of one gallery. Calls may come from several threads."""

    def __init__(self, folder: Path, vault: Vault) -> None:
        """Of a data folder, in which what a killed program was writing is removed."""
        self._folder = folder / FOLDER
        self._vault = vault
        self._turn = threading.Lock()  # of who writes a snapshot, or erases
        self._erasing = 0
        self._faces: dict[str, int] = {}  # in the snapshot of each collection that has one
        self._failed = False
        with _logged("what is left of a snapshot cannot be removed"):
            for path in self._folder.glob(f"*{UNFINISHED}"):
                overwrite(path)

    def has(self, collection: str) -> bool:
        """Whether a collection has one, of use or not."""
        return self._path(collection).exists()

    def read(self, collection: str, model: ModelInfo) -> Faces | None:
        """What the snapshot of a collection holds; None if there is none that can be used."""
        path = self._path(collection)
        try:
            faces = read(path, collection, model, self._vault.cipher(collection)) if path.exists() else None
        except (UnusableError, OSError) as error:
            self.refuse(collection, error)
            return None
        if faces is not None:
            self._faces[collection] = len(faces.rows)
        return faces

    def refuse(self, collection: str, reason: object) -> None:
        """Throw a snapshot away that is not to be used."""
        log.warning("the snapshot of index %s is not used, the index is made from the records: %s", collection, reason)
        with contextlib.suppress(FaceError):
            self.remove(collection)

    def keep_only(self, collections: Sequence[str]) -> None:
        """Remove those of collections that are no longer there."""
        for path in self._folder.glob("*.snapshot"):
            if path.stem not in collections:
                self.refuse(path.stem, "there is no such collection")

    def write_all(self, indexes: Mapping[str, TieredIndex], look: Look, tags_of: TagsOf) -> None:
        """Write those of indexes in which much is new; searches and enrolments go on, an erasure ends it.

        Args:
            indexes: by the collection's name.
            look: uid and model of the collection of a name.
            tags_of: the tags of rows, in order.
        """
        for name in list(indexes):
            try:
                with self._turn:
                    index = indexes.get(name)
                    if index is not None:
                        self._write_if_worth_it(*look(name), index, tags_of)
            except _InterruptedError:
                return
            except (OSError, FaceError) as error:
                if not self._failed:  # once, not every few minutes
                    log.warning("the snapshot of index %s cannot be written: %s", name, error)
                self._failed = True

    @contextlib.contextmanager
    def erasing(self) -> Iterator[None]:
        """While something is erased, from the records and from the index: nobody writes a snapshot."""
        self._erasing += 1
        try:
            with self._turn:
                yield
        finally:
            self._erasing -= 1

    def remove(self, collection: str) -> None:
        """Remove the snapshot of a collection, durably.

        Raises:
            StorageFullError, StorageError: it cannot be removed.
        """
        path = self._path(collection)
        try:
            overwrite(path.with_name(path.name + UNFINISHED))  # left by a killed program, if it could not be removed
            if path.exists():
                overwrite(path)
                sync_folder(path.parent)
        except OSError as error:
            raise as_storage_error(error, f"cannot remove {path}") from error
        self._faces.pop(collection, None)

    def _path(self, collection: str) -> Path:
        return self._folder / f"{collection}.snapshot"

    def _write_if_worth_it(self, collection: str, model: ModelInfo, index: TieredIndex, tags_of: TagsOf) -> None:
        if index.contract_id != model.contract_id:
            return  # the collection is just being given another model
        parts = index.parts()
        count = sum(part.count for part in parts)
        if count - self._faces.get(collection, 0) < max(FROM_FACES, SHARE * count):
            return
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700)
            sync_folder(self._folder.parent)
        header = new_header(collection, model, [part.count for part in parts])
        write(self._path(collection), header, self._vault.cipher(collection), self._blocks(parts, tags_of))
        self._faces[collection], self._failed = count, False

    def _blocks(self, parts: Sequence[Part], tags_of: TagsOf) -> Iterator[Faces]:
        for part in parts:
            if self._erasing:
                raise _InterruptedError
            rows, vectors = part.copy()
            yield Faces(rows, tags_of(rows), vectors)
        if self._erasing:
            raise _InterruptedError


class _InterruptedError(Exception):
    """Somebody is waiting to erase."""


def remove_snapshots(folder: Path) -> None:
    """Remove all of a data folder whose records are about to be others.

    Raises:
        OSError: they cannot be removed.
    """
    for path in sorted((folder / FOLDER).glob("*")):
        overwrite(path)
    if (folder / FOLDER).exists():
        sync_folder(folder / FOLDER)


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("%s: %s", what, error)
