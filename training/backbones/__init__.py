"""The networks, one a file: normalised images to feature vectors. docs/backbones.md compares them."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from training.backbones.iresnet import IResNet
from training.backbones.layers import SMALLEST_SIDE, Size, check_count
from training.backbones.lnet import LNet
from training.backbones.mnist import MnistNet
from training.backbones.mobilefacenet import MobileFaceNet
from training.backbones.mobilenet import MobileNet
from training.backbones.sphereface import SphereFace
from training.backbones.timm_adapter import Timm

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "iresnet": IResNet,
    "lnet": LNet,
    "mnist": MnistNet,
    "mobilefacenet": MobileFaceNet,
    "mobilenet": MobileNet,
    "sphereface": SphereFace,
    "timm": Timm,
}

__all__ = ["BACKBONES", "build"]


def build(name: str, dimension: int, size: Size, channels: int = 3, **params: Any) -> nn.Module:
    """A network with fresh weights: float (N, channels, height, width), normalised already, to (N, dimension).

    Args:
        name: one of `BACKBONES`.
        dimension: of a feature vector.
        size: (height, width) of the input in pixels.
        channels: of the input; 1 for grayscale.
        params: the network's own, see its class.

    Raises:
        ValueError: an unknown name or parameter, or a size that the network cannot take.
    """
    if name not in BACKBONES:
        raise ValueError(f"there is no backbone {name!r}; there are {', '.join(BACKBONES)}")
    network = BACKBONES[name]
    _check_names(name, network, params)
    check_count("dimension", dimension)
    check_count("channels", channels)
    if min(size) < SMALLEST_SIDE:
        raise ValueError(f"input of {size[1]} x {size[0]} is too small: {SMALLEST_SIDE} pixels a side are the least")
    return network(dimension, size, channels, **params)


def _check_names(name: str, network: Callable[..., nn.Module], params: dict[str, Any]) -> None:
    arguments = inspect.signature(network).parameters.values()
    known = [each.name for each in arguments if each.kind is inspect.Parameter.KEYWORD_ONLY]
    for key in params:
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
