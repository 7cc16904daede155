"""An exponential moving average of a network's weights, which is what gets validated and exported."""

import torch
from torch import Tensor, nn


class Average:
    """a <- decay a + (1 - decay) w after every step, of weights and buffers; integers are copied.

    Early on the decay is (1 + step) / (10 + step) if that is smaller, so that the first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        floats, news = [], []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                floats.append(self.state[name])
                news.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(floats, news, 1 - keep)

    def state_dict(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """For a checkpoint."""
        return {"step": self.step, "state": self.state}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Out of a checkpoint."""
        step, tensors = state["step"], state["state"]
        if not isinstance(step, int) or not isinstance(tensors, dict):
            raise ValueError("no moving average")
        self.step = step
        for name, value in tensors.items():
            self.state[name].copy_(value)
