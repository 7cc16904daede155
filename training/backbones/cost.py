"""What a network costs: parameters, and multiplications for one image.

python -m training.backbones.cost     prints the table of docs/backbones.md
"""

import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import click
import torch
from torch import Tensor, nn

from training.backbones import build
from training.backbones.layers import Size


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters, and multiply-accumulates (MACs) of convolutions and fully connected layers for one image."""

    parameters: int
    macs: int


def cost(module: nn.Module, size: Size, channels: int = 3) -> Cost:
    """Count without computing: on a copy that has shapes and no values.

    Args:
        module: any network of convolutions and fully connected layers; it is not changed.
        size: (height, width) of the input.
        channels: of the input.
    """
    network = copy.deepcopy(module).to("meta").eval()
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        weight = layer.get_parameter("weight")
        # Every value of the output takes the weights of one output channel.
        total += output[0].numel() * prod(weight.shape[1:])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, channels, *size, device="meta"))
    return Cost(sum(parameter.numel() for parameter in module.parameters()), total)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    size: Size
    dimension: int
    params: dict[str, Any]
    source: str
    channels: int = 3


_SPHEREFACE = "Liu et al., CVPR 2017"
_MOBILENET = "Howard et al., 2017; Zhong et al., 2021"
_IRESNET = "Deng et al., CVPR 2019"
_L_SOFTMAX = "Liu et al., ICML 2016"
_ROWS = (
    *(_Row("sphereface", (112, 96), 512, {"depth": depth}, _SPHEREFACE) for depth in (4, 10, 20, 36, 64)),
    _Row("sphereface", (112, 96), 512, {"depth": 20, "width": 0.5}, _SPHEREFACE),
    _Row("mobilenet", (112, 112), 128, {}, _MOBILENET),
    _Row("mobilenet", (112, 112), 128, {"head": "gdc"}, _MOBILENET),
    _Row("mobilenet", (112, 112), 128, {"head": "projected"}, _MOBILENET),
    _Row("mobilenet", (112, 112), 128, {"width": 0.5, "head": "projected"}, _MOBILENET),
    _Row("mobilenet", (112, 112), 128, {"width": 0.25, "head": "projected"}, _MOBILENET),
    _Row("mobilefacenet", (112, 112), 128, {}, "Chen et al., 2018"),
    *(_Row("iresnet", (112, 112), 512, {"depth": depth}, _IRESNET) for depth in (18, 50, 100)),
    _Row("lnet", (28, 28), 2, {}, "Wen et al., ECCV 2016", 1),
    _Row("mnist", (28, 28), 512, {}, _L_SOFTMAX, 1),
    _Row("mnist", (32, 32), 512, {"convolutions": 4}, _L_SOFTMAX),
)


def table() -> str:
    """The Markdown table of docs/backbones.md."""
    lines = ["| name | params | input | D | parameters, M | GMACs | source |", "|---|---|---|---|---|---|---|"]
    for row in _ROWS:
        with torch.device("meta"):  # shapes are all that is needed, and hundreds of megabytes of values are not
            module = build(row.name, row.dimension, row.size, row.channels, **row.params)
        spent = cost(module, row.size, row.channels)
        params = ", ".join(f"{key}: {value}" for key, value in row.params.items())
        height, width = row.size
        lines.append(
            f"| {row.name} | {params} | {width} x {height} x {row.channels} | {row.dimension} "
            f"| {spent.parameters / 1e6:.2f} | {spent.macs / 1e9:.3f} | {row.source} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    click.echo(table(), nl=False)
