"""How good a network is during training: verification of people it has not seen, or the error rate on known classes."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.preprocess import l2_normalize
from training.config import Input
from training.data.aligned import AlignedSet
from training.data.augment import resize
from training.evaluation.verification import verification_accuracy
from training.losses.classification import ClassificationLoss

_BATCH = 64
# Training photos that the means of classes are taken of.
_FOR_MEANS = 10_000
_TINY = 1e-12


def normalised(images: Tensor, spec: Input, device: torch.device) -> Tensor:
    """uint8 (n, C, H, W) to the network's float input, in the memory format it came in."""
    return (images.to(device, non_blocking=True).float() - spec.mean) / spec.std


def verification(network: nn.Module, held_out: AlignedSet, spec: Input, device: torch.device) -> dict[str, float]:
    """10-fold verification accuracy on people who were not trained on, with its standard error."""
    vectors = embed(network, held_out, spec, device)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.isfinite(lengths) & (lengths > _TINY)).all():  # no direction, and so nothing to compare
        return {"accuracy": 0.0, "standard_error": 0.0}
    folds = verification_accuracy(l2_normalize(vectors), held_out.labels)
    return {"accuracy": folds.mean, "standard_error": folds.standard_error}


def classification(
    network: nn.Module, loss: ClassificationLoss, test: AlignedSet, spec: Input, device: torch.device
) -> dict[str, float]:
    """Share of photos whose largest logit, without any margin, is that of their class."""
    features = torch.from_numpy(embed(network, test, spec, device)).to(device)
    right = int((loss.scores(features).argmax(dim=1).cpu().numpy() == test.labels).sum())
    return {"accuracy": right / len(test.labels), "errors": float(len(test.labels) - right)}


def nearest_mean(
    network: nn.Module, train: AlignedSet, test: AlignedSet, spec: Input, device: torch.device
) -> dict[str, float]:
    """Share of photos nearest to the mean direction of their class: for losses without a classifier."""
    step = -(-len(train.labels) // _FOR_MEANS)
    known = train.subset(np.arange(0, len(train.labels), step))
    vectors = embed(network, known, spec, device)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    means = np.stack([vectors[known.labels == label].mean(axis=0) for label in range(len(known.people))])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _TINY)
    nearest = (embed(network, test, spec, device) @ means.T).argmax(axis=1)
    right = int((np.array(known.people)[nearest] == np.array(test.people)[test.labels]).sum())
    return {"accuracy": right / len(test.labels), "errors": float(len(test.labels) - right)}


@torch.no_grad()
def embed(network: nn.Module, data: AlignedSet, spec: Input, device: torch.device) -> NDArray[np.float32]:
    """Embeddings (N, D) of a set's crops, in evaluation mode; the mode is put back."""
    was_training = network.training
    network.eval()
    parts = [network(normalised(batch, spec, device)).float().cpu().numpy() for batch in _batches(data, spec)]
    network.train(was_training)
    return np.concatenate(parts)


def _batches(data: AlignedSet, spec: Input) -> Iterator[Tensor]:
    size = (spec.height, spec.width)
    for start in range(0, len(data.labels), _BATCH):
        crops = [resize(np.asarray(crop), size) for crop in data.crops[start : start + _BATCH]]
        batch = np.stack(crops)
        if spec.channels == "bgr":
            batch = batch[..., ::-1].copy()
        yield torch.from_numpy(batch).permute(0, 3, 1, 2)
