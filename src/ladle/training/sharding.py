"""One training spread over its processes (FSDP, arXiv 2304.11277): weights, gradients, averages and moments.

The network is one unit. It is gathered for a step, then each process keeps its part. So a parameter's 20 bytes (weight,
gradient, average, AdamW's two moments) become 20 / P, plus 8 while a step or a validation runs. Spread tensors have
torch's type `DTensor`. The rest of the loop does not depend on it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ladle.errors import UserError
from ladle.training.processes import several


def is_sharded() -> bool:
    """Whether accelerate's configuration asks for FSDP (`accelerate launch --use_fsdp`, or its `fsdp_config`)."""
    return several() and _says("ACCELERATE_USE_FSDP")


def check_sharding() -> None:
    """Check accelerate's other FSDP settings before any weight is loaded.

    Raises:
        UserError: the settings would offload weights to the CPU's memory.
    """
    if not is_sharded():
        return
    if _says("FSDP_OFFLOAD_PARAMS"):
        raise UserError("fsdp_offload_params: Ladle keeps weights on GPUs; set it to false, or use more GPUs")
    # Where this is true, transformers leaves the weights of all processes but the first as they were in memory.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def shard(objective: nn.Module, device: torch.device) -> nn.Module:
    """Spread a module's parameters, taken from the first process, over all processes. Its `forward` gathers them."""
    from torch.distributed.fsdp import fully_shard

    objective.to(device)
    for tensor in (*objective.parameters(), *objective.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)
    fully_shard(objective)
    return objective


@contextmanager
def gathered(objective: nn.Module) -> Iterator[None]:
    """Within the block a module that was given to `shard` has its whole parameters. Other modules always have them."""
    unit: Any = objective
    if not hasattr(unit, "unshard"):
        yield
        return
    unit.unshard()
    try:
        yield
    finally:
        unit.reshard()


def dissolve(module: nn.Module) -> None:
    """Give a spread module its whole parameters for good."""
    whole_ones: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None or not _is_spread(parameter):
                continue
            if id(parameter) not in whole_ones:  # (tied weights stay one)
                whole_ones[id(parameter)] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
            owner._parameters[name] = whole_ones[id(parameter)]


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor. For a spread tensor all processes must call this together."""
    spread: Any = tensor
    return spread.full_tensor() if _is_spread(tensor) else tensor


def like(tensor: Tensor, target: Any) -> Tensor:
    """A whole tensor, spread as `target` if that is spread. Each process takes its part of the given tensor."""
    if not _is_spread(target) or _is_spread(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(target.device)
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)


def touch(loss: Tensor, module: nn.Module) -> Tensor:
    """The same loss, with a gradient (at least 0) for each parameter. So processes that drop different conditions at
    random still have the same gradients to average. (A parameter that no process uses in a step still moves by its
    momentum; in an unsharded training it does not.)"""
    for parameter in module.parameters():
        if parameter.requires_grad:
            loss = loss + 0.0 * parameter.flatten()[0]
    return loss


def _is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # (DTensor's own import takes a second)


def _says(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes", "y", "on")
