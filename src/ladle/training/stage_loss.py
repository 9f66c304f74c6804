"""What the loop differentiates: a stage's loss, in the form that accelerate prepares for its processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ladle.training.sharding import touch
from ladle.training.stages.interface import Stage


class Objective(nn.Module):
    """A stage's loss as a module's forward, in the run's precision.

    touch_all: give every parameter a gradient at every step, as sharding needs it.
    """

    def __init__(self, stage: Stage, autocast: Callable[[], torch.autocast], touch_all: bool) -> None:
        super().__init__()
        self.module = stage.module
        self._loss, self._autocast, self._touch_all = stage.loss, autocast, touch_all

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        with self._autocast():
            loss, metrics = self._loss(batch)
        return (touch(loss, self.module) if self._touch_all else loss), metrics


def set_modes(module: nn.Module) -> None:
    """Train mode, but eval mode for parts whose parameters are all frozen."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()
