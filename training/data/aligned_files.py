"""The files of an aligned set: crops.npy, hashes.npy and set.json (docs/data.md)."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.lib.format import header_data_from_array_1_0, write_array_header_1_0
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from training.data.people import DataError

_CHUNK = 256


class Header(BaseModel):
    """set.json: everything but the pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    shape: tuple[int, ...]
    labels: list[int]
    people: tuple[str, ...]
    photos: tuple[str, ...]
    template: str | None
    digest: str
    source: str
    groups: dict[str, tuple[str, ...]]

    def seal(self, hashes: NDArray[np.uint8]) -> str:
        """The digest: SHA-256 (hex) of the canonical JSON of all else here, and of the hashes of the crops."""
        fields = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode() + b"\0" + hashes.tobytes()).hexdigest()


def chunks(crops: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The crops in pieces that fit into memory."""
    return (crops[start : start + _CHUNK] for start in range(0, len(crops), _CHUNK))


def hash_crops(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SHA-256 of the bytes of each crop, uint8 (N, 32)."""
    hashes = (hashlib.sha256(crop.tobytes()).digest() for chunk in chunks(crops) for crop in chunk)
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)


def read(folder: Path) -> tuple[Header, NDArray[np.uint8], NDArray[np.uint8]]:
    """(header, crops, hashes), the crops memory-mapped.

    Raises:
        DataError: missing or damaged.
    """
    try:
        header = Header.model_validate_json((folder / "set.json").read_bytes())
    except OSError as error:
        raise DataError(f"{folder} is no aligned set: cannot read set.json: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{folder / 'set.json'} is damaged: {place}: {first['msg']}") from error
    if header.format != 1:
        raise DataError(f"{folder / 'set.json'} is of format {header.format}, this version reads 1")
    crops = _load(folder / "crops.npy", header.shape, mapped=True)
    return header, crops, _load(folder / "hashes.npy", (*header.shape[:1], 32), mapped=False)


def _load(file: Path, shape: tuple[int, ...], mapped: bool) -> NDArray[np.uint8]:
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{file} is damaged or cut off") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != shape:
        raise DataError(f"{file} is not uint8 {shape}, as set.json says")
    return array


def write(
    folder: Path,
    header: Header,
    crops: Iterable[NDArray[np.uint8]],
    hashes: NDArray[np.uint8],
    others: Mapping[str, str] | None = None,
    staging: Path | None = None,
) -> None:
    """Write the three files, and others by name, beside the folder (or in `staging`) and move them there in one step.

    Raises:
        DataError: the folder is there already and not empty, or cannot be written.
    """
    folder = folder.absolute()
    if not hashes.size:
        raise DataError(f"{folder} was not written: there is no image in the set")
    check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = staging or folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            _write_arrays(beside, header, crops, hashes)
            for name, text in {"set.json": header.model_dump_json() + "\n", **(others or {})}.items():
                _write_text(beside / name, text)
            sync_folder(beside)
            beside.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}") from error


def check_free(folder: Path) -> None:
    """Nothing there that would be overwritten.

    Raises:
        DataError: the folder is there already and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already")


def _write_arrays(folder: Path, header: Header, crops: Iterable[NDArray[np.uint8]], hashes: NDArray[np.uint8]) -> None:
    with (folder / "crops.npy").open("wb") as file:
        empty = np.broadcast_to(np.uint8(0), header.shape)
        write_array_header_1_0(file, header_data_from_array_1_0(empty) | {"fortran_order": False})
        for chunk in crops:
            file.write(np.ascontiguousarray(chunk).tobytes())
        file.flush()
        os.fsync(file.fileno())
    with (folder / "hashes.npy").open("wb") as file:
        np.save(file, hashes)
        file.flush()
        os.fsync(file.fileno())


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
