"""How much of a text is recovered from noised latents, and the noise schedule that follows from it.

Reconstruction alone is not enough: latents may give every text back and still be lost with a little noise. Then a
denoiser would have to hit them exactly.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import store_latents, store_tokens
from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.data.stores import TokenStore, VectorStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.schedule import Level
from ladle.sampling.soundness import noised_estimate

LOG_SNRS = (8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0)
MAX_QUICK = 128  # texts, where it takes place within a training
MIN_LOST = 0.25  # of the tokens, see `noise_tells`

Corruption = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recovery:
    """How much of the texts is recovered when their latents are noised to `log_snr`.

    decoder: share of tokens that the autoregressive decoder predicts correctly from the noised latents and the true
    tokens before. denoised: the same from a denoiser's estimate of z0. explained: 1 minus that estimate's mean squared
    error over z0's variance. prior, prior_explained: the same two with the model's own denoiser, without a condition.
    None if there is no such denoiser.
    """

    log_snr: float
    decoder: float
    denoised: float | None = None
    explained: float | None = None
    prior: float | None = None
    prior_explained: float | None = None


@torch.no_grad()
def recovery_curve(
    autoencoder: TextAutoencoder,
    tokens: TokenStore,
    latents: VectorStore,
    small: LatentDiffusionModel | None = None,
    prior: LatentDiffusionModel | None = None,
    seed: int = 0,
) -> list[Recovery]:
    """The recovery at each of `LOG_SNRS`, by the decoder alone and by the given denoisers."""
    variance = latents.vectors.float().square().mean()
    found = []
    for log_snr in LOG_SNRS:
        level = _unscaled_level(log_snr) if autoencoder.is_plan else None  # (which its decoder is told)
        figures = {"decoder": accuracy(autoencoder, tokens, latents, _noised(log_snr, seed), level)}
        for name, explained, model in (("denoised", "explained", small), ("prior", "prior_explained", prior)):
            if model is not None:
                errors: list[Tensor] = []
                figures[name] = accuracy(autoencoder, tokens, latents, _estimated(model, log_snr, seed, errors))
                figures[explained] = float(1 - torch.cat(errors).mean() / variance)
        found.append(Recovery(log_snr, **figures))
    return found


@torch.no_grad()
def accuracy(
    autoencoder: TextAutoencoder,
    tokens: TokenStore,
    latents: VectorStore,
    corrupt: Corruption,
    level: Level | None = None,
) -> float:
    """Share of tokens that the autoregressive decoder predicts correctly from `corrupt(z0 [B, L, D], mask [B, L])`, of
    this level if it is given, and the true tokens before."""
    right = total = 0
    for rows, z0, mask in _batches(latents, autoencoder):
        batch = {name: tensor.to(z0.device) for name, tensor in tokens.gather(rows).items()}
        memory = autoencoder.expand(Latents(corrupt(z0, mask) * mask[..., None], mask), level)
        guess = autoencoder.backbone.decode_logits(batch["input_ids"], *memory).argmax(-1)
        real = batch["attention_mask"].bool()
        right += int((guess == batch["input_ids"])[real].sum())
        total += int(real.sum())
    return right / total


def half_recovery(curve: Sequence[tuple[float, float]], clean: float) -> float:
    """The log-SNR at which accuracy is half-way between that of `clean` latents and that at the lowest log-SNR, where
    the decoder only knows the language. curve: (log-SNR, accuracy) pairs, joined by straight lines. If the curve does
    not cross the half, the highest or lowest log-SNR."""
    points = sorted(curve, reverse=True)
    middle = (clean + points[-1][1]) / 2
    for (high, above), (low, below) in itertools.pairwise(points):
        if above >= middle > below:
            return low + (high - low) * (middle - below) / (above - below)
    return points[0][0] if points[0][1] < middle else points[-1][0]


def noise_tells(recovery: Sequence[Recovery], clean: float) -> bool:
    """Whether noise loses enough of the tokens that `clean` latents recover, so that the curve can set the schedule.
    It cannot if the autoencoder has learnt too little."""
    return clean - min(recovery, key=lambda row: row.log_snr).decoder >= MIN_LOST


def advised_shift(half_log_snr: float) -> float:
    """The schedule's shift that puts `half_log_snr` at t = .5, so that half of the times lie on either side of the
    level where texts are decided (both kinds of schedule have log-SNR -2 log shift there)."""
    return round(min(8.0, max(0.25, math.exp(-half_log_snr / 2))), 2)


@torch.no_grad()
def calibrated_shift(autoencoder: TextAutoencoder, texts: Sequence[str], seed: int = 0) -> tuple[float, float] | None:
    """(shift of the schedule, log-SNR at which half is lost) for the decoder alone, on at most `MAX_QUICK` texts.

    None if `noise_tells` is False.
    """
    texts = [text for text in texts if text.strip()][:MAX_QUICK]
    tokens, latents = store_tokens(autoencoder, texts), store_latents(autoencoder, texts)
    recovery = recovery_curve(autoencoder, tokens, latents, seed=seed)
    clean = accuracy(autoencoder, tokens, latents, lambda z0, mask: z0)
    if not noise_tells(recovery, clean):
        return None
    half = half_recovery([(row.log_snr, row.decoder) for row in recovery], clean)
    return advised_shift(half), half


def _unscaled_level(log_snr: float) -> Level:
    """The level of z0 + sigma eps."""
    return Level(torch.tensor(log_snr), torch.tensor(1.0), torch.tensor(math.exp(-log_snr / 2)))


def _noised(log_snr: float, seed: int) -> Corruption:
    return lambda z0, mask: z0 + math.exp(-log_snr / 2) * _noise_like(z0, seed)


def _estimated(model: LatentDiffusionModel, log_snr: float, seed: int, errors: list[Tensor]) -> Corruption:
    """z0 -> the model's estimate of it, without a condition; each latent's mean squared error is added to `errors`."""

    def estimated(z0: Tensor, mask: Tensor) -> Tensor:
        level = model.schedule.level_from_log_snr(z0.new_full((len(z0),), log_snr))
        estimate = noised_estimate(model, z0, mask, RawCondition(), level, _noise_like(z0, seed), 1.0)
        errors.append((estimate - z0)[mask].square().mean(1))
        return estimate

    return estimated


def _noise_like(z0: Tensor, seed: int) -> Tensor:
    """Noise that is the same for a batch at every level, so that levels differ only in the size of their noise."""
    generator = torch.Generator().manual_seed(seed + z0.shape[1])
    return torch.randn(z0.shape, generator=generator).to(z0)


def _batches(latents: VectorStore, autoencoder: TextAutoencoder) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    device = next(autoencoder.parameters()).device
    order = torch.sort(latents.lengths, stable=True).indices
    for rows in order.split(128):
        z0, mask = latents.gather(rows)
        yield rows, z0.to(device), mask.to(device)
