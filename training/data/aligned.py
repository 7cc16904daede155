"""Aligned crops with their labels: what training and evaluation read.

A set on disk is a folder of three files (docs/data.md): crops.npy, hashes.npy (SHA-256 of each crop) and set.json.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data import aligned_files
from training.data.people import DataError
from training.data.rows import take

Crops = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class AlignedSet:
    """N crops of C people.

    crops uint8 (N, height, width, channels), RGB or one channel, memory-mapped where it was opened from disk; labels
    int32 (N,), indices into `people`, each of 0..C-1 at least once; people C names, sorted; photos N names of the
    source photos; template the name of the alignment template, None where the images are no faces; digest SHA-256 of
    all the rest; groups N values a name, such as {"sex": ("f", "m", ...)}; hashes uint8 (N, 32), SHA-256 of each
    crop, where they are known.

    Raises:
        DataError: the parts do not fit each other.
    """

    crops: Crops
    labels: NDArray[np.int32]
    people: tuple[str, ...]
    photos: tuple[str, ...]
    template: str | None
    digest: str
    source: str
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hashes: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        _check_crops(self.crops)
        _check_labels(self.labels, len(self.people))
        count = len(self.crops)
        lengths = {"labels": len(self.labels), "photos": len(self.photos)}
        lengths |= {f"values of {name!r}": len(values) for name, values in self.groups.items()}
        for name, length in lengths.items():
            if length != count:
                raise DataError(f"{count} crops, but {length} {name}")
        if len(set(self.people)) != len(self.people):
            raise DataError("two people of one name")

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images of each person, (C,)."""
        return np.bincount(self.labels, minlength=len(self.people))

    @staticmethod
    def of(
        crops: Crops,
        people_of: Sequence[str],
        photos: Sequence[str],
        template: str | None = None,
        source: str = "",
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> "AlignedSet":
        """A set out of crops and the name of the person on each, with its digest.

        Raises:
            DataError: the parts do not fit each other.
        """
        people = tuple(sorted(set(people_of)))
        index = {name: number for number, name in enumerate(people)}
        labels = np.array([index[name] for name in people_of], np.int32)
        values = {name: tuple(column) for name, column in (groups or {}).items()}
        return _sealed(AlignedSet(crops, labels, people, tuple(photos), template, "", source, values))

    def subset(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> "AlignedSet":
        """The images of a mask or of indices, in that order; people without any are dropped, labels are contiguous.

        Args:
            keep: bool (N,) or int (M,).
        """
        if keep.dtype == np.bool_ and keep.shape != self.labels.shape:
            raise ValueError(f"a mask of {keep.shape} for {len(self)} images")
        rows = np.flatnonzero(keep) if keep.dtype == np.bool_ else np.asarray(keep, np.int64)
        old, labels = np.unique(self.labels[rows], return_inverse=True)
        part = AlignedSet(
            crops=take(self.crops, rows),
            labels=labels.astype(np.int32),
            people=tuple(self.people[label] for label in old),
            photos=tuple(self.photos[row] for row in rows),
            template=self.template,
            digest="",
            source=self.source,
            groups={name: tuple(values[row] for row in rows) for name, values in self.groups.items()},
            hashes=None if self.hashes is None else self.hashes[rows],
        )
        return _sealed(part)

    @staticmethod
    def open(folder: Path, verify: bool = False) -> "AlignedSet":
        """A set that `save` or `facesphere-train align` wrote.

        What is checked: that the files are there and whole (sizes and shapes), that labels are contiguous, and the
        digest over set.json and the hashes of the crops. The crops' own bytes, which may be hundreds of gigabytes,
        are read and held against their hashes with `verify` only.

        Raises:
            DataError: missing, damaged, or the digest differs.
        """
        header, crops, hashes = aligned_files.read(folder)
        names = (header.people, header.photos, header.template, header.digest, header.source)
        try:
            found = AlignedSet(crops, np.array(header.labels, np.int32), *names, header.groups, hashes)
        except (DataError, OverflowError) as error:
            raise DataError(f"{folder} is damaged: {error}") from error
        if header.seal(hashes) != header.digest:
            raise DataError(f"{folder} is damaged or was changed: its digest differs from the one in set.json")
        if verify:
            _verify(found, hashes, folder)
        return found

    def save(self, folder: Path) -> None:
        """Write the set, as a whole or not at all.

        Raises:
            DataError: the folder is there already and not empty, or cannot be written.
        """
        sealed = _sealed(self)
        assert sealed.hashes is not None
        aligned_files.write(folder, _header(sealed), aligned_files.chunks(self.crops), sealed.hashes)


def split_people(data: AlignedSet, share: float, salt: str = "") -> tuple[AlignedSet, AlignedSet]:
    """(rest, held out), by people: SHA-256 of salt and name decides, so a person's side is the same on every machine.

    Args:
        data: the set.
        share: of the people to hold out, 0 < share < 1; what is held out is close to it for many people only.
        salt: another salt is another split.

    Raises:
        DataError: the share is not within (0, 1), or one of the sides would be empty.
    """
    if not 0 < share < 1:
        raise DataError(f"the share to hold out must lie between 0 and 1, got {share}")
    held = np.array([_fraction(salt + person) < share for person in data.people], np.bool_)
    if held.all() or not held.any():
        raise DataError(f"a split of {len(held)} people by {share} leaves a side empty; use another share or salt")
    mask = held[data.labels]
    return data.subset(~mask), data.subset(mask)


def check_disjoint(a: AlignedSet, b: AlignedSet) -> None:
    """No person in both sets.

    Raises:
        DataError: naming one who is.
    """
    both = sorted(set(a.people) & set(b.people))
    if both:
        raise DataError(f"{len(both)} people are in both sets, {both[0]!r} is one")


def _header(data: AlignedSet) -> aligned_files.Header:
    return aligned_files.Header(
        shape=data.crops.shape,
        labels=data.labels.tolist(),
        people=data.people,
        photos=data.photos,
        template=data.template,
        digest=data.digest,
        source=data.source,
        groups=dict(data.groups),
    )


def _sealed(data: AlignedSet) -> AlignedSet:
    hashes = aligned_files.hash_crops(data.crops) if data.hashes is None else data.hashes
    return replace(data, hashes=hashes, digest=_header(data).seal(hashes))


def _verify(data: AlignedSet, hashes: NDArray[np.uint8], folder: Path) -> None:
    differs = np.flatnonzero((aligned_files.hash_crops(data.crops) != hashes).any(axis=1))
    if len(differs):
        raise DataError(f"{folder} is damaged: {len(differs)} crops differ, {data.photos[differs[0]]!r} is the first")


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _check_crops(crops: Crops) -> None:
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[3] not in (1, 3):
        raise DataError(f"crops must be uint8 (N, height, width, 1 or 3), got {crops.dtype} {crops.shape}")


def _check_labels(labels: NDArray[np.int32], people: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind != "i":
        raise DataError(f"labels must be integers (N,), got {labels.dtype} {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < people:
        raise DataError(f"a label lies outside 0..{people - 1}: {labels.min()}..{labels.max()}")
    missing = np.flatnonzero(np.bincount(labels, minlength=people) == 0)
    if len(missing):
        raise DataError(f"label {missing[0]} has no image, labels must be 0..C-1")
