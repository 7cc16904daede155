"""Networks of timm (https://github.com/huggingface/pytorch-image-models), hundreds of them, where it is installed."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from training.backbones.layers import Size


class Timm(nn.Module):
    """Float (N, C, height, width), normalised already, to (N, dimension): what timm calls the network's classes."""

    def __init__(self, dimension: int, size: Size, channels: int = 3, *, model: str = "mobilenetv3_small_100") -> None:
        """Build with fresh weights.

        Args:
            dimension: of a feature vector.
            size: (height, width) of the input.
            channels: of the input.
            model: its name in timm.

        Raises:
            ValueError: timm is not installed, has no such network, or the network does not take that size.
        """
        super().__init__()
        timm = _timm()
        if model not in timm.list_models():
            raise ValueError(f"timm {timm.__version__} has no model {model!r}")
        self.network: Any = timm.create_model(model, pretrained=False, num_classes=dimension, in_chans=channels)
        self._try(model, torch.zeros(1, channels, *size))

    def _try(self, model: str, images: Tensor) -> None:
        """Networks such as transformers are made for one size and say so only when they run."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self(images)
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width = images.shape[2:]
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{model} takes no input of {width} x {height}: {reason}") from error
        self.train(was_training)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, height, width) to (N, dimension)."""
        return cast(Tensor, self.network(images))


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError("backbone timm needs a package more: pip install timm") from error
    except (ImportError, RuntimeError) as error:  # a torchvision that is not of this torch ends so
        raise ValueError(f"timm is installed and does not load: {str(error).splitlines()[0]}") from error
    return timm
