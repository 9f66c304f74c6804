"""Turns noise into latents for one batch: number of latents, initial noise, guidance, sampler."""

import math
from collections.abc import Callable, Sequence

import torch

from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.samplers import SAMPLERS, Denoise
from ladle.diffusion.schedule import Level, sampling_levels
from ladle.diffusion.wrappers import between, composed_at_once, guided_at_once
from ladle.layers import lengths_to_mask
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise


def draw_lengths(
    diffusion: LatentDiffusionModel, raw: RawCondition, noise: SampleNoise, options: SamplingOptions
) -> torch.Tensor:
    """Numbers of latents [B]. Each sample's first random number decides, unless the length is fixed."""
    if diffusion.length is None:
        return torch.full((len(noise),), diffusion.max_latents)
    raw = raw.only(followed(diffusion, options), tuple(diffusion.condition.config.attributes))
    temperature = _of_rows("length_temperature", raw.given_rows(len(noise)), options)
    return diffusion.length.sample(raw, noise.uniform(), temperature=temperature).cpu()


Wrapper = Callable[[Denoise], Denoise]


@torch.no_grad()
def draw_latents(
    diffusion: LatentDiffusionModel,
    raw: RawCondition,
    noise: SampleNoise,
    lengths: torch.Tensor,
    options: SamplingOptions,
    on_step: Callable[[], None] | None = None,
    *,
    changed: Wrapper | None = None,
    zt: torch.Tensor | None = None,
    start_time: float = 1.0,
) -> Latents:
    """Run the sampler for one batch of a model in eval mode.

    Args:
        raw: conditions of the batch. If conditional and unconditional samples stop at different times, either all rows
            have a condition or none has.
        noise: the samples' own random streams, after `draw_lengths`.
        lengths: [B] numbers of latents.
        on_step: called after every step.
        changed: changes the guided denoiser (control from outside the model).
        zt: [B, L, D], zero outside the mask: where the sampler starts, at `start_time`; None: noise, at time 1.

    Returns:
        z0 [B, L, D], zero outside the mask, in float32 for every dtype of the weights. With a stop time: the estimate
        of z0 at that time; for a plan zt itself, with its level, because the decoder of a plan reads both.
    """
    device = diffusion.device
    shapes = [(int(length), diffusion.latent_dim) for length in lengths]
    mask = lengths_to_mask(lengths, int(lengths.max())).to(device)
    batch = len(noise)
    obeyed = raw.only(followed(diffusion, options), tuple(diffusion.condition.config.attributes))
    scale = _of_rows("noise_scale", obeyed.given_rows(batch), options)[:, None, None].to(device)
    given, stop_time = bool(obeyed.given_rows(batch).any()), stop_time_of(diffusion, raw, batch, options)
    hands_over = bool(stop_time) and diffusion.hands_over_samples
    count = num_steps(diffusion, options, given, start_time)
    levels = sampling_levels(
        diffusion.schedule, count + hands_over, options.grid, stop_time=stop_time, start_time=start_time
    )
    levels = [level.to(device) for level in levels]
    denoise = guided_denoiser(diffusion, raw, mask, options, levels)
    if changed is not None:
        denoise = changed(denoise)
    handed_over = None
    if hands_over:  # without the step to the estimate
        levels = levels[:-1]
        handed_over = levels[-1]
    z0 = SAMPLERS[options.sampler](
        denoise,
        levels[0].sigma * noise.normal(shapes).to(device) if zt is None else zt,
        levels,
        noise=lambda: scale * noise.normal(shapes).to(device),
        callback=None if on_step is None else (lambda step, zt, z0_hat: on_step()),
    )
    return Latents(z0 * mask[..., None], mask, level=handed_over)


def guided_denoiser(
    diffusion: LatentDiffusionModel,
    raw: RawCondition,
    mask: torch.Tensor,
    options: SamplingOptions,
    levels: Sequence[Level] = (),
) -> Denoise:
    """The denoiser of a batch with conditions `raw` and latents where `mask` [B, L] is True, with the guidance that the
    options ask for, where they ask for it.

    levels: that will be asked for, as in `LatentDiffusionModel.denoise`.
    """
    batch, config = len(mask), diffusion.condition.config
    names = tuple(config.attributes)

    def denoiser(conditions: RawCondition, copies: int = 1) -> Denoise:
        condition = diffusion.condition.encode(conditions, copies * batch)
        return diffusion.denoise(mask.repeat(copies, 1), condition, levels)

    single = {name: raw.only([name], names) for name in options.guidance_scales if name in config.names}
    single = {name: own for name, own in single.items() if own.given_rows(batch).any()}
    together = raw.only({*config.names} - {*single}, names) if single else raw
    # Without any condition all denoisers would be the same.
    guides = options.guidance_scale != 1 and bool(together.given_rows(batch).any())
    if not (single or guides):
        return denoiser(raw)
    if single:
        parts = {name: (own, options.guidance_scales[name]) for name, own in single.items()}
        if together.given_rows(batch).any():
            parts[""] = together, options.guidance_scale
        stacked = RawCondition.joined([raw.only(()), *(own for own, _ in parts.values())])
        guided = composed_at_once(denoiser(stacked, 1 + len(parts)), [weight for _, weight in parts.values()])
    else:
        guided = guided_at_once(denoiser(raw.and_without(), 2), options.guidance_scale)
    if options.guidance_from == 1 and options.guidance_to == 0:
        return guided
    inside = diffusion.schedule.between(options.guidance_from, options.guidance_to)
    return between(guided, denoiser(raw.only(followed(diffusion, options), names)), *inside)


def followed(diffusion: LatentDiffusionModel, options: SamplingOptions) -> frozenset[str]:
    """The names of the model's conditions that texts are to obey: those that no weight of 0 or below turns away."""
    return frozenset(name for name in diffusion.condition.config.names if options.guidance_scales.get(name, 1.0) > 0)


def stop_time_of(diffusion: LatentDiffusionModel, raw: RawCondition, batch: int, options: SamplingOptions) -> float:
    """The diffusion time at which a batch stops: that of samples with a condition, if one of its rows obeys any."""
    obeyed = raw.only(followed(diffusion, options), tuple(diffusion.condition.config.attributes))
    return (options.conditional if obeyed.given_rows(batch).any() else options.unconditional).stop_time


def num_steps(diffusion: LatentDiffusionModel, options: SamplingOptions, given: bool, start_time: float = 1.0) -> int:
    """Steps of the sampler for samples with a condition (`given`) or without one. Where zt is handed over at a stop
    time, or the sampler starts later, the way is shorter, and so many fewer steps go it."""
    half = options.conditional if given else options.unconditional
    stop_time = half.stop_time if diffusion.hands_over_samples else 0.0
    return max(1, math.ceil(options.num_inference_steps * (start_time - stop_time)))


def _of_rows(name: str, given: torch.Tensor, options: SamplingOptions) -> torch.Tensor:
    """An option of `LatentDraw` for rows with a condition (`given` [B]) and for rows without one: [B]."""
    both = [getattr(half, name) for half in (options.unconditional, options.conditional)]
    return torch.tensor(both, dtype=torch.float32)[given.long()]
