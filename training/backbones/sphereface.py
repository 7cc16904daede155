"""SphereFace-4, 10, 20, 36 and 64 (Liu et al., "SphereFace: Deep Hypersphere Embedding", CVPR 2017, table 2).

Four stages of 64, 128, 256 and 512 channels. Each opens with a 3x3 convolution of stride 2, followed by residual units
of two 3x3 convolutions; PReLU after every convolution, no batch norm, then a fully connected layer without activation.
"""

from functools import partial

from torch import Tensor, nn

from training.backbones.activation import PReLU
from training.backbones.layers import Size, check_choice, check_dropout, check_flag, check_width, map_size, scaled

# Residual units of each stage. The depth is the four convolutions that open a stage, and two a unit.
_UNITS = {4: (0, 0, 0, 0), 10: (0, 1, 2, 0), 20: (1, 2, 4, 1), 36: (2, 4, 8, 2), 64: (3, 8, 16, 3)}
_CHANNELS = (64, 128, 256, 512)


class SphereFace(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension), of no particular norm; usually 112 x 96."""

    def __init__(
        self,
        dimension: int,
        size: Size,
        channels: int = 3,
        *,
        depth: int = 20,
        batch_norm: bool = False,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector.
            size: (height, width) of the input.
            channels: of the input.
            depth: 4, 10, 20, 36 or 64 convolutions; the fully connected layer is not counted.
            batch_norm: between convolution and PReLU; not in the paper, but from scratch on small data it trains
                where the plain network stands still.
            width: multiplier of the channels.
            dropout: share of values zeroed before the last layer.

        Raises:
            ValueError: a parameter that is not one of those.
        """
        super().__init__()
        check_choice("depth", depth, tuple(_UNITS))
        check_flag("batch_norm", batch_norm)
        check_width(width)
        check_dropout(dropout)
        conv = partial(_conv, batch_norm=batch_norm)
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, units in zip((scaled(count, width) for count in _CHANNELS), _UNITS[depth], strict=True):
            layers.append(conv(inputs, outputs, stride=2))
            layers += [_Residual(conv(outputs, outputs), conv(outputs, outputs)) for _ in range(units)]
            inputs = outputs
        height, wide = map_size(size, len(_CHANNELS))
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs * height * wide, dimension)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension)."""
        features: Tensor = self.fc(self.dropout(self.body(images).flatten(1)))
        return features


class _Residual(nn.Module):
    """x + PReLU(conv(PReLU(conv(x))))."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x))
        return out


def _conv(inputs: int, outputs: int, stride: int = 1, *, batch_norm: bool) -> nn.Sequential:
    # Within units the authors' biases are 0 and not trained, which is to say that there are none.
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=stride == 2 and not batch_norm)
    if stride == 2:
        nn.init.xavier_uniform_(conv.weight)
    else:  # near 0, so that a fresh residual unit is nearly the identity
        nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    norm = [nn.BatchNorm2d(outputs)] if batch_norm else []
    return nn.Sequential(conv, *norm, PReLU(outputs))
