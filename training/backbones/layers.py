"""What the backbones share: channel counts, sizes of maps, convolution with batch norm, initial weights, checks."""

from collections.abc import Sequence

from torch import nn

from training.backbones.activation import INITIAL_SLOPE, PReLU

Size = tuple[int, int]
SMALLEST_SIDE = 8


def scaled(channels: int, width: float) -> int:
    """Channels times a width multiplier, rounded to a multiple of 8, of which there is at least one."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def map_size(size: Size, halvings: int) -> Size:
    """(height, width) after convolutions of stride 2 with padding, each of which rounds up."""
    height, width = size
    return -(-height // 2**halvings), -(-width // 2**halvings)


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises: ValueError: the value is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")


def check_width(width: float) -> None:
    """Raises: ValueError: not a number in (0, 8]."""
    _check_number("width", width)
    if not 0 < width <= 8:
        raise ValueError(f"width must be above 0 and at most 8, not {width!r}")


def check_dropout(dropout: float) -> None:
    """Raises: ValueError: not a number in [0, 1)."""
    _check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {dropout!r}")


def check_flag(name: str, value: bool) -> None:
    """Raises: ValueError: neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")


def check_count(name: str, value: int) -> None:
    """Raises: ValueError: not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int | Size = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    padding: int | None = None,
    eps: float = 1e-5,
) -> list[nn.Module]:
    """Convolution without bias, and batch norm; padded, unless told otherwise, so that stride 1 keeps the size."""
    if padding is None:
        padding = (kernel if isinstance(kernel, int) else kernel[0]) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=eps)]


def conv_norm_prelu(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    """The unit of most networks here: [0] convolution, [1] batch norm, [2] PReLU."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride, groups=groups, eps=eps), PReLU(outputs))


def initialise(module: nn.Module) -> None:
    """He's initial weights, for the slope that PReLU begins with; fully connected layers Xavier, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=INITIAL_SLOPE)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
