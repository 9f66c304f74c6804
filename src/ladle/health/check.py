"""`ladle inspect --health`: the texts, the measurements, and a denoiser trained for two minutes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.encoding import store_latents, store_tokens
from ladle.data.columns import Columns
from ladle.data.splits import DataConfig, load_splits
from ladle.data.stores import VectorStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.errors import UserError
from ladle.evaluation.overlap import CorpusScore
from ladle.health.geometry import channel_spectrum, midpoint_distances
from ladle.health.recovery import accuracy, half_recovery, recovery_curve
from ladle.health.report import Health, advice
from ladle.pipeline import LatentDiffusion

MAX_TEXTS = 512  # that are decoded at each level
MAX_KNOWN = 50_000  # texts that the denoiser learns from

Log = Callable[[str], None]


# Trains an unconditional denoiser on the known latents (the second argument), given minutes and a seed.
FitDenoiser = Callable[[TextAutoencoder, VectorStore, VectorStore, float, int, Log], LatentDiffusionModel]


@torch.no_grad()
def check_health(
    model: LatentDiffusion,
    texts: Sequence[str],
    held_out: Sequence[str],
    *,
    fit_denoiser: FitDenoiser | None = None,
    denoiser_minutes: float = 2.0,
    seed: int = 0,
    log: Log = lambda line: None,
) -> Health:
    """Measure the latent space of `model` on `held_out`, and compare it with the latents of `texts`.

    Args:
        model: an autoencoder, with or without a diffusion model.
        texts: the denoiser learns from these texts.
        held_out: other texts.
        fit_denoiser: trains the denoiser (`ladle.training.small_denoiser`); None trains none.
        denoiser_minutes: minutes of that training; 0 trains none.
        seed: random seed of the noise and of that training.

    Raises:
        UserError: `texts` or `held_out` has no text that is not empty.
    """
    texts, held_out = ([text for text in some if text.strip()] for some in (texts, held_out))
    if not texts or not held_out:
        raise UserError("--health needs training texts and held-out texts; give more texts with --data")
    autoencoder, parts = model.autoencoder, model.parts
    measured = held_out[:MAX_TEXTS]
    tokens, latents = store_tokens(autoencoder, measured), store_latents(autoencoder, measured)
    known = store_latents(autoencoder, texts)
    small = None
    if fit_denoiser is None:
        denoiser_minutes = 0.0
    elif denoiser_minutes:
        log(f"training a denoiser for {denoiser_minutes:g} minutes")
        small = fit_denoiser(autoencoder, known, latents, denoiser_minutes, seed, log)
    recovery = recovery_curve(autoencoder, tokens, latents, small, parts.diffusion, seed)
    clean = accuracy(autoencoder, tokens, latents, lambda z0, mask: z0)
    half = half_recovery([(row.log_snr, row.decoder) for row in recovery], clean)
    spectrum = channel_spectrum(known.vectors[:200_000].float())
    decoded = model.reconstruct(measured, wording=False)
    bleu = CorpusScore(decoded, [[text] for text in measured]).score
    exact = sum(a == b for a, b in zip(decoded, measured, strict=True)) / len(measured)
    health = Health(
        texts=len(measured),
        reconstruction={"bleu": bleu, "exact": exact, "tokens": clean},
        latents_per_token=float(latents.lengths.sum() / tokens.lengths.sum()),
        recovery=recovery,
        half_log_snr=half,
        spectrum=spectrum,
        midpoints=midpoint_distances(known.vectors.float(), latents.vectors.float(), seed),
        denoiser_minutes=denoiser_minutes,
        advice={},
    )
    health.advice.update(advice(health, parts))
    return health


def check_model_health(
    model: str,
    data: str | Path,
    *,
    fit_denoiser: FitDenoiser | None = None,
    minutes: float = 2.0,
    columns: Columns | None = None,
    seed: int = 0,
    log: Log = lambda line: None,
) -> Health:
    """`ladle inspect --health`: load the model and the texts (held-out texts are split off as in training), and
    measure. The column names of the model's training are tried first. Raises UserError: no such model, or bad data."""
    loaded = LatentDiffusion.from_pretrained(model)
    splits = load_splits(DataConfig.of(columns), data, Columns.of(loaded.parts.info))
    for note in (*splits.taken, *splits.notes):
        log(note)
    train, valid = ([row["text"] for row in rows] for rows in (splits.train[:MAX_KNOWN], splits.valid))
    return check_health(loaded, train, valid, fit_denoiser=fit_denoiser, denoiser_minutes=minutes, seed=seed, log=log)
