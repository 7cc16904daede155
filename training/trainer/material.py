"""The data of a run: who is trained on, who is held out, what the teacher says."""

from dataclasses import dataclass

import numpy as np

from training.config import ConfigError, TrainConfig
from training.data.aligned import AlignedSet, check_disjoint, split_people
from training.data.mnist import is_mnist, read_mnist
from training.data.people import DataError
from training.data.samplers import Batches, PeopleBatches, ShuffledBatches, photos_an_epoch
from training.evaluation.verification import balanced_pairs


@dataclass(frozen=True, slots=True)
class Material:
    """`closed`: validation is on the classes that are trained on (digits), not on unseen people."""

    train: AlignedSet
    validation: AlignedSet | None
    closed: bool


def gather(config: TrainConfig) -> Material:
    """Open the sets and split them.

    Raises:
        DataError: missing or damaged, people on both sides, nobody left.
        ConfigError: crops that do not suit the network's input.
    """
    path = config.data.train
    if is_mnist(path):
        digits = read_mnist(path, "train")
        _check_shape(digits, config)
        return Material(digits, read_mnist(path, "test"), closed=True)
    data = AlignedSet.open(path)
    _check_shape(data, config)
    if config.data.validation is not None:
        validation = AlignedSet.open(config.data.validation)
        _check_shape(validation, config)
        check_disjoint(data, validation)
        balanced_pairs(validation.labels)  # better now than after the first thousand steps
        return Material(_enough(data, config), validation, closed=False)
    if not config.data.held_out:
        return Material(_enough(data, config), None, closed=False)
    try:
        train, held_out = split_people(data, config.data.held_out, config.data.salt)
        balanced_pairs(held_out.labels)
    except DataError as error:
        raise ConfigError(f"data.held_out: {config.data.held_out:g} leaves too little: {error.message}") from error
    return Material(_enough(train, config), held_out, closed=False)


def _enough(data: AlignedSet, config: TrainConfig) -> AlignedSet:
    """Without the people of too few photos."""
    counts = np.bincount(data.labels, minlength=len(data.people))
    keep = counts[data.labels] >= config.data.min_images
    if keep.all():
        return data
    if not keep.any():
        raise ConfigError(f"nobody in {config.data.train} has {config.data.min_images} photos")
    return data.subset(keep)


def _check_shape(data: AlignedSet, config: TrainConfig) -> None:
    height, width, channels = data.crops.shape[1:]
    spec = config.input
    if height * spec.width != width * spec.height:
        raise ConfigError(
            f"crops of {data.source} are {width} x {height}; the input {spec.width} x {spec.height} has another shape"
        )
    if channels != (1 if spec.channels == "gray" else 3):
        raise ConfigError(f"crops of {data.source} have {channels} channel(s), input.channels is {spec.channels}")


def batches_of(material: Material, config: TrainConfig, rank: int, ranks: int) -> Batches:
    """The sampler of a rank.

    Raises:
        DataError: too few people with two photos for batches of people.
    """
    sampler = config.sampler
    if sampler.kind == "people":
        return PeopleBatches(material.train.labels, sampler.people, sampler.images, config.seed, rank, ranks)
    return ShuffledBatches(material.train.labels, config.batch, config.seed, rank, ranks, sampler.cap)


def total_steps(material: Material, config: TrainConfig, ranks: int) -> int:
    """Optimiser steps of the run: as stated, or as many as the stated epochs take."""
    if config.steps is not None:
        return config.steps
    photos = photos_an_epoch(material.train.labels, config.sampler.cap) * (config.epochs or 0)
    return max(1, round(photos / (config.per_step * ranks)))
