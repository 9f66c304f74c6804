"""How control from outside the model enters sampling (`ladle.control` makes it)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ladle.diffusion.samplers import Denoise


@dataclass(frozen=True)
class Steering:
    """What is asked of all texts of a call.

    wrap: (denoise, mask [B, L]) -> the denoiser that the sampler gets. It comes after guidance. shares: texts -> the
    probability that each is what was asked for, by which candidates are chosen; None: there is no such check.
    """

    wrap: Callable[[Denoise, Tensor], Denoise]
    shares: Callable[[Sequence[str]], list[float]] | None = None
