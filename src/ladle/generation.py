"""From noise to latents: number of latents, initial noise, sampler, guidance; then the best of several candidates."""

from collections.abc import Callable, Sequence

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.checkpoint import SamplingConfig
from ladle.condition import RawCondition
from ladle.config import nearest
from ladle.diffusion.denoising import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import SAMPLERS
from ladle.diffusion.schedule import Level, sampling_levels
from ladle.diffusion.wrappers import clamped, guided, guided_at_once, self_condition_guided
from ladle.errors import UserError
from ladle.layers import lengths_to_mask
from ladle.seeding import SampleNoise

# Diffusion times at which a text is judged: from its own plan (.7 to .9 choose alike), and, where there is a source,
# from next to nothing but that (benchmarks/LOG.md).
PLAN_TIME, SOURCE_TIME = 0.8, 0.97


def draw_lengths(
    diffusion: LatentDiffusionModel, raw: RawCondition, noise: SampleNoise, sampling: SamplingConfig
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
    sampling: SamplingConfig,
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
    denoise = self_condition_guided(denoise, sampling.self_condition_scale)
    if sampling.max_norm is not None:
        denoise = clamped(denoise, sampling.max_norm * diffusion.latent_dim**0.5)
    stop_time = sampling.stop_time if raw.given else sampling.free_stop_time
    levels = sampling_levels(
        diffusion.schedule, sampling.num_inference_steps, sampling.grid, stop_time=stop_time,
        time_mean=diffusion.config.time_mean, time_std=diffusion.config.time_std,
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


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Seeds of a sample's candidates; the first is the sample's own."""
    return [seed] + [(seed + 2_654_435_761 * i) % 2**32 for i in range(1, count)]  # its own as it is: it may be wrong


def noised_estimate(
    diffusion: LatentDiffusionModel,
    z0: torch.Tensor,
    mask: torch.Tensor,
    raw: RawCondition,
    level: Level,
    noise: torch.Tensor,
    guidance_scale: float,
) -> torch.Tensor:
    """What the prior makes of latents z0 [B, L, D] noised to `level`: guided, and with its own last estimate to go by,
    as a sampler that stops there would hand it on."""
    zt = add_noise(z0, noise, level)
    denoise = diffusion.denoise(mask, diffusion.condition.encode(raw, len(z0)))
    previous = denoise(zt, level)
    if raw.given and guidance_scale != 1:
        denoise = guided(denoise, diffusion.denoise(mask, diffusion.condition.null(len(z0))), guidance_scale)
    return denoise(zt, level, previous)


@torch.no_grad()
def soundness(
    autoencoder: TextAutoencoder,
    diffusion: LatentDiffusionModel,
    tokens: dict[str, torch.Tensor],
    raw: RawCondition,
    noise: SampleNoise,
    guidance_scale: float,
    time: float = PLAN_TIME,
) -> torch.Tensor:
    """How well each text goes together: [B], the mean log-probability of its tokens under the autoregressive decoder,
    read from what the prior makes of the text's own latents at diffusion time `time`.

    Of the latents only a rough plan is left there, so what counts is whether the decoder would have put it in these
    words. It finds faulty joints that the distance between latents and text does not (benchmarks/LOG.md). Near 1 not
    even the plan is left: then it tells how well the text goes with its condition.

    Args:
        autoencoder, diffusion: in eval mode; the decoder should be adapted to estimates.
        tokens: input_ids and attention_mask, [B, S].
        raw: conditions of the rows.
        noise: one stream a row; of one seed for texts that are to be compared.
        guidance_scale: as in sampling.
        time: diffusion time in (0, 1].
    """
    z0 = autoencoder.encode(**tokens)
    level = diffusion.schedule.level(z0.values.new_full((len(z0.values),), time))
    shapes = [(int(length), diffusion.latent_dim) for length in z0.mask.sum(1)]
    drawn = noise.normal(shapes).to(z0.values)
    estimate = noised_estimate(diffusion, z0.values, z0.mask, raw, level, drawn, guidance_scale)
    return autoencoder.log_likelihood(Latents(estimate * z0.mask[..., None], z0.mask), **tokens)


def likeness_to_others(candidates: Sequence[str]) -> list[float]:
    """Mean similarity of each candidate to the others, 0 to 1; the highest is the choice of minimum Bayes risk
    (arXiv 2212.09462, section 5).

    The similarity is sentence BLEU (sacrebleu, effective order). Empty texts are like nothing.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    counts: dict[str, int] = {}
    for text in candidates:
        counts[text] = counts.get(text, 0) + 1
    texts = [text for text in counts if text.strip()]

    def value(text: str) -> float:
        same = 100.0 * (counts[text] - 1)
        others = sum(counts[o] * metric.sentence_score(text, [o]).score for o in texts if o != text)
        return (same + others) / 100 / max(1, len(candidates) - 1)

    values = {text: value(text) for text in texts}
    return [values.get(text, 0.0) for text in candidates]
