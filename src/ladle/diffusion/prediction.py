"""What does the network's output mean? There are four predictions, each a linear change of coordinates from z0.

`PREDICTIONS` maps a name to the training target and to its exact inverse. No other file needs to know which prediction
a network makes. Levels are () or [B]. z0, zt, eps and outputs share one shape, usually [B, L, D]. The formulas hold on
every path: none assumes alpha^2 + sigma^2 = 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ladle.diffusion.schedule import Level


class Prediction(NamedTuple):
    """target(z0, eps, level): what the network learns. to_z0(output, zt, level): z0_hat from its output. scale(level):
    how far the output moves when z0_hat moves by one unit."""

    target: Callable[[Tensor, Tensor, Level], Tensor]
    to_z0: Callable[[Tensor, Tensor, Level], Tensor]
    scale: Callable[[Level], Tensor]


PREDICTIONS: dict[str, Prediction] = {
    # v = alpha eps - sigma z0 (Salimans and Ho, arXiv 2202.00512): well scaled at both ends of the path.
    "v": Prediction(
        target=lambda z0, eps, level: level.alpha * eps - level.sigma * z0,
        to_z0=lambda v, zt, level: (level.alpha * zt - level.sigma * v) / (level.alpha**2 + level.sigma**2),
        scale=lambda level: (level.alpha**2 + level.sigma**2) / level.sigma,
    ),
    "x0": Prediction(
        target=lambda z0, eps, level: z0,
        to_z0=lambda z0_hat, zt, level: z0_hat,
        scale=lambda level: torch.ones_like(level.sigma),
    ),
    "eps": Prediction(
        target=lambda z0, eps, level: eps,
        to_z0=lambda eps, zt, level: (zt - level.sigma * eps) / level.alpha,
        scale=lambda level: level.alpha / level.sigma,
    ),
    # The velocity d zt / dt of the rectified flow, where t runs from clean to noise.
    "flow": Prediction(
        target=lambda z0, eps, level: eps - z0,
        to_z0=lambda u, zt, level: (zt - level.sigma * u) / (level.alpha + level.sigma),
        scale=lambda level: (level.alpha + level.sigma) / level.sigma,
    ),
}


def target(prediction: str, z0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """The training target of a network with this `prediction` for `add_noise(z0, eps, level)`."""
    return PREDICTIONS[prediction].target(z0, eps, level.expand(z0))


def to_z0(prediction: str, output: Tensor, zt: Tensor, level: Level) -> Tensor:
    """The estimate z0_hat in a network's raw `output` for `zt`: the inverse of `target`."""
    return PREDICTIONS[prediction].to_z0(output, zt, level.expand(zt))


def output_scale(prediction: str, level: Level) -> Tensor:
    """How far a network's raw output moves when z0_hat moves by one unit, in level's shape. An error of z0_hat becomes
    an error of the output that is so many times as large."""
    return PREDICTIONS[prediction].scale(level)


def add_noise(z0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """zt = alpha * z0 + sigma * eps."""
    level = level.expand(z0)
    return level.alpha * z0 + level.sigma * eps
