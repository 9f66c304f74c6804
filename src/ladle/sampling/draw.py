"""From noise to latents: number of latents, initial noise, sampler, guidance; then the best of several candidates."""

from collections.abc import Callable

import torch

from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.config import nearest
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import sampling_levels
from ladle.diffusion.wrappers import clamped, guided_at_once
from ladle.errors import UserError
from ladle.layers import lengths_to_mask
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise


def draw_lengths(
    diffusion: LatentDiffusionModel, raw: RawCondition, noise: SampleNoise, sampling: SamplingOptions
) -> torch.Tensor:
    """Numbers of latents [B]: each sample's first random number decides (no draw where the length is fixed)."""
    if diffusion.length is None:
        return torch.full((len(noise),), diffusion.max_latents)
    temperature = _by_row(raw, len(noise), sampling.length_temperature, sampling.free_temperature)
    return diffusion.length.sample(raw, noise.uniform(), temperature=temperature).cpu()


def _by_row(raw: RawCondition, batch: int, conditional: float, free: float) -> torch.Tensor:
    """[B]: one value for the rows that have a condition, another for those that have none."""
    return torch.where(raw.given_rows(batch), conditional, free)


@torch.no_grad()
def draw_latents(
    diffusion: LatentDiffusionModel,
    raw: RawCondition,
    noise: SampleNoise,
    lengths: torch.Tensor,
    sampling: SamplingOptions,
    on_step: Callable[[], None] | None = None,
) -> Latents:
    """Run the sampler for one batch.

    Args:
        diffusion: in eval mode.
        raw: conditions of the batch, absent ones as in `RawCondition`: of all rows, or of none, where the two stop at
            different times.
        noise: the samples' own random streams, after `draw_lengths`.
        lengths: [B] numbers of latents.
        sampling: sampler, steps, guidance, temperature.
        on_step: called after every step.

    Raises:
        UserError: an unknown sampler or grid, or fewer than one step.
    """
    if sampling.sampler not in SAMPLERS:
        raise UserError(f"unknown sampler '{sampling.sampler}': {nearest(sampling.sampler, list(SAMPLERS))}")
    device = diffusion.denoiser.no_self_condition.device
    shapes = [(int(length), diffusion.latent_dim) for length in lengths]
    mask = lengths_to_mask(lengths, int(lengths.max())).to(device)
    batch = len(noise)
    temperature = _by_row(raw, batch, sampling.temperature, sampling.free_temperature)[:, None, None].to(device)
    # Without any condition both denoisers would be the same one.
    if sampling.guidance_scale != 1 and raw.given:
        both = diffusion.denoise(mask.repeat(2, 1), diffusion.condition.encode(raw.and_without(), 2 * batch))
        denoise = guided_at_once(both, sampling.guidance_scale)
    else:
        denoise = diffusion.denoise(mask, diffusion.condition.encode(raw, batch))
    if sampling.max_norm is not None:
        denoise = clamped(denoise, sampling.max_norm * diffusion.latent_dim**0.5)
    stop_time = sampling.stop_time if raw.given else sampling.free_stop_time
    levels = sampling_levels(
        diffusion.schedule, sampling.num_inference_steps, sampling.grid, stop_time=stop_time,
    )  # fmt: skip
    levels = [level.to(device) for level in levels]
    z0 = SAMPLERS[sampling.sampler](
        denoise,
        levels[0].sigma * noise.normal(shapes).to(device),
        levels,
        noise=lambda: temperature * noise.normal(shapes).to(device),
        callback=None if on_step is None else (lambda step, zt, z0_hat: on_step()),
    )
    return Latents(z0 * mask[..., None], mask)
