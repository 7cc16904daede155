"""Encryption at rest: a key for each collection, wrapped by the master key, in a keyring apart from the data.

Envelope encryption with AES-256-GCM (NIST SP 800-38D). The keyring is not in the data folder and not in its backups:
once a collection's key is destroyed here, no backup of the collection can be read any more, whoever has kept one.

    KEYS/master.key      the master key, unless it is given otherwise (master.py)
    KEYS/keyring.json    wrapped keys by the collection's uid
"""

import base64
import contextlib
import errno
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import StorageError, StorageFullError
from service.security.master import KEY_BYTES, write_new

_NONCE = 12
MAC_BYTES = 16
SEALING_BYTES = _NONCE + 16  # what is sealed is longer by so much: a nonce, and the tag of GCM
_FORMAT = 1


class Cipher:
    """Encrypts and authenticates what one collection keeps. Calls may come from several threads."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(_derived(key, b"encrypt"))
        self._mac_key = _derived(key, b"authenticate")
        self.rotation_seed = _derived(key, b"rotate")  # of the codes that PostgreSQL searches by (postgres/codes.py)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """nonce | ciphertext | tag. `context` says what and whose this is; it can only be opened with the same."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed.

        Raises:
            StorageError: it was changed, or belongs elsewhere.
        """
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
        except (InvalidTag, ValueError) as error:
            raise StorageError("the gallery is damaged: something kept in it is not what was stored") from error

    def mac(self, *fields: object) -> bytes:
        """A tag over the fields of a row, in order: nobody without the key can change one unnoticed."""
        return hmac.digest(self._mac_key, canonical(fields), hashlib.sha256)[:MAC_BYTES]


class MasterKey:
    """What comes of the master key: it wraps the keys of collections, and seals what belongs to none of them."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(_derived(key, b"wrap"))
        self.store = Cipher(_derived(key, b"store"))  # for what belongs to no collection
        self.audit_key = _derived(key, b"audit log")
        self.ledger_key = _derived(key, b"ledger")
        self.pepper = _derived(key, b"api keys")
        self.check = _derived(key, b"check")  # tells whether another program has the same master key, and nothing else

    def wrap(self, uid: str, key: bytes) -> bytes:
        """The key of a collection, as it may lie on a disk."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, key, _context(uid))

    def unwrap(self, uid: str, wrapped: bytes) -> bytes:
        """The key again; InvalidTag or ValueError if it is another's, or damaged."""
        return self._aead.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _context(uid))


class Vault:
    """The keyring of one data folder."""

    def __init__(self, folder: Path, master: bytes) -> None:
        """Open or begin a keyring.

        Raises:
            StorageError: it is damaged, or was made with another master key.
        """
        self._file = folder / "keyring.json"
        self.master = MasterKey(master)
        self.store, self.pepper = self.master.store, self.master.pepper
        self.audit_key, self.ledger_key = self.master.audit_key, self.master.ledger_key
        self._lock = threading.Lock()
        self._wrapped = _read_keyring(self._file)
        self._ciphers = {uid: Cipher(self._unwrap(uid, wrapped)) for uid, wrapped in self._wrapped.items()}

    def create(self, uid: str) -> Cipher:
        """A new key for a collection, on the disk before it is used.

        Raises:
            StorageFullError, StorageError: the keyring cannot be written.
        """
        key = secrets.token_bytes(KEY_BYTES)
        wrapped = self.master.wrap(uid, key)
        with self._lock:
            self._write({**self._wrapped, uid: base64.b64encode(wrapped).decode()})
            self._ciphers[uid] = Cipher(key)
            return self._ciphers[uid]

    def cipher(self, uid: str) -> Cipher:
        """The key of a collection, ready to use.

        Raises:
            StorageError: there is none (any more).
        """
        cipher = self._ciphers.get(uid)
        if cipher is None:
            self._look_again()  # another program may have made a collection meanwhile
            cipher = self._ciphers.get(uid)
        if cipher is None:
            raise StorageError(
                f"there is no key for collection {uid} in {self._file}: put the keyring back that belongs to this data"
            )
        return cipher

    def knows(self, uid: str) -> bool:
        """Whether a collection's key is there."""
        return uid in self._ciphers

    def destroy(self, uid: str) -> None:
        """Destroy a collection's key, for good and in its backups too; nothing happens if that was done already.

        Raises:
            StorageFullError, StorageError: the keyring cannot be written; the key is still there.
        """
        with self._lock:
            if uid in self._wrapped:
                self._write({other: wrapped for other, wrapped in self._wrapped.items() if other != uid})
            self._ciphers.pop(uid, None)

    def _look_again(self) -> None:
        with self._lock:
            self._wrapped = _read_keyring(self._file)
            for uid, wrapped in self._wrapped.items():
                if uid not in self._ciphers:
                    self._ciphers[uid] = Cipher(self._unwrap(uid, wrapped))

    def _write(self, wrapped: dict[str, str]) -> None:
        content = json.dumps({"format": _FORMAT, "keys": wrapped}, indent=1).encode()
        try:
            with _old_bytes(self._file):
                write_new(self._file, content)
                self._wrapped = wrapped
        except OSError as error:
            raise as_storage_error(error, f"cannot write {self._file}") from error

    def _unwrap(self, uid: str, wrapped: str) -> bytes:
        try:
            return self.master.unwrap(uid, base64.b64decode(wrapped, validate=True))
        except (InvalidTag, ValueError) as error:
            raise StorageError(
                f"a key in {self._file} cannot be opened: this is not its master key, or the file is damaged"
            ) from error


def canonical(fields: tuple[object, ...]) -> bytes:
    """Bytes that stand for these fields and no others: each with its type and length."""
    parts = []
    for field in fields:
        content = field if isinstance(field, bytes) else b"" if field is None else repr(field).encode()
        parts.append(f"{type(field).__name__}:{len(content)}:".encode() + content)
    return b"".join(parts)


def as_storage_error(error: OSError, what: str) -> StorageError | StorageFullError:
    """A failure of the file system as one of ours; a full disk is one that goes by."""
    kind = StorageFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
    return kind(f"{what}: {error.strerror or error}")


def _derived(key: bytes, purpose: bytes) -> bytes:
    """A key for one purpose out of another (one block of HKDF-Expand, RFC 5869, from a uniform key)."""
    return hmac.digest(key, b"facesphere " + purpose + b"\x01", hashlib.sha256)


def _context(uid: str) -> bytes:
    return b"facesphere collection key " + uid.encode()


def _read_keyring(file: Path) -> dict[str, str]:
    try:
        if not file.exists():
            return {}
        document = json.loads(file.read_bytes())
        if document["format"] != _FORMAT:
            raise StorageError(f"{file} is of format {document['format']}, this program knows {_FORMAT}")
        return {str(uid): str(wrapped) for uid, wrapped in document["keys"].items()}
    except OSError as error:
        raise StorageError(f"cannot read the keyring {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"the keyring {file} is damaged") from error


@contextlib.contextmanager
def _old_bytes(file: Path) -> Iterator[None]:
    """Once a new file has taken its place, overwrite the old one, whose blocks would otherwise stay on the disk."""
    if not file.exists():
        yield
        return
    with file.open("rb+") as old:
        yield
        size = old.seek(0, os.SEEK_END)
        old.seek(0)
        old.write(bytes(size))
        old.flush()
        os.fsync(old.fileno())
