"""What can be changed about a denoiser from outside? Functions Denoise -> Denoise, without state, that compose.

They all speak in z0: a combination of z0, eps or v predictions at one level is the same linear operation.
"""

import torch
from torch import Tensor

from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, append_dims


def guided(denoise_conditional: Denoise, denoise_unconditional: Denoise, guidance_scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): z0_hat = free + scale * (conditional - free).

    1 is off, and then only the conditional denoiser is ever called; 0 is unconditional. (The paper's own w is our
    scale - 1.)
    """
    if guidance_scale == 1:
        return denoise_conditional

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        free = denoise_unconditional(zt, level, z0_prev)
        return free + guidance_scale * (denoise_conditional(zt, level, z0_prev) - free)

    return denoise


def guided_at_once(denoise_both: Denoise, guidance_scale: float) -> Denoise:
    """`guided` in one call of the network for twice the batch: faster where the batch is small, alike where it is not.

    denoise_both: for [2B, L, D]: B rows with their condition, then the same B without it.
    """

    def twice(x: Tensor) -> Tensor:
        return torch.cat([x, x])

    def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        both = level if level.log_snr.ndim == 0 else Level(*map(twice, (level.log_snr, level.alpha, level.sigma)))
        bound, free = denoise_both(twice(zt), both, None if z0_prev is None else twice(z0_prev)).chunk(2)
        return free + guidance_scale * (bound - free)

    return denoise


def inpainted(denoise: Denoise, known_z0: Tensor, mask: Tensor) -> Denoise:
    """Hold the latents where `mask` [B, L] or [B, L, D] is True at `known_z0` [B, L, D].

    Replacing z0_hat is enough: with it known, every sampler's step carries zt at those positions along exactly the
    path that adds noise to `known_z0`, so the denoiser always sees them at the right noise level. Only for
    position-aligned latents: a Perceiver's positions do not belong to places in the text.
    """
    mask = append_dims(mask, known_z0.ndim)

    def denoise_inpainted(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
        return known_z0.where(mask, denoise(zt, level, z0_prev))

    return denoise_inpainted
