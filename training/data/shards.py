"""Tar shards in the layout of webdataset: KEY.jpg beside KEY.cls or KEY.json, one sample after the other."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.archives import tar_members
from training.data.errors import DataError
from training.data.people import PHOTO_SUFFIXES, Photo

_LABELS = {".cls", ".json"}
_LOOK_AT = 16


def is_shard(path: Path) -> bool:
    """Whether one of the first files is the label of a photo beside it.

    Raises:
        DataError: damaged or no archive.
    """
    names = [_split(name) for name, _ in itertools.islice(tar_members(path), _LOOK_AT)]
    photos = {key for key, kind in names if kind in PHOTO_SUFFIXES}
    return any(kind in _LABELS and key in photos for key, kind in names)


def read_shard(path: Path) -> Iterator[Photo]:
    """Photos of one shard. The person is "person" or "label" in KEY.json, else the text in KEY.cls.

    "groups" in KEY.json, an object of texts, are the photo's groups.

    Raises:
        DataError: damaged, or a sample without photo or label, with its key.
    """
    for key, sample in itertools.groupby(_files(path), key=lambda file: file[0]):
        files = {kind: (name, data) for _, kind, name, data in sample}
        images = [file for kind, file in files.items() if kind in PHOTO_SUFFIXES]
        if len(images) != 1:
            raise DataError(f"{path}: sample {key} has {len(images)} photos, it must have one")
        person, groups = _label(path, key, {kind: data for kind, (_, data) in files.items()})
        yield Photo(person, *images[0], groups)


def _split(name: PurePosixPath) -> tuple[str, str]:
    """What comes before the first dot of the file's name, and the rest: webdataset's key and extension."""
    stem, _, extension = name.name.partition(".")
    return str(name.parent / stem), f".{extension.lower()}"


def _files(path: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """(key, extension, name, bytes), each read in its turn: to go back in a compressed archive is to start anew."""
    for name, read in tar_members(path):
        key, kind = _split(name)
        if kind in PHOTO_SUFFIXES | _LABELS:
            yield key, kind, str(name), read()


def _label(path: Path, key: str, files: dict[str, bytes]) -> tuple[str, dict[str, str]]:
    person: Any = None
    groups: Any = {}
    try:
        if ".json" in files:
            fields = json.loads(files[".json"])
            person = fields.get("person", fields.get("label"))
            groups = fields.get("groups", {})
        if person is None and ".cls" in files:
            person = files[".cls"].decode().strip()
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: the label of sample {key} is damaged") from error
    if isinstance(person, bool) or not isinstance(person, int | str) or person == "":
        raise DataError(f"{path}: sample {key} has no label in KEY.cls, or as person or label in KEY.json")
    if not isinstance(groups, dict) or not all(isinstance(value, str) for value in groups.values()):
        raise DataError(f"{path}: the groups of sample {key} are no object of texts")
    return str(person), groups
