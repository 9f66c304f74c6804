"""A text on its way out of noise: what does the decoder read out of the latents at each level of the sampler?

A plan's decoder is told the noise level, so it reads the noised latents zt themselves. Other decoders read the
denoiser's estimate of the clean latents. Every reading uses the same random numbers for its words, so that texts differ
by their latents alone. The last one is the text that `generate` draws by the same seed, with one candidate.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle.autoencoder.plan import CLEAN_LOG_SNR
from ladle.conditioning.store import ConditionStore
from ladle.data.labels import own_label
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, Schedule
from ladle.editing.wordings import write_points
from ladle.errors import UserError
from ladle.sampling.draw import Wrapper, draw_latents, draw_lengths, followed
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

LEVELS = 9


@dataclass(frozen=True)
class Reading:
    """What the decoder reads at one level. time: diffusion time, 1 is noise. noise: sigma^2 / (alpha^2 + sigma^2), the
    share of noise in the variance of zt. seed: of the text."""

    text: str
    time: float
    noise: float
    seed: int
    label: str | None = None


def trajectory(
    parts: ModelParts,
    seed: int,
    num_levels: int = LEVELS,
    *,
    label: str | None = None,
    options: SamplingOptions | None = None,
    batch_size: int = 128,
) -> list[Reading]:
    """Readings at levels of the sampler, evenly chosen, from noise to the end. There are `num_levels`, or one for each
    level if the sampler visits fewer.

    label: the class to draw from. options: of the sampler and of the words; None: the model's own.

    Raises UserError: a model without a diffusion model, an unknown label.
    """
    diffusion, options = parts.diffusion, options or parts.sampling
    if diffusion is None:
        raise UserError(f"'{parts.name}' has no diffusion model, so nothing comes out of noise; use another model")
    config = diffusion.condition.config
    label = own_label(label, config.labels)
    conditions = ConditionStore(parts.reader(), [label], [None])
    obeyed = conditions.without(frozenset(config.names) - followed(diffusion, options))
    raw, noise = conditions.gather(torch.tensor([0])).to(diffusion.device), SampleNoise([seed])
    lengths = draw_lengths(diffusion, raw, noise, options)
    seen: dict[float, Tensor] = {}
    end = draw_latents(diffusion, raw, noise, lengths, options, changed=_watched(seen, diffusion))
    if end.level is not None:
        seen[float(end.level.log_snr)] = end.values / end.level.scale
    else:
        seen[float(diffusion.schedule.log_snr(torch.zeros(())))] = end.values
    visited = sorted(seen)  # from noise to clean
    count = min(num_levels, len(visited))
    chosen = [visited[round(number * (len(visited) - 1) / max(1, count - 1))] for number in range(count)]
    reads_noise = diffusion.hands_over_samples
    log_snr = [value if reads_noise and value < CLEAN_LOG_SNR else None for value in chosen]
    texts = write_points(
        parts, [seen[value][0] for value in chosen], log_snr, [noise.copy() for _ in chosen], [""] * count, options,
        obeyed.of_rows(torch.zeros(count, dtype=torch.long)), batch_size,
    )  # fmt: skip
    return [
        Reading(text, time_of(diffusion.schedule, value), _noise_share(diffusion.schedule, value), seed, label)
        for text, value in zip(texts, chosen, strict=True)
    ]


def time_of(schedule: Schedule, log_snr: float) -> float:
    """The diffusion time at which a schedule has this log-SNR: the inverse of `Schedule.log_snr`, by bisection."""
    low, high = 0.0, 1.0
    for end in (low, high):  # (a schedule that is clamped is constant at its ends)
        if math.isclose(float(schedule.log_snr(torch.tensor(end, dtype=torch.float64))), log_snr, rel_tol=1e-6):
            return end
    for _ in range(40):
        middle = (low + high) / 2
        value = float(schedule.log_snr(torch.tensor(middle, dtype=torch.float64)))
        low, high = (middle, high) if value > log_snr else (low, middle)
    return round(high, 6)


def _noise_share(schedule: Schedule, log_snr: float) -> float:
    level = schedule.level_from_log_snr(torch.tensor(log_snr))
    return float((level.sigma / level.scale) ** 2)


def _watched(seen: dict[float, Tensor], diffusion: LatentDiffusionModel) -> Wrapper:
    """A wrapper that changes nothing, and notes by log-SNR what a decoder could read: zt at unit variance, or the
    estimate of z0. (Heun asks twice at a level; the second time is on its way.)"""

    def watched(denoise: Denoise) -> Denoise:
        def denoise_and_note(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
            z0_hat = denoise(zt, level, z0_prev)
            seen[float(level.log_snr)] = zt / level.scale if diffusion.hands_over_samples else z0_hat
            return z0_hat

        return denoise_and_note

    return watched
