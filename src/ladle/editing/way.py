"""Ways between latents and noise through the prior: back to noise (inversion), and forward again from any level.

A deterministic sampler solves an ordinary differential equation, so it also runs from clean to noise (DDIM inversion,
arXiv 2010.02502; 2105.05233, appendix F). Noise and latents are then two names for the same text. The arc between two
noises leads through texts that the prior finds likely. The line between two latents does not.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import ConditionStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import Level, sampling_levels
from ladle.sampling.draw import Wrapper, draw_latents, stop_time_of
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import padded
from ladle.seeding import SampleNoise

# Of the ways that must return. (Heun's first step back, from a log-SNR of 15, errs more than all of DDIM's. With the
# text's own latents as self-condition both ways err a tenth less, but no point between two texts has any.)
SOLVER, STEPS = "ddim", 50
# Of latents that are led to another condition: at earlier times the text itself tells all, at later ones nothing.
LED_TIMES, LED_DRAWS, LED_STEPS = (0.3, 0.5, 0.7), 2, 4


@torch.no_grad()
def to_noise(
    diffusion: LatentDiffusionModel,
    raw: RawCondition,
    latents: Latents,
    time: float = 1.0,
    steps: int = STEPS,
) -> Tensor:
    """z0 -> the zt [B, L, D] at diffusion time `time` from which the deterministic sampler leads to z0 again."""
    levels = sampling_levels(diffusion.schedule, steps, start_time=time)
    levels = [level.to(diffusion.device) for level in reversed(levels)]
    denoise = diffusion.denoise(latents.mask, diffusion.condition.encode(raw, len(latents)), levels)
    zt = levels[0].alpha * latents.values
    return SAMPLERS[SOLVER](denoise, zt, levels, noise=_no_noise) * latents.mask[..., None]


@torch.no_grad()
def from_noise(
    diffusion: LatentDiffusionModel,
    raw: RawCondition,
    zt: Tensor,
    mask: Tensor,
    time: float = 1.0,
    steps: int = STEPS,
) -> Latents:
    """The inverse of `to_noise`: zt [B, L, D] at `time`, mask [B, L] -> z0, without random numbers."""
    levels = [level.to(diffusion.device) for level in sampling_levels(diffusion.schedule, steps, start_time=time)]
    denoise = diffusion.denoise(mask, diffusion.condition.encode(raw, len(zt)), levels)
    z0 = SAMPLERS[SOLVER](denoise, zt, levels, noise=_no_noise)
    return Latents(z0 * mask[..., None], mask)


@torch.no_grad()
def led(
    diffusion: LatentDiffusionModel,
    points: Sequence[Tensor],
    old: ConditionStore,
    new: ConditionStore,
    streams: Sequence[SampleNoise],
    amount: float,
    batch_size: int = 128,
) -> list[Tensor]:
    """Latents [L, D] of each text, led from its old condition to a new one: by `amount` times the mean difference of
    the denoiser's estimates under the two, at several levels of noise (arXiv 2304.07090).

    What both estimates say alike cancels out, so what the conditions do not tell stays. Latents keep their length.
    """
    if amount == 0:
        return list(points)
    levels = [_level(diffusion, time) for time in LED_TIMES]
    found: list[Tensor] = []
    for start in range(0, len(points), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(points)))
        latents = padded([points[row] for row in rows.tolist()]).to(diffusion.device)
        noise = SampleNoise.join([streams[row] for row in rows.tolist()])
        shapes = [(int(length), diffusion.latent_dim) for length in latents.mask.sum(1)]
        after, before = (
            diffusion.denoise(latents.mask, diffusion.condition.encode(raw, len(rows)))
            for raw in (store.gather(rows).to(diffusion.device) for store in (new, old))
        )
        z0, length = latents.values, latents.values.flatten(1).norm(dim=1)[:, None, None]
        for _ in range(LED_STEPS):
            total = torch.zeros_like(z0)
            for level in levels * LED_DRAWS:
                zt = add_noise(z0, noise.normal(shapes).to(z0), level) * latents.mask[..., None]
                total += after(zt, level) - before(zt, level)
            z0 = z0 + amount / (LED_STEPS * LED_DRAWS * len(levels)) * total
            z0 = z0 * (length / z0.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-12))
        found += replace(latents, values=z0).rows()
    return found


@torch.no_grad()
def renoised(
    diffusion: LatentDiffusionModel,
    raw: RawCondition,
    latents: Latents,
    noise: SampleNoise,
    time: float,
    options: SamplingOptions,
    changed: Wrapper | None = None,
) -> Latents:
    """z0, noised to `time` and brought back by the sampler under the conditions `raw` (SDEdit, arXiv 2108.01073).

    0 changes nothing, 1 draws freely. Of a plan, a `time` up to the stop time of `options` hands over the noised plan
    itself. Other latents go to the end then. The result has a level where a plan was handed over with noise. changed: a
    wrapper of the denoiser.
    """
    if time <= 0:
        return latents
    shapes = [(int(length), diffusion.latent_dim) for length in latents.mask.sum(1)]
    level = _level(diffusion, time)
    zt = add_noise(latents.values, noise.normal(shapes).to(latents.values), level) * latents.mask[..., None]
    if stop_time_of(diffusion, raw, len(latents), options) >= time:
        if diffusion.hands_over_samples:
            return Latents(zt, latents.mask, latents.space, level)
        options = options.override(stop_time=0.0)
    lengths = latents.mask.sum(1).cpu()
    found = draw_latents(diffusion, raw, noise, lengths, options, changed=changed, zt=zt, start_time=time)
    return replace(found, space=latents.space)


def all_renoised(
    diffusion: LatentDiffusionModel,
    points: Sequence[Tensor],
    streams: Sequence[SampleNoise],
    time: float,
    options: SamplingOptions,
    conditions: ConditionStore | None = None,
    batch_size: int = 128,
) -> tuple[list[Tensor], list[float | None]]:
    """`renoised` of many texts, in batches: latents [L, D] of each text and their log-SNR (None: they have no noise).

    Latents that keep noise have unit variance, as `decode_texts` takes them. streams: of each text; they go on.
    conditions: of each text; None: none has any.
    """
    if time <= 0:
        return list(points), [None] * len(points)
    found: list[Tensor] = []
    log_snr: list[float | None] = []
    for start in range(0, len(points), batch_size):
        rows = range(start, min(start + batch_size, len(points)))
        raw = RawCondition() if conditions is None else conditions.gather(torch.tensor(rows)).to(diffusion.device)
        noise = SampleNoise.join([streams[row] for row in rows])
        z0 = renoised(diffusion, raw, padded([points[row] for row in rows]), noise, time, options)
        scale = 1.0 if z0.level is None else z0.level.scale
        found += [own / scale for own in z0.rows()]
        log_snr += [None if z0.level is None else float(z0.level.log_snr)] * len(rows)
    return found, log_snr


def _level(diffusion: LatentDiffusionModel, time: float) -> Level:
    """Of a diffusion time, on the model's device."""
    level = diffusion.schedule.level(torch.tensor(time, dtype=torch.float64))
    return Level(*(x.float().to(diffusion.device) for x in level))


def _no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler draws no noise")
