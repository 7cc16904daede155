"""LeNet++, the network of the figures of features in the plane (Wen et al., center loss, ECCV 2016, table 1).

Three stages of two 5x5 convolutions with 32, 64 and 128 channels, PReLU after each, and a max pool after each stage;
then a fully connected layer to the feature, two values where it is to be drawn.
"""

from itertools import pairwise

from torch import Tensor, nn

from training.backbones.activation import PReLU
from training.backbones.layers import Size, map_size

_CHANNELS = (32, 64, 128)


class LNet(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension); usually 28 x 28, grayscale, two values."""

    def __init__(self, dimension: int, size: Size, channels: int = 1) -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector; 2 in the paper.
            size: (height, width) of the input.
            channels: of the input.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((channels, *_CHANNELS)):
            for first in (inputs, outputs):
                layers += [nn.Conv2d(first, outputs, 5, padding=2), PReLU(outputs)]
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # as Caffe pools, which the authors used
        height, width = map_size(size, len(_CHANNELS))
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(_CHANNELS[-1] * height * width, dimension)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension)."""
        features: Tensor = self.fc(self.body(images).flatten(1))
        return features
