"""Crops of an aligned set, augmented and stacked, as tensors; in worker processes where there are any."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.config import Augment, TrainConfig
from training.data.aligned import AlignedSet
from training.data.augment import augment
from training.data.samplers import Batches, Picked, steps_from


@dataclass(frozen=True, slots=True)
class Batch:
    """uint8 images (n, C, H, W), labels (n,), and the teacher's unit vectors (n, D) if there is one."""

    images: Tensor
    labels: Tensor
    targets: Tensor | None


class _Crops(Dataset[tuple[Tensor, ...]]):
    """Indexed by a whole batch: collating single photos would cost more than augmenting them."""

    def __init__(self, data: AlignedSet, config: TrainConfig, targets: NDArray[np.float32] | None) -> None:
        self.data, self.targets, self.seed = data, targets, config.seed
        self.size = (config.input.height, config.input.width)
        self.settings: Augment = config.augment
        self.views = config.distil.views if config.distil else 0
        self.swap = config.input.channels == "bgr"

    def __getitem__(self, picked: Picked) -> tuple[Tensor, ...]:
        epochs = picked.epochs % self.views if self.views else picked.epochs
        crops = [self._one(int(i), int(e)) for i, e in zip(picked.photos, epochs, strict=True)]
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # channels-last memory, as it is
        labels = torch.from_numpy(self.data.labels[picked.photos].astype(np.int64))
        if self.targets is None:
            return images, labels
        rows = self.targets[epochs if self.views else np.zeros_like(epochs), picked.photos]
        return images, labels, torch.from_numpy(np.array(rows, np.float32))

    def _one(self, index: int, epoch: int) -> NDArray[np.uint8]:
        crop = view(self.data.crops[index], self.size, self.settings, self.seed, index, epoch)
        return crop[..., ::-1] if self.swap else crop


def view(
    crop: NDArray[np.uint8], size: tuple[int, int], settings: Augment, seed: int, index: int, epoch: int
) -> NDArray[np.uint8]:
    """What photo `index` looks like in epoch `epoch`: always the same, in whatever process and order one asks."""
    return augment(crop, size, settings, np.random.Generator(np.random.Philox(key=_key(seed, index, epoch))))


def _key(seed: int, index: int, epoch: int) -> int:
    return (seed << 96) | (index << 48) | epoch  # a key of 128 bits, one per view; Philox mixes it


class _Steps(Sampler[Picked]):
    def __init__(self, batches: Batches, first: int, end: int) -> None:
        self.batches, self.first, self.end = batches, first, end

    def __iter__(self) -> Iterator[Picked]:
        return steps_from(self.batches, self.first, self.end)

    def __len__(self) -> int:
        return self.end - self.first


def load(
    data: AlignedSet,
    batches: Batches,
    config: TrainConfig,
    targets: NDArray[np.float32] | None,
    first: int,
    end: int,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches first .. end - 1, read ahead by `config.workers` processes.

    Args:
        data: what `batches` points into.
        targets: the teacher's vectors (views, N, D), or None.
        first, end: in batches of `config.batch`, not in optimiser steps.
        pin: page-locked memory, for a GPU.
    """
    workers = config.workers
    options: dict[str, Any] = {"prefetch_factor": 4, "worker_init_fn": _quiet_worker} if workers else {}
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        _Crops(data, config, targets),
        sampler=_Steps(batches, first, end),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        # Its own, though unused: from the global one it would draw a number, and a resumed run would go on otherwise.
        generator=torch.Generator(),
        **options,
    )
    for images, labels, *rest in loader:
        yield Batch(images, labels, rest[0] if rest else None)


def _quiet_worker(_: int) -> None:
    """One thread a worker: more of them than cores take time from the training they feed. Ctrl-C is the trainer's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
