"""The report of `inspect --health`: its figures as text, and advice on settings for the next training."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from ladle.diffusion.model import DiffusionConfig
from ladle.evaluation.markdown import table
from ladle.health.geometry import Spectrum
from ladle.health.recovery import Recovery, advised_shift, noise_tells
from ladle.storage.parts import ModelParts


@dataclass(frozen=True)
class Health:
    """The figures of `inspect --health`, and the advice that follows from them (see `advice`).

    texts: number of measured texts. reconstruction: bleu (0 to 100), exact (share of texts) and tokens (share).
    latents_per_token: mean. half_log_snr: where the decoder loses half of what the latents tell it. midpoints: see
    `midpoint_distances`. denoiser_minutes: training of the denoiser behind `Recovery.denoised`.
    """

    texts: int
    reconstruction: dict[str, float]
    latents_per_token: float
    recovery: list[Recovery]
    half_log_snr: float
    spectrum: Spectrum
    midpoints: dict[str, float]
    denoiser_minutes: float
    advice: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)


def advice(health: Health, parts: ModelParts) -> dict[str, str]:
    """Setting -> advice with its reason. Plans get none: they hold the meaning, and the sentence encoder sets sizes."""
    if parts.autoencoder.is_plan:
        return {"plans": "they hold what texts are about, not their words; few tokens come back from them"}
    tokens, spectrum = parts.autoencoder.bottleneck.tokens_per_latent, health.spectrum
    kept, half = health.reconstruction["tokens"], health.half_log_snr
    present = (parts.diffusion.config.schedule if parts.diffusion is not None else DiffusionConfig().schedule).shift
    if noise_tells(health.recovery, kept):
        where = f"half of the text is lost at log-SNR {half:.1f}"
        shift = f"{advised_shift(half):g} (now {present:g}): {where}, and this shift puts that level at t = .5"
        noised = "as now: the texts survive noise as large as the latents"
        if half > 0:
            noised = "1.5, or twice the present value: noise smaller than the latents loses half of the text"
    else:
        noised = "as now: too little is recovered to give advice"
        shift = f"as now ({present:g}): too little is recovered to give advice"
    found = {"diffusion.schedule.shift": shift}
    rank, channels = spectrum.effective_rank, spectrum.channels
    if kept >= 0.98:
        latents = f"as now: {kept:.1%} of tokens are recovered"
    elif tokens == 1:
        latents = f"as now, one per token: {kept:.1%} of tokens are recovered; train the autoencoder longer"
    elif tokens:
        latents = f"more: {kept:.1%} of tokens are recovered; set autoencoder.bottleneck.tokens_per_latent={tokens - 1}"
    else:
        latents = f"more: {kept:.1%} of tokens are recovered; raise autoencoder.bottleneck.num_latents"
    found["number of latents"] = latents
    width = f"as now ({channels}): effective rank {rank:.0f}"
    if rank < channels / 2 and kept >= 0.98:
        width = f"{max(8, 8 * math.ceil(rank / 8))} is enough (now {channels}): effective rank {rank:.0f}"
    elif rank > 0.9 * channels and kept < 0.98:
        width = f"more than {channels}, or more latents: all channels are in use (effective rank {rank:.0f})"
    found["autoencoder.bottleneck.latent_dim"] = width
    found["training.autoencoder.latent_noise"] = noised
    return found


def describe_health(health: Health) -> str:
    """The figures as Markdown tables, and the advice."""
    spectrum, near = health.spectrum, health.midpoints
    columns = {"decoder alone": "decoder"}
    if health.denoiser_minutes:
        columns |= {f"denoiser of {health.denoiser_minutes:g} min": "denoised", "z0 explained by it": "explained"}
    if health.recovery[0].prior is not None:
        columns |= {"own prior": "prior", "z0 explained by that": "prior_explained"}
    cells = [
        [f"{row.log_snr:g}", *(f"{getattr(row, name):.1%}" for name in columns.values())] for row in health.recovery
    ]
    lines = [
        f"{health.texts:,} held-out texts, {health.latents_per_token:.2f} latents per token: BLEU "
        f"{health.reconstruction['bleu']:.1f}, {health.reconstruction['exact']:.1%} exact, "
        f"{health.reconstruction['tokens']:.1%} of tokens",
        "",
        "Tokens recovered from noised latents:",
        "",
        *table(["log-SNR", *columns], cells),
        "",
        f"channels {spectrum.channels}, effective rank {spectrum.effective_rank:.1f}; half of the variance in "
        f"{spectrum.half} directions, 90 % in {spectrum.most}",
        "channel mean {:.2f} to {:.2f}, deviation {:.2f} to {:.2f}, kurtosis {:.1f} to {:.1f} (Gaussian: 3)".format(
            *spectrum.mean, *spectrum.std, *spectrum.kurtosis
        ),
        f"distance to the nearest known latent: held-out {near['held_out']:.2f}, midpoints {near['midpoints']:.2f} "
        f"({near['ratio']:.2f} times held-out), noise {near['noise']:.2f}",
        "",
        "Advice:",
        *(f"* {name}: {what}" for name, what in health.advice.items()),
    ]
    return "\n".join(lines)
