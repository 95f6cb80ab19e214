"""The moving average of a network's weights beside the network that is trained."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class Averaged(nn.Module):
    """A network and the exponential moving average of its weights and statistics.

    In training mode the network itself answers, in eval mode the average does.
    decay: share of the old average that a step keeps.
    warmup: shorten the memory in the beginning, to 1 - (1 + step)^(-2/3), so that the first weights are soon forgotten.

    State dict: `model.*`, `average.*` and `steps`, so that a resumed run goes on as it was.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        super().__init__()
        self.model = model
        # in a list, since its weights are those of `average` and must not be counted twice
        self._keeper = [ModelEmaV3(model, decay=decay, use_warmup=warmup)]
        self.average = self._keeper[0].module.requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the average after every step of an optimiser; a step that loss scaling skips moves nothing."""
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of now into the average; before the first update it is a copy of the start."""
        self.steps += 1
        keeper = self._keeper[0]
        keeper.update(self.model, int(self.steps) + 1 if keeper.use_warmup else None)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits."""
        return (self.model if self.training else self.average)(images)


def inner(model: nn.Module) -> nn.Module:
    """Return the network that answers in eval mode: the average where there is one."""
    return model.average if isinstance(model, Averaged) else model
