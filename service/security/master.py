"""Where the master key comes from: the environment, a file, or a command that asks a key service (KMS).

It encrypts the keys of collections (vault.py) and is best kept where nobody who gets hold of the data folder finds it.
"""

import base64
import binascii
import contextlib
import os
import secrets
import shlex
import subprocess
from pathlib import Path

from service.errors import StorageError

KEY_BYTES = 32
_COMMAND_SECONDS = 30


def master_key(folder: Path, value: str | None, file: Path | None, command: str | None) -> bytes:
    """The 32 bytes of the master key.

    Args:
        folder: where `master.key` lies, and is made at first use, if none of the others is given.
        value: base64 of the key.
        file: a file with base64 of the key.
        command: prints base64 of the key, for instance by asking a key service; run without a shell.

    Raises:
        StorageError: it cannot be had, or is no key.
    """
    if value is not None:
        return _decoded(value, "FACESPHERE_MASTER_KEY")
    if file is not None:
        return _decoded(_read(file), str(file))
    if command is not None:
        return _decoded(_output(command), "what the master key command prints")
    return _decoded(_own(folder / "master.key"), str(folder / "master.key"))


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise StorageError(f"{where} is no master key: base64 of 32 bytes, as made by: openssl rand -base64 32")
    return key


def _read(file: Path) -> str:
    try:
        return file.read_bytes()[:1024].decode("ascii", "replace")
    except OSError as error:
        raise StorageError(f"cannot read the master key {file}: {error.strerror}") from error


def _output(command: str) -> str:
    try:
        words = shlex.split(command)
        if not words:
            raise ValueError("it is empty")
        done = subprocess.run(words, capture_output=True, timeout=_COMMAND_SECONDS, check=True)  # noqa: S603 (the operator's)
    except ValueError as error:
        raise StorageError(f"the master key command cannot be run: {error}") from error
    except OSError as error:
        raise StorageError(f"the master key command cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"the master key command took longer than {_COMMAND_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise StorageError(f"the master key command failed with exit code {error.returncode}") from error
    return done.stdout[:1024].decode("ascii", "replace")


def _own(file: Path) -> str:
    """The key that was made here, or a new one, which is on the disk before it is used."""
    try:
        if not file.exists():
            write_once(file, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
    except OSError as error:
        raise StorageError(f"cannot make the master key {file}: {error.strerror}") from error
    return _read(file)


def write_new(file: Path, content: bytes) -> None:
    """Write a file for its owner alone, durably, as a whole or not at all.

    Raises:
        OSError: it cannot be written; an older file of that name is as it was.
    """
    temporary = file.with_name(file.name + ".tmp")
    _write_synced(temporary, content)
    temporary.replace(file)
    sync_folder(file.parent)


def write_once(file: Path, content: bytes) -> None:
    """The same for a file that is never written again: of two programs that begin together, one writes it.

    Raises:
        OSError: it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    _write_synced(temporary, content)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink()
    sync_folder(file.parent)


def _write_synced(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
