"""What the loop trains: what a stage has to bring, and its loss as a module, as accelerate wants it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ladle.training.sharding import touch


class Stage(Protocol):
    """What the loop trains.

    Random numbers come from the global generators (torch's, NumPy's, Python's), in `load` and in `loss`; the loop seeds
    them for each batch by its number, so that they are the same in whichever process and after whatever interruption.
    The loop moves `module` and every batch to the device.
    """

    name: str
    """A folder's name, shown to the user: `autoencoder`, `diffusion`, `decoder`."""

    progress: float
    """The share of the budget that is spent, 0 to 1: set by the loop before each step, for what changes on the way."""

    @property
    def module(self) -> nn.Module:
        """Its parameters that require a gradient are trained. Parts without any stay in eval mode."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """What each batch of an epoch is made of (lists of row indices, say), the same at every call. It may bring in
        other rows: batches of the epoch before are not loaded any more."""

    def load(self, batch_spec: Any) -> Any:
        """The tensors of one batch, in tuples, lists, mappings or objects with `.to(device)`."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss, a scalar, and scalar metrics for `metrics.jsonl`; `num_tokens` among them gives tokens a second."""

    def validate(self) -> dict[str, float]:
        """Metrics on held-out rows. Called with the averaged weights, in eval mode, without gradients, seeded."""

    def sample(self) -> list[str]:
        """A few texts to look at, or none. Called as `validate` is."""


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
