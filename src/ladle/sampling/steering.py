"""How control from outside the model enters sampling (`ladle.control` makes it)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle.diffusion.samplers import Denoise
from ladle.layers import lengths_to_mask
from ladle.sampling.draw import Wrapper


@dataclass(frozen=True)
class Steering:
    """What is asked of all texts of a call.

    wrap: (denoise, mask [B, L]) -> the denoiser that the sampler gets. It comes after guidance. shares: texts -> the
    probability that each is what was asked for, by which candidates are chosen; None: there is no such check.
    """

    wrap: Callable[[Denoise, Tensor], Denoise]
    shares: Callable[[Sequence[str]], list[float]] | None = None

    def changed(self, lengths: Tensor, device: torch.device) -> Wrapper:
        """The wrapper of the denoiser (`draw_latents`) for a batch with these numbers of latents [B]."""
        mask = lengths_to_mask(lengths, int(lengths.max())).to(device)
        return lambda denoise: self.wrap(denoise, mask)
