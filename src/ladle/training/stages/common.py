"""What several stages share."""

from typing import Any

import torch
from torch import Tensor

from ladle.data.stores import TokenStore


def to_device(batch: dict[str, Tensor], module: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors of a batch on the device of the module."""
    device = next(module.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def mean_metrics(module: torch.nn.Module, tokens: TokenStore, loss: Any) -> dict[str, float]:
    """Means over the validation texts, weighted by rows."""
    sums: dict[str, float] = {}
    for rows in torch.arange(len(tokens.lengths)).split(64):
        for name, value in loss(to_device(tokens.gather(rows), module), rows)[1].items():
            if name != "num_tokens":
                sums[name] = sums.get(name, 0.0) + float(value) * len(rows)
    return {name: value / len(tokens.lengths) for name, value in sums.items()}
