"""What does the network's output mean? There are four predictions, each a linear change of coordinates from z0.

`PREDICTIONS` has the two factors of each. No other file needs to know which prediction a network makes. Levels are ()
or [B]. z0, zt, eps and outputs share one shape, usually [B, L, D]. The formulas hold on every path: none assumes
alpha^2 + sigma^2 = 1.
"""

from collections.abc import Callable

from torch import Tensor

from ladle.diffusion.schedule import Level

# name -> the factors (a, b) at a level: the network learns a z0 + b eps.
PREDICTIONS: dict[str, Callable[[Level], tuple[Tensor | float, Tensor | float]]] = {
    "v": lambda level: (-level.sigma, level.alpha),  # (arXiv 2202.00512) well scaled at both ends of the path
    "x0": lambda level: (1.0, 0.0),
    "eps": lambda level: (0.0, 1.0),
    "flow": lambda level: (-1.0, 1.0),  # the velocity d zt / dt of the rectified flow; t runs from clean to noise
}


def target(prediction: str, z0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """The training target of a network with this `prediction` for `add_noise(z0, eps, level)`."""
    a, b = PREDICTIONS[prediction](level.expand(z0))
    return a * z0 + b * eps


def to_z0(prediction: str, output: Tensor, zt: Tensor, level: Level) -> Tensor:
    """The estimate z0_hat in a network's raw `output` for `zt`: the inverse of `target`."""
    if prediction == "x0":  # (also by the formula, but for rounding)
        return output
    level = level.expand(zt)
    a, b = PREDICTIONS[prediction](level)
    return (b * zt - level.sigma * output) / (level.alpha * b - level.sigma * a)


def output_scale(prediction: str, level: Level) -> Tensor:
    """How far a network's raw output moves when z0_hat moves by one unit, in level's shape. An error of z0_hat becomes
    an error of the output that is so many times as large."""
    a, b = PREDICTIONS[prediction](level)
    return (level.alpha * b - level.sigma * a).abs() / level.sigma


def add_noise(z0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """zt = alpha * z0 + sigma * eps."""
    level = level.expand(z0)
    return level.alpha * z0 + level.sigma * eps
