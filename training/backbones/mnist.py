"""The network for MNIST and CIFAR of L-Softmax (Liu et al., "Large-Margin Softmax Loss", ICML 2016, table 1).

3x3 convolutions, each with batch norm and ReLU: one of 64 channels, then stages of 64, 128 and 256 channels with three
convolutions each (four for CIFAR), a max pool after each stage, and a fully connected layer, with batch norm and ReLU
as well. The table leaves the last two out, the network that the authors published has them, and without them the
paper's learning rate of 0.1 diverges: features of this size would have a length of 36.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones.layers import Size, check_count, check_width, conv_norm, map_size, scaled

_FIRST = 64
_CHANNELS = (64, 128, 256)


class MnistNet(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension); 28 x 28 grayscale, or 32 x 32 in colour."""

    def __init__(
        self, dimension: int, size: Size, channels: int = 1, *, convolutions: int = 3, width: float = 1.0
    ) -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector; usually 512.
            size: (height, width) of the input.
            channels: of the input.
            convolutions: of each stage: 3 for MNIST, 4 for CIFAR.
            width: multiplier of the channels, rounded to multiples of 8.

        Raises:
            ValueError: a parameter that is not one of those.
        """
        super().__init__()
        check_count("convolutions", convolutions)
        check_width(width)
        inputs = scaled(_FIRST, width)
        layers = [*conv_norm(channels, inputs), nn.ReLU()]
        for count in _CHANNELS:
            outputs = scaled(count, width)
            for _ in range(convolutions):
                layers += [*conv_norm(inputs, outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # as Caffe pools, which the authors used
        height, wide = map_size(size, len(_CHANNELS))
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs * height * wide, dimension)
        self.norm = nn.BatchNorm1d(dimension)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension), none of them negative."""
        return F.relu(self.norm(self.fc(self.body(images).flatten(1))))


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
