"""The exponential moving average of a module's trained parameters, used for validation, samples and the result."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ladle.training.sharding import like


class EMA:
    """Averages of the parameters that require a gradient, in float32 on the parameters' device.

    `average += (1 - decay_n) * (parameter - average)` with `decay_n = min(decay, (1 + n) / (10 + n))` at update n. The
    second term is a warm-up: after n updates the average covers about the last n / 9 updates. So a short run does not
    average in its initial weights, and a long run ends at `decay`.

    With a `decay` of 0 the averages are the parameters themselves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.num_updates = decay, 0
        named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._names, self._parameters = list(named), list(named.values())
        self._averages = [parameter.detach().to(torch.float32, copy=True) for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages with the present parameters."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = [parameter.detach().float() for parameter in self._parameters]
        torch._foreach_lerp_(self._averages, current, 1 - decay)  # one kernel for all; a loop costs a launch each
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module holds the averages. Afterwards it has exactly its parameters again."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        try:
            self.copy_to_module()
            yield
        finally:
            self._fill(kept)

    def copy_to_module(self) -> None:
        """Put the averages into the module for good."""
        self._fill(self._averages)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name (not copies)."""
        return dict(zip(self._names, self._averages, strict=True))

    def load(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Load averages that were saved from `tensors()`.

        Raises:
            KeyError: a parameter's average is missing.
        """
        for name, average in self.tensors().items():
            average.copy_(like(tensors[name], average))
        self.num_updates = num_updates

    @torch.no_grad()
    def _fill(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
