"""Changes to a denoiser from outside: functions Denoise -> Denoise, without state, that can be combined.

They all work on z0: at one level, combining z0, eps or v predictions is the same linear operation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level


def guided(denoise_conditional: Denoise, denoise_unconditional: Denoise, guidance_scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): z0_hat = free + scale * (conditional - free).

    1 is off: only the conditional denoiser is called. 0 is unconditional. (The paper's own w is our scale - 1.)
    """
    if guidance_scale == 1:
        return denoise_conditional

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        free = denoise_unconditional(zt, level, z0_prev)
        return free + guidance_scale * (denoise_conditional(zt, level, z0_prev) - free)

    return denoise


def guided_at_once(denoise_both: Denoise, guidance_scale: float) -> Denoise:
    """`guided` with one call of the network for twice the batch. It is faster for small batches, and equal otherwise.

    denoise_both: takes [2B, L, D]: B rows with their condition, then the same B rows without it.
    """

    def twice(x: Tensor) -> Tensor:
        return torch.cat([x, x])

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        both = level if level.log_snr.ndim == 0 else Level(*map(twice, level))
        bound, free = denoise_both(twice(zt), both, None if z0_prev is None else twice(z0_prev)).chunk(2)
        return torch.lerp(free, bound, guidance_scale)

    return denoise


def composed_at_once(denoise_all: Denoise, weights: Sequence[float]) -> Denoise:
    """Several conditions, each with its own weight (composable diffusion, Liu et al., arXiv 2206.01714, equation 11),
    in one call of the network:

        z0_hat = free + sum_i w_i (z0_hat(c_i) - free)

    This is the estimate under all conditions if they are independent given z0 and all weights are 1. A negative weight
    leads away from a condition. One condition alone is `guided`.

    denoise_all: takes [(1 + K) B, L, D]: B rows without any condition, then the same B rows with condition 1 alone, and
    so on up to condition K. weights: w_1 to w_K.
    """
    copies = 1 + len(weights)

    def repeated(x: Tensor) -> Tensor:
        return torch.cat([x] * copies)

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        every = level if level.log_snr.ndim == 0 else Level(*map(repeated, level))
        estimates = denoise_all(repeated(zt), every, None if z0_prev is None else repeated(z0_prev))
        free, *bound = estimates.chunk(copies)
        z0_hat = free
        for weight, own in zip(weights, bound, strict=True):
            z0_hat = torch.add(z0_hat, own - free, alpha=weight)
        return z0_hat

    return denoise


def between(inside: Denoise, outside: Denoise, lowest: float, highest: float) -> Denoise:
    """`inside` at levels with lowest <= log_snr <= highest, `outside` at all others. With guidance inside, this is
    guidance in a limited interval (Kynkäänniemi et al., arXiv 2404.07724). Levels are scalars, as in every sampler."""

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        chosen = inside if lowest <= float(level.log_snr) <= highest else outside
        return chosen(zt, level, z0_prev)

    return denoise


def inpainted(denoise: Denoise, known_z0: Tensor, mask: Tensor) -> Denoise:
    """Hold the latents where `mask` [B, L] or [B, L, D] is True at `known_z0` [B, L, D].

    Replacing z0_hat is enough: every sampler then moves zt at those positions along exactly the path that adds noise to
    `known_z0`, so the denoiser always sees them at the right noise level. Use it with position-aligned latents only: a
    Perceiver's positions are not places in the text.
    """
    mask = mask if mask.ndim == known_z0.ndim else mask[..., None]

    def denoise_inpainted(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        return known_z0.where(mask, denoise(zt, level, z0_prev))

    return denoise_inpainted
