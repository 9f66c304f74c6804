"""Is a latent space fit for diffusion? What `ladle inspect --health` measures before any long training.

Reconstruction alone does not tell: a code may give every text back and still be lost at the first bit of noise, and
then a prior has to hit it exactly. So latents are noised, level by level, and it is counted how much of the text comes
back, by the decoder alone and by a denoiser that had two minutes.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.checkpoint import ModelParts, SamplingConfig, load_parts, resolve_model
from ladle.condition import ConditionConfig, RawCondition
from ladle.diffusion.denoising import DiffusionConfig, LatentDiffusionModel
from ladle.errors import UserError
from ladle.generation import noised_estimate
from ladle.training.cache import VectorStore, store_latents
from ladle.training.data import DataConfig, load_splits
from ladle.training.settings import TrainingConfig
from ladle.training.stages import ConditionStore, DiffusionStage, TokenStore

LOG_SNRS = (8.0, 6.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0)
MAX_TEXTS = 512  # that are decoded at each level
MAX_QUICK = 128  # where it takes place within a training
MAX_KNOWN = 50_000  # texts that the denoiser learns from
MAX_POINTS = 2_000  # latents that are compared with a bank of `MAX_BANK`
MAX_BANK = 20_000


@dataclass(frozen=True)
class Recovery:
    """What is left of texts when their latents are noised to `log_snr`.

    decoder: share of tokens that the autoregressive decoder puts right, each from the true ones before it, reading the
    noised latents. denoised: the same, reading a denoiser's estimate of z0; explained: 1 minus that estimate's mean
    squared error, over z0's variance. prior, prior_explained: by the model's own denoiser, without a condition.
    None where there is no such denoiser.
    """

    log_snr: float
    decoder: float
    denoised: float | None = None
    explained: float | None = None
    prior: float | None = None
    prior_explained: float | None = None


@dataclass(frozen=True)
class Spectrum:
    """How latents [N, D] fill their space.

    effective_rank: exp of the entropy of the covariance's eigenvalues, as shares of their sum (Roy and Vetterli 2007):
    D where all directions are used alike. half, most: how many directions hold 50 % and 90 % of the variance.
    mean, std, kurtosis: lowest and highest over channels; a Gaussian's kurtosis is 3.
    """

    channels: int
    effective_rank: float
    half: int
    most: int
    mean: tuple[float, float]
    std: tuple[float, float]
    kurtosis: tuple[float, float]


@dataclass(frozen=True)
class Health:
    """`inspect --health`: figures and what follows from them (see `advice`).

    texts: how many were measured. reconstruction: bleu (0 to 100), exact (share of texts) and tokens (share).
    latents_per_token: mean. half_log_snr: where half of what the latents tell the decoder is lost. midpoints: see
    `midpoint_distances`. denoiser_minutes: of the denoiser behind `Recovery.denoised`.
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


