"""MobileNetV1 with PReLU (Howard et al., "MobileNets", 2017), in the form of SFace (Zhong et al., "SFace", TIP 2021).

The first convolution has stride 1, so that 112 x 112 crops end in maps of 7 x 7. Three heads make a vector of them:

fc         batch norm, fully connected, batch norm: SFace's own, with two thirds of all weights
gdc        a global depthwise convolution before the fully connected layer (Chen et al., "MobileFaceNets", 2018)
projected  a 1x1 convolution to `rank` channels before the fully connected layer
"""

from typing import Literal, get_args

from torch import Tensor, nn

from training.backbones.layers import (
    Size,
    check_choice,
    check_count,
    check_dropout,
    check_width,
    conv_norm,
    conv_norm_prelu,
    initialise,
    map_size,
    scaled,
)

Head = Literal["fc", "gdc", "projected"]

_FIRST = 32
# Channels and stride of each pair of a depthwise and a pointwise convolution.
_PAIRS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)
_HALVINGS = 4
_RANK = 64
# Those of the published SFace weights.
_BODY_EPS = 1e-3
_HEAD_EPS = 2e-5


class MobileNet(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension), of no particular norm; usually 112 x 112.

    `body` is a chain of units [convolution, batch norm, PReLU]; `flat` gives what the last layer, `fc`, reads.
    """

    def __init__(
        self,
        dimension: int,
        size: Size,
        channels: int = 3,
        *,
        width: float = 1.0,
        head: Head = "fc",
        rank: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector.
            size: (height, width) of the input.
            channels: of the input.
            width: multiplier of the channels, rounded to multiples of 8.
            head: "fc", "gdc" or "projected".
            rank: channels that the head "projected" projects to (64).
            dropout: share of values zeroed before the fully connected layer.

        Raises:
            ValueError: a parameter that is not one of those.
        """
        super().__init__()
        check_choice("head", head, get_args(Head))
        check_width(width)
        check_dropout(dropout)
        self.head = head
        self.body = _body(channels, width)
        last, area = scaled(_PAIRS[-1][0], width), map_size(size, _HALVINGS)
        if rank is not None:
            check_count("rank", rank)
            if head != "projected":
                raise ValueError(f"rank is for the head projected, not for {head}")
        self._reduce(last, area, rank or _RANK)
        self.dropout = nn.Dropout(dropout)
        values = {"fc": last, "gdc": last, "projected": rank or _RANK}[head]
        self.fc = nn.Linear(values if head == "gdc" else values * area[0] * area[1], dimension)
        self.fc_norm = nn.BatchNorm1d(dimension, eps=_HEAD_EPS)
        initialise(self)

    def _reduce(self, channels: int, area: Size, rank: int) -> None:
        if self.head == "gdc":
            self.gdc = nn.Sequential(*conv_norm(channels, channels, area, groups=channels, padding=0))
            return
        self.norm = nn.BatchNorm2d(channels, eps=_HEAD_EPS)
        if self.head == "projected":
            self.project = nn.Conv2d(channels, rank, 1, bias=False)
            self.project_norm = nn.BatchNorm2d(rank, eps=_HEAD_EPS)

    def flat(self, maps: Tensor) -> Tensor:
        """Maps (N, channels, h, w) of the body to the values (N, V) that the fully connected layer reads."""
        if self.head == "gdc":
            maps = self.gdc(maps)
        else:
            maps = self.norm(maps)
            if self.head == "projected":
                maps = self.project_norm(self.project(maps))
        values: Tensor = self.dropout(maps).flatten(1)
        return values

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension)."""
        features: Tensor = self.fc_norm(self.fc(self.flat(self.body(images))))
        return features


def _body(channels: int, width: float) -> nn.Sequential:
    inputs = scaled(_FIRST, width)
    units = [conv_norm_prelu(channels, inputs, eps=_BODY_EPS)]
    for count, stride in _PAIRS:
        outputs = scaled(count, width)
        units.append(conv_norm_prelu(inputs, inputs, 3, stride, groups=inputs, eps=_BODY_EPS))
        units.append(conv_norm_prelu(inputs, outputs, 1, eps=_BODY_EPS))
        inputs = outputs
    return nn.Sequential(*units)
