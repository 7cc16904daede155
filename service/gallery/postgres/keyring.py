"""Keys of collections, wrapped by the master key, in the database: every server has the same."""

import secrets
import threading

from cryptography.exceptions import InvalidTag

from service.errors import NotFoundError, StorageError
from service.gallery.postgres.codes import Rotation
from service.gallery.postgres.database import Database
from service.security.master import KEY_BYTES
from service.security.vault import Cipher, MasterKey


class Keyring:
    """What is opened stays opened until its collection is gone. Calls may come from several threads."""

    def __init__(self, database: Database, master: MasterKey) -> None:
        self._database = database
        self._master = master
        self._lock = threading.Lock()
        self._ciphers: dict[str, Cipher] = {}
        self._rotations: dict[tuple[str, int], Rotation] = {}

    def create(self, uid: str) -> None:
        """A new key for a collection; inside the transaction that makes it."""
        wrapped = self._master.wrap(uid, secrets.token_bytes(KEY_BYTES))
        self._database.write("INSERT INTO keyring (uid, wrapped) VALUES (%s, %s)", (uid, wrapped))

    def destroy(self, uid: str) -> None:
        """Destroy a collection's key; inside the transaction that erases it."""
        self._database.write("DELETE FROM keyring WHERE uid = %s", (uid,))

    def open(self, uid: str, wrapped: bytes | None) -> Cipher:
        """The key of a collection, ready to use.

        Raises:
            StorageError: there is none, or it was wrapped by another master key.
        """
        cipher = self._ciphers.get(uid)
        if cipher is None:
            cipher = Cipher(self._unwrap(uid, wrapped))
            with self._lock:
                self._ciphers[uid] = cipher
        return cipher

    def cipher(self, uid: str) -> Cipher:
        """The same for a collection that was read before.

        Raises:
            NotFoundError: it was erased since.
        """
        cipher = self._ciphers.get(uid)
        if cipher is None:
            row = self._database.one("SELECT wrapped FROM keyring WHERE uid = %s", (uid,))
            if row is None:
                raise NotFoundError("the collection was erased a moment ago")
            cipher = self.open(uid, row[0])
        return cipher

    def rotation(self, uid: str, dimension: int) -> Rotation:
        """What turns vectors of a collection into codes; one a dimension, and so a model's codes fit no other model's
        of another dimension, and those of one dimension are told apart by where they lie."""
        rotation = self._rotations.get((uid, dimension))
        if rotation is None:
            rotation = Rotation(self.cipher(uid).rotation_seed, dimension)
            with self._lock:
                self._rotations[uid, dimension] = rotation
        return rotation

    def forget_erased(self) -> None:
        """Drop from memory the keys of collections that this server or another has erased."""
        there = {uid for (uid,) in self._database.read("SELECT uid FROM keyring")}
        with self._lock:
            for uid in self._ciphers.keys() - there:
                del self._ciphers[uid]
            for each in [each for each in self._rotations if each[0] not in there]:
                del self._rotations[each]

    def _unwrap(self, uid: str, wrapped: bytes | None) -> bytes:
        if wrapped is None:
            raise StorageError(f"the gallery is damaged: collection {uid} has no key in it; restore a backup")
        try:
            return self._master.unwrap(uid, bytes(wrapped))
        except (InvalidTag, ValueError) as error:
            raise StorageError(f"the key of collection {uid} is damaged, or wrapped by another master key") from error
