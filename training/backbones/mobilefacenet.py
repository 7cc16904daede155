"""MobileFaceNet (Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification", 2018).

Inverted residual bottlenecks as in MobileNetV2, fewer and with PReLU (table 1), and a global depthwise convolution for
want of average pooling, since it matters where in the face something is seen.
"""

from functools import partial

from torch import Tensor, nn

from training.backbones.layers import Size, check_width, conv_norm, conv_norm_prelu, initialise, map_size, scaled

# Of each group of bottlenecks: expansion, channels, how many, stride of the first.
_GROUPS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
_FIRST = 64
_LAST = 512
_HALVINGS = 4


class MobileFaceNet(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension), of no particular norm; usually 112 x 112."""

    def __init__(self, dimension: int, size: Size, channels: int = 3, *, width: float = 1.0) -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector; 128 in the paper.
            size: (height, width) of the input.
            channels: of the input.
            width: multiplier of the channels, rounded to multiples of 8.

        Raises:
            ValueError: an impossible width.
        """
        super().__init__()
        check_width(width)
        wide = partial(scaled, width=width)
        first, last = wide(_FIRST), wide(_LAST)
        layers: list[nn.Module] = [
            conv_norm_prelu(channels, first, 3, 2),
            conv_norm_prelu(first, first, 3, groups=first),
        ]
        inputs = first
        for expansion, count, repeats, stride in _GROUPS:
            for number in range(repeats):
                layers.append(_Bottleneck(inputs, wide(count), expansion, 1 if number else stride))
                inputs = wide(count)
        layers.append(conv_norm_prelu(inputs, last, 1))
        self.body = nn.Sequential(*layers)
        area = map_size(size, _HALVINGS)
        self.gdc = nn.Sequential(*conv_norm(last, last, area, groups=last, padding=0))
        self.project = nn.Sequential(*conv_norm(last, dimension, 1))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension)."""
        features: Tensor = self.project(self.gdc(self.body(images))).flatten(1)
        return features


class _Bottleneck(nn.Module):
    """1x1 convolution to more channels, 3x3 depthwise, 1x1 to few without activation; added to x where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            conv_norm_prelu(inputs, hidden, 1),
            conv_norm_prelu(hidden, hidden, 3, stride, groups=hidden),
            *conv_norm(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.adds else out
