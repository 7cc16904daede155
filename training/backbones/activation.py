"""PReLU that exports to ONNX as arithmetic, which runtimes fuse and vectorise better than the PRelu node."""

import torch
from torch import Tensor, nn
from torch.nn import functional

INITIAL_SLOPE = 0.25


class PReLU(nn.Module):
    """max(0, x) + a min(0, x) with a slope a for each channel (He et al., "Delving Deep into Rectifiers", ICCV 2015).

    In an ONNX export it is a x + (1 - a) relu(x), equal to 1e-6; with it, ONNX Runtime ran mobilenets twice as fast
    (docs/backbones.md).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), INITIAL_SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape and type."""
        slope = self.weight.to(x.dtype)  # under autocast x may be half as wide as the parameter
        if torch.onnx.is_in_onnx_export():
            slope = slope.view(-1, *[1] * (x.ndim - 2))
            return slope * x + (1 - slope) * functional.relu(x)
        return functional.prelu(x, slope)

    def extra_repr(self) -> str:
        """The channels, as torch prints its own layers."""
        return str(len(self.weight))
