"""The interface between loop and stage, a stage's loss in the form of a module, and what several stages share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ladle.training.sharding import touch


class Stage(Protocol):
    """The object that the loop trains.

    `load` and `loss` take random numbers from the global generators (torch's, NumPy's, Python's). The loop seeds them
    for each batch by its number, so that they are the same in every process and after an interruption. The loop moves
    `module` and every batch to the device.
    """

    name: str
    """A folder's name, shown to the user: `autoencoder`, `diffusion`, `decoder`."""

    progress: float
    """The share of the budget that is spent, 0 to 1. The loop sets it before each step."""

    @property
    def module(self) -> nn.Module:
        """The module. Its parameters that require a gradient are trained; parts without any stay in eval mode."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """The specification of each batch of an epoch (such as lists of row indices), the same at every call. The call
        may replace the rows: batches of the epoch before are not loaded again."""

    def load(self, batch_spec: Any) -> Any:
        """The tensors of one batch, in tuples, lists, mappings or objects with `.to(device)`."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss, a scalar, and scalar metrics for `metrics.jsonl`. Metric `num_tokens` gives tokens per second."""

    def validate(self) -> dict[str, float]:
        """Metrics on held-out rows. Called with the averaged weights, in eval mode, without gradients, seeded."""

    def sample(self) -> list[str]:
        """A few texts to look at, or none. Called in the same way as `validate`."""


class Objective(nn.Module):
    """A stage's loss as a module's forward, as accelerate needs it, in the run's precision.

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


def to_device(batch: Any, module: nn.Module) -> Any:
    """The tensors of a batch on the device of the module."""
    from accelerate.utils import send_to_device

    return send_to_device(batch, next(module.parameters()).device)


def mean_metrics(count: int, size: int, metrics_of: Callable[[Tensor], Mapping[str, Any]]) -> dict[str, float]:
    """Mean metrics over `count` held-out rows. `metrics_of` gives the metrics of up to `size` rows [B] at a time."""
    sums: dict[str, float] = {}
    for rows in torch.arange(count).split(size):
        for name, value in metrics_of(rows).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
    return {name: total / count for name, total in sums.items() if name != "num_tokens"}
