"""Functions that several stages share."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def to_device(batch: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a batch on the device of the module."""
    device = next(module.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def mean_metrics(count: int, size: int, metrics_of: Callable[[Tensor], Mapping[str, Any]]) -> dict[str, float]:
    """Mean metrics over `count` held-out rows. `metrics_of` gives the metrics of up to `size` rows [B] at a time."""
    sums: dict[str, float] = {}
    for rows in torch.arange(count).split(size):
        for name, value in metrics_of(rows).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
    return {name: total / count for name, total in sums.items() if name != "num_tokens"}