@torch.no_grad()
def check_health(
    parts: ModelParts,
    texts: Sequence[str],
    held_out: Sequence[str],
    *,
    denoiser_minutes: float = 2.0,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> Health:
    """Measure the latent space of `parts` on `held_out`, beside the latents of `texts`.

    Args:
        parts: an autoencoder, with or without a diffusion model; on its device.
        texts: the denoiser learns from these.
        held_out: texts that are none of these.
        denoiser_minutes: for the denoiser; 0 leaves it out.
        seed: of the noise and of that training.

    Raises:
        UserError: no text of either kind that is not empty.
    """
    texts, held_out = ([text for text in some if text.strip()] for some in (texts, held_out))
    if not texts or not held_out:
        raise UserError("--health needs texts to learn from and others, held out: give a larger --data")
    autoencoder = parts.autoencoder.eval()
    measured = held_out[:MAX_TEXTS]
    tokens, latents = TokenStore(autoencoder, measured), store_latents(autoencoder, measured)
    known = store_latents(autoencoder, texts)
    small = None
    if denoiser_minutes:
        log(f"training a denoiser for {denoiser_minutes:g} minutes")
        small = _train_denoiser(autoencoder, known, latents, denoiser_minutes, seed, log)
    recovery = _recovery(autoencoder, tokens, latents, small, parts.diffusion, seed)
    clean = accuracy(autoencoder, tokens, latents, lambda z0, mask: z0)
    half = half_recovery([(row.log_snr, row.decoder) for row in recovery], clean)
    spectrum = channel_spectrum(known.vectors[:200_000].float())
    health = Health(
        texts=len(measured),
        reconstruction={**_reconstruction(autoencoder, measured, latents), "tokens": clean},
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
    minutes: float = 2.0,
    text: str | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> Health:
    """`ladle inspect --health`: load the model and the texts (held-out ones are split off as in training), measure.

    Raises:
        UserError: no such model, or bad data.
    """
    splits = load_splits(DataConfig(path=str(data), text=text, seed=seed))
    for note in splits.notes:
        log(note)
    parts = load_parts(resolve_model(model))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for part in (parts.autoencoder, parts.diffusion):
        if part is not None:
            part.to(device).eval()
    train, valid = ([row["text"] for row in rows] for rows in (splits.train[:MAX_KNOWN], splits.valid))
    return check_health(parts, train, valid, denoiser_minutes=minutes, seed=seed, log=log)


# ------------------------------------------------------------------------------------------------------- recovery

Corruption = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def accuracy(autoencoder: TextAutoencoder, tokens: TokenStore, latents: VectorStore, corrupt: Corruption) -> float:
    """Share of tokens that the autoregressive decoder puts right, each from the true ones before it, reading
    `corrupt(z0 [B, L, D], mask [B, L])`."""
    right = total = 0
    for rows, z0, mask in _batches(latents, autoencoder):
        batch = {name: tensor.to(z0.device) for name, tensor in tokens.gather(rows).items()}
        memory = autoencoder.expand(Latents(corrupt(z0, mask) * mask[..., None], mask))
        guess = autoencoder.backbone.decode_logits(batch["input_ids"], *memory).argmax(-1)
        real = batch["attention_mask"].bool()
        right += int((guess == batch["input_ids"])[real].sum())
        total += int(real.sum())
    return right / total


def half_recovery(curve: Sequence[tuple[float, float]], clean: float) -> float:
    """The log-SNR at which accuracy is half-way between that of `clean` latents and that at the lowest log-SNR, which
    is what the decoder guesses of the language alone. curve: (log-SNR, accuracy) pairs; between them a straight line.
    The highest or lowest log-SNR where it is not crossed."""
    points = sorted(curve, reverse=True)
    middle = (clean + points[-1][1]) / 2
    for (high, above), (low, below) in itertools.pairwise(points):
        if above >= middle > below:
            return low + (high - low) * (middle - below) / (above - below)
    return points[0][0] if points[0][1] < middle else points[-1][0]


@torch.no_grad()
def calibrated_shift(autoencoder: TextAutoencoder, texts: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """(shift of the schedule, log-SNR at which half is lost) by the decoder alone, on `MAX_QUICK` texts at most."""
    texts = [text for text in texts if text.strip()][:MAX_QUICK]
    tokens, latents = TokenStore(autoencoder, texts), store_latents(autoencoder, texts)
    clean = accuracy(autoencoder, tokens, latents, lambda z0, mask: z0)
    curve = [(row.log_snr, row.decoder) for row in _recovery(autoencoder, tokens, latents, seed=seed)]
    half = half_recovery(curve, clean)
    return advised_shift(half), half


def _recovery(
    autoencoder: TextAutoencoder,
    tokens: TokenStore,
    latents: VectorStore,
    small: LatentDiffusionModel | None = None,
    prior: LatentDiffusionModel | None = None,
    seed: int = 0,
) -> list[Recovery]:
    found = []
    for log_snr in LOG_SNRS:
        figures: dict[str, float] = {}

        def noised(z0: Tensor, mask: Tensor, log_snr: float = log_snr) -> Tensor:
            return z0 + math.exp(-log_snr / 2) * _noise_like(z0, seed)

        for name, explained, model in (("denoised", "explained", small), ("prior", "prior_explained", prior)):
            if model is not None:
                errors: list[Tensor] = []

                def estimated(
                    z0: Tensor,
                    mask: Tensor,
                    model: LatentDiffusionModel = model,
                    log_snr: float = log_snr,
                    errors: list[Tensor] = errors,
                ) -> Tensor:
                    level = model.schedule.level_from_log_snr(z0.new_full((len(z0),), log_snr))
                    raw = _no_condition(model, len(z0), z0.device)
                    estimate = noised_estimate(model, z0, mask, raw, level, _noise_like(z0, seed), 1.0)
                    errors.append((estimate - z0)[mask].square().mean(1))
                    return estimate

                figures[name] = accuracy(autoencoder, tokens, latents, estimated)
                variance = latents.vectors.float().square().mean()
                figures[explained] = float(1 - torch.cat(errors).mean() / variance)
        found.append(Recovery(log_snr, accuracy(autoencoder, tokens, latents, noised), **figures))
    return found


def _no_condition(model: LatentDiffusionModel, batch: int, device: torch.device) -> RawCondition:
    labels = torch.full((batch,), -1, device=device) if model.condition.config.labels else None
    return RawCondition(labels)


def _noise_like(z0: Tensor, seed: int) -> Tensor:
    """Noise that is the same for the same batch at every level, so that levels differ by their noise's size alone."""
    generator = torch.Generator().manual_seed(seed + z0.shape[1])
    return torch.randn(z0.shape, generator=generator).to(z0)


def _batches(latents: VectorStore, autoencoder: TextAutoencoder) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    device = next(autoencoder.parameters()).device
    order = torch.sort(latents.lengths, stable=True).indices
    for rows in order.split(128):
        z0, mask = latents.gather(rows)
        yield rows, z0.to(device), mask.to(device)


def _reconstruction(autoencoder: TextAutoencoder, texts: Sequence[str], latents: VectorStore) -> dict[str, float]:
    from sacrebleu.metrics import BLEU

    decoded = [""] * len(texts)
    for rows, z0, mask in _batches(latents, autoencoder):
        found = autoencoder.backbone.detokenize(autoencoder.decode(Latents(z0, mask)))
        for row, text in zip(rows.tolist(), found, strict=True):
            decoded[row] = text
    exact = sum(a == b for a, b in zip(decoded, texts, strict=True)) / len(texts)
    return {"bleu": BLEU(force=True).corpus_score(decoded, [list(texts)]).score, "exact": exact}


def _train_denoiser(
    autoencoder: TextAutoencoder,
    known: VectorStore,
    latents: VectorStore,
    minutes: float,
    seed: int,
    log: Callable[[str], None],
) -> LatentDiffusionModel:
    """An unconditional denoiser of the default settings, small enough to be worth its minutes."""
    from ladle.training.loop import train_stage
    from ladle.training.recipe import DiffusionTraining

    config = DiffusionConfig.model_validate({"denoiser": {"width": 256, "num_layers": 4, "num_skips": 1}})
    condition = ConditionConfig()
    torch.manual_seed(seed)
    model = LatentDiffusionModel(
        config, condition, latent_dim=autoencoder.latent_dim, max_latents=autoencoder.max_latents,
        source_dim=autoencoder.backbone.width, fixed_length=autoencoder.config.bottleneck.kind == "perceiver",
    ).to(next(autoencoder.parameters()).device)  # fmt: skip
    plan = DiffusionTraining().model_dump(include=set(TrainingConfig.model_fields) - {"steps", "minutes"})
    settings = TrainingConfig(**plan | {"validate_every": 0, "sample_every": 0, "seed": seed, "minutes": minutes})
    nothing = ConditionStore(autoencoder, [], condition)
    stage = DiffusionStage(
        model, autoencoder, known, nothing, (latents, nothing), settings, SamplingConfig(num_inference_steps=1)
    )
    with tempfile.TemporaryDirectory() as folder, torch.enable_grad():
        train_stage(stage, settings, Path(folder), log=log)
    return model.eval()


# --------------------------------------------------------------------------------------------------------- geometry


def channel_spectrum(vectors: Tensor) -> Spectrum:
    """vectors [N, D] -> how they fill their space."""
    vectors = vectors.double()
    mean, std = vectors.mean(0), vectors.std(0, correction=0).clamp_min(1e-12)
    kurtosis = ((vectors - mean) / std).pow(4).mean(0)
    centred = vectors - mean
    shares = torch.linalg.eigvalsh(centred.T @ centred / len(vectors)).clamp_min(0).flip(0)
    shares = shares / shares.sum()
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    summed = shares.cumsum(0)

    def ends(values: Tensor) -> tuple[float, float]:
        return float(values.min()), float(values.max())

    return Spectrum(
        channels=vectors.shape[1],
        effective_rank=float(entropy.exp()),
        half=int((summed < 0.5).sum()) + 1,
        most=int((summed < 0.9).sum()) + 1,
        mean=ends(mean), std=ends(std), kurtosis=ends(kurtosis),
    )  # fmt: skip


def midpoint_distances(known: Tensor, held_out: Tensor, seed: int = 0) -> dict[str, float]:
    """Median distances to the nearest of the `known` latents [N, D], a channel (root mean square): of `held_out` ones
    [M, D], of points half-way between two of those, and of Gaussian noise. ratio: midpoints' over held-out's.

    Where midpoints lie no further out than real latents, the space has no holes between its texts.
    """
    generator = torch.Generator().manual_seed(seed)

    def some(points: Tensor, count: int) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:count]]

    bank, points = some(known, MAX_BANK), some(held_out, MAX_POINTS)
    middle = (points + some(points, len(points))) / 2
    noise = torch.randn(points.shape, generator=generator)

    def distance(of: Tensor) -> float:
        nearest = torch.cat([torch.cdist(part, bank).min(1).values for part in of.split(256)])
        return float(nearest.median()) / math.sqrt(known.shape[1])

    found = {"held_out": distance(points), "midpoints": distance(middle), "noise": distance(noise)}
    return found | {"ratio": found["midpoints"] / max(found["held_out"], 1e-12)}


# ----------------------------------------------------------------------------------------------------------- advice


def advised_shift(half_log_snr: float) -> float:
    """The schedule's shift that puts `half_log_snr` at t = .5, so that half of the times are spent on either side of
    the level where texts are decided (both kinds of schedule have log-SNR -2 log shift there)."""
    return round(min(8.0, max(0.25, math.exp(-half_log_snr / 2))), 2)


def advice(health: Health, parts: ModelParts) -> dict[str, str]:
    """Setting -> what the figures say for it, each with its reason."""
    autoencoder, spectrum = parts.autoencoder.config, health.spectrum
    shift = advised_shift(health.half_log_snr)
    present = (parts.diffusion.config.schedule if parts.diffusion is not None else DiffusionConfig().schedule).shift
    found = {
        "diffusion.schedule.shift": f"{shift:g} (now {present:g}): half of the text is lost at log-SNR "
        f"{health.half_log_snr:.1f}, which it puts at t = .5"
    }
    kept = health.reconstruction["tokens"]
    rank, channels = spectrum.effective_rank, spectrum.channels
    if kept >= 0.98:
        latents = f"as now: {kept:.1%} of tokens come back"
    elif autoencoder.bottleneck.kind == "aligned":
        fewer = max(1, autoencoder.bottleneck.tokens_per_latent - 1)
        latents = f"more: {kept:.1%} of tokens come back; autoencoder.bottleneck.tokens_per_latent={fewer}"
        if fewer == autoencoder.bottleneck.tokens_per_latent:
            latents = f"as now, one a token, and {kept:.1%} come back: train the autoencoder longer"
    else:
        latents = f"more: {kept:.1%} of tokens come back; autoencoder.bottleneck.num_latents"
    found["number of latents"] = latents
    width = f"as now ({channels}): effective rank {rank:.0f}"
    if rank < channels / 2 and kept >= 0.98:
        width = f"{max(8, 8 * math.ceil(rank / 8))} would do (now {channels}): effective rank {rank:.0f}"
    elif rank > 0.9 * channels and kept < 0.98:
        width = f"wider ({channels} now, all in use: effective rank {rank:.0f}) or more latents"
    found["autoencoder.bottleneck.latent_dim"] = width
    noise = autoencoder.latent_noise
    found["autoencoder.latent_noise"] = f"as now ({noise:g}): the code stands noise as large as itself"
    if health.half_log_snr > 0:
        found["autoencoder.latent_noise"] = (
            f"{max(1.5, 2 * noise):g} (now {noise:g}): half of the text is lost under noise smaller than the latents"
        )
    return found


def describe_health(health: Health) -> str:
    """The figures as Markdown tables, and the advice."""

    spectrum, near = health.spectrum, health.midpoints
    columns = {"decoder alone": "decoder"}
    if health.denoiser_minutes:
        columns |= {f"denoiser of {health.denoiser_minutes:g} min": "denoised", "z0 explained by it": "explained"}
    if health.recovery[0].prior is not None:
        columns |= {"own prior": "prior", "z0 explained by that": "prior_explained"}
    lines = [
        f"{health.texts:,} held-out texts, {health.latents_per_token:.2f} latents a token: BLEU "
        f"{health.reconstruction['bleu']:.1f}, {health.reconstruction['exact']:.1%} exact, "
        f"{health.reconstruction['tokens']:.1%} of tokens",
        "",
        "Tokens put right from noised latents:",
        "",
        "| log-SNR | " + " | ".join(columns) + " |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for row in health.recovery:
        cells = [f"{getattr(row, name):.1%}" for name in columns.values()]
        lines.append(f"| {row.log_snr:g} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"channels {spectrum.channels}, effective rank {spectrum.effective_rank:.1f}; half of the variance in "
        f"{spectrum.half} directions, 90 % in {spectrum.most}",
        "a channel's mean {:.2f} to {:.2f}, deviation {:.2f} to {:.2f}, kurtosis {:.1f} to {:.1f} (Gaussian: 3)".format(
            *spectrum.mean, *spectrum.std, *spectrum.kurtosis
        ),
        f"distance to the nearest known latent: held out {near['held_out']:.2f}, midpoints {near['midpoints']:.2f} "
        f"({near['ratio']:.2f} of it), noise {near['noise']:.2f}",
        "",
        "Advice:",
        *(f"* {name}: {what}" for name, what in health.advice.items()),
    ]
    return "\n".join(lines)
