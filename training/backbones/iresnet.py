"""IResNet-18, 50 and 100: the residual networks of ArcFace (Deng et al., "ArcFace", CVPR 2019, section 3.1).

A unit is BN-conv-BN-PReLU-conv-BN, as in "Deep Pyramidal Residual Networks" (Han et al., CVPR 2017), with a first
convolution of stride 1; the head is BN-dropout-FC-BN, whose last scale stays 1. The name is that of "Improved Residual
Networks" (Duta et al., ICPR 2020), under which these networks became known.
"""

from torch import Tensor, nn

from training.backbones.activation import PReLU
from training.backbones.layers import (
    Size,
    check_choice,
    check_dropout,
    check_width,
    conv_norm,
    conv_norm_prelu,
    map_size,
    scaled,
)

_UNITS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
_CHANNELS = (64, 128, 256, 512)


class IResNet(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension), of no particular norm; usually 112 x 112."""

    def __init__(
        self,
        dimension: int,
        size: Size,
        channels: int = 3,
        *,
        depth: int = 50,
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector; 512 in the paper.
            size: (height, width) of the input.
            channels: of the input.
            depth: 18, 50 or 100.
            width: multiplier of the channels, rounded to multiples of 8.
            dropout: share of values zeroed before the fully connected layer; 0.4 in the paper.

        Raises:
            ValueError: a parameter that is not one of those.
        """
        super().__init__()
        check_choice("depth", depth, tuple(_UNITS))
        check_width(width)
        check_dropout(dropout)
        inputs = scaled(_CHANNELS[0], width)
        layers: list[nn.Module] = [conv_norm_prelu(channels, inputs)]
        for count, units in zip(_CHANNELS, _UNITS[depth], strict=True):
            outputs = scaled(count, width)
            for number in range(units):
                layers.append(_Unit(inputs, outputs, 1 if number else 2))
                inputs = outputs
        height, wide = map_size(size, len(_CHANNELS))
        self.body = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inputs * height * wide, dimension)
        self.fc_norm = nn.BatchNorm1d(dimension)
        self.fc_norm.weight.requires_grad_(False)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension)."""
        maps = self.dropout(self.norm(self.body(images)))
        features: Tensor = self.fc_norm(self.fc(maps.flatten(1)))
        return features


class _Unit(nn.Module):
    """Pre-normalised residual unit; the way past it has a 1x1 convolution where stride or channels change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            *conv_norm(inputs, outputs),
            PReLU(outputs),
            *conv_norm(outputs, outputs, 3, stride),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        # The longer way first: weights.py relies on layers being run in the order in which they are registered.
        changed: Tensor = self.layers(x)
        passed: Tensor = self.shortcut(x)
        return changed + passed


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.1)  # batch norm behind every one of them takes the scale away again
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
