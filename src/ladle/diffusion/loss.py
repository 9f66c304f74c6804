"""The training loss of the denoiser: which times are drawn, which error counts, and how much each noise level counts.

A sampler sees none of this. As in papers, weightings are stated for the squared error of z0_hat. They act on the raw
prediction, in which an error of z0_hat is `output_scale` times as large.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.conditioning.encoder import Condition, ConditionEncoder, RawCondition
from ladle.config import Config
from ladle.diffusion.lengths import LengthModel
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise, output_scale, target, to_z0
from ladle.diffusion.samplers import Denoise
from ladle.diffusion.schedule import Level, Schedule

MIN_SNR_GAMMA = 5.0
SIGMOID_BIAS = 2.0
SELF_CONDITION_PROB = 0.5  # share of the texts that show the network its own first estimate (arXiv 2208.04202)


class DenoisingConfig(Config):
    """The training loss of a denoiser. A sampler sees none of these settings."""

    times: Literal["uniform", "logit_normal", "adaptive"] = "adaptive"
    """How diffusion times are drawn. `uniform`: over (0, 1). `logit_normal`: the sigmoid of N(0, 1) (Esser et al.,
    arXiv 2403.03206), with more times in the middle, where texts are decided. `adaptive`: the error of z0_hat rises
    evenly from one time to the next (`AdaptiveTimes`). Held-out losses always use uniform times, so that they can be
    compared."""
    curriculum: float = Field(0.0, ge=0, le=1)
    """Share of the training in which cleaner times are added. Training starts with noisy times only: over this share,
    the lowest time that is drawn falls from 1 to 0. 0 draws all times from the start."""
    loss: Literal["l2", "l1", "huber"] = "l2"
    """Loss on the raw prediction's error: its square (`l2`), its size (`l1`), or `huber`, half the square for errors
    below 1 and linear above. The paper uses `l1` for text to text."""
    weighting: Literal["flat", "min_snr", "sigmoid"] = "flat"
    """Weight of each noise level. `flat`: equal weights for the raw prediction. `min_snr`: min(SNR, 5) for the squared
    error of z0_hat (Hang et al., arXiv 2303.09556). `sigmoid`: sigmoid(2 - log_snr) for the squared error of the noise
    (Kingma and Gao, arXiv 2303.00848). These are weights of a squared error. The loss `l1` multiplies the error by the
    square root of the weight."""
    drop_prob: float = Field(0.1, ge=0, le=1)
    """Probability that a text loses a condition in training, so that one model samples with and without conditions."""


class AdaptiveTimes(nn.Module):
    """Draws more times where the model's error changes fast: t = F^-1(u). F is the running mean error of z0_hat at t,
    made rising and scaled to 1. A fifth of the times stays uniform, so that every time is still drawn.

    This is the time warping of Dieleman et al. (arXiv 2211.15089), with the squared error of z0_hat instead of their
    cross-entropy, and bins instead of a fitted curve. Before the first errors times are uniform.
    """

    error: Tensor

    def __init__(self, num_bins: int = 50, decay: float = 0.95, uniform: float = 0.2):
        super().__init__()
        self.decay, self.uniform = decay, uniform
        self.register_buffer("error", torch.zeros(num_bins))

    def forward(self, u: Tensor) -> Tensor:
        """u [B] in (0, 1) -> times [B], rising with u."""
        edges = torch.linspace(0, 1, len(self.error) + 1, device=u.device)
        rising = F.pad(self.error.cummax(0).values, (1, 0))
        if rising[-1] == 0:
            return u
        share = (1 - self.uniform) * rising / rising[-1] + self.uniform * edges
        right = torch.searchsorted(share, u, right=True).clamp(1, len(edges) - 1)
        low, high = share[right - 1], share[right]
        return edges[right - 1] + (edges[right] - edges[right - 1]) * ((u - low) / (high - low)).clamp(0, 1)

    @torch.no_grad()
    def update(self, t: Tensor, error: Tensor) -> None:
        """Update the running mean with the mean squared errors of z0_hat [B] at times `t` [B]."""
        bins = (t * len(self.error)).long().clamp(0, len(self.error) - 1)
        counts = torch.zeros_like(self.error).index_add_(0, bins, torch.ones_like(t))
        means = torch.zeros_like(self.error).index_add_(0, bins, error.to(self.error)) / counts.clamp(min=1)
        known = torch.where(self.error > 0, self.decay * self.error + (1 - self.decay) * means, means)
        self.error.copy_(torch.where(counts > 0, known, self.error))


def draw_times(
    config: DenoisingConfig,
    count: int,
    device: torch.device | str = "cpu",
    adaptive: AdaptiveTimes | None = None,
    progress: float = 1.0,
) -> Tensor:
    """[count] times, stratified: one from each of `count` equal shares of the distribution, in random order (arXiv
    2107.00630, appendix I.1), so that no batch misses a noise level.

    adaptive: the errors seen so far, for `times = "adaptive"`. progress: share of the training that is done, for the
    curriculum.
    """
    t = (torch.rand((), device=device) + torch.randperm(count, device=device) / count) % 1.0
    if config.times == "logit_normal":
        normal = torch.special.ndtri(t.double().clamp(1e-9, 1 - 1e-9))
        t = normal.sigmoid().float()
    elif adaptive is not None:
        t = adaptive(t)
    lowest = max(0.0, 1 - progress / config.curriculum) if config.curriculum else 0.0
    return lowest + (1 - lowest) * t


def weights(config: DenoisingConfig, prediction: str, level: Level) -> Tensor:
    """[B] weights of the raw prediction's squared error at `level` [B]."""
    if config.weighting == "flat":
        return torch.ones_like(level.log_snr)
    return WEIGHTINGS[config.weighting](level.log_snr) / output_scale(prediction, level).square()


def weighted_error(config: DenoisingConfig, prediction: str, output: Tensor, wanted: Tensor, level: Level) -> Tensor:
    """The error of every element of `output` [B, L, D] at `level` [B], before any mean."""
    root = weights(config, prediction, level).sqrt()[:, None, None]
    return LOSSES[config.loss](root * output, root * wanted)


# Weight of z0_hat's squared error at log_snr. What is 1 of the noise's error is e^log_snr of z0_hat's (`sigmoid`: one
# product, which is finite at both ends).
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "min_snr": lambda log_snr: log_snr.exp().clamp(max=MIN_SNR_GAMMA),
    "sigmoid": lambda log_snr: (SIGMOID_BIAS - log_snr).sigmoid() * log_snr.exp(),
}

# In standard deviations of the target: v of unit latents has one of 1.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": lambda output, wanted: (output - wanted).square(),
    "l1": lambda output, wanted: (output - wanted).abs(),
    "huber": lambda output, wanted: F.huber_loss(output, wanted, reduction="none"),
}


class DiffusionBatch(NamedTuple):
    """Latents z0 [B, L, D] with mask [B, L], and their conditions.

    The length model learns from other rows, because the rows of one batch have nearly the same length.
    lengths: [R] numbers of latents of those other rows, with their conditions `length_condition`. ids: [B, L], the
    token that each latent stands for, where latents are the vectors of tokens.
    """

    z0: Tensor
    mask: Tensor
    condition: RawCondition
    lengths: Tensor
    length_condition: RawCondition
    ids: Tensor | None = None


class Noised(NamedTuple):
    """A batch with noise: what the denoiser is shown. zt = alpha z0 + sigma eps at `level` [B]; given: the denoiser's
    further arguments."""

    batch: DiffusionBatch
    eps: Tensor
    zt: Tensor
    level: Level
    given: dict[str, Any]


class Trainable(Protocol):
    """What the loss needs of a diffusion model."""

    condition: ConditionEncoder

    @property
    def length(self) -> LengthModel | None: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def self_conditions(self) -> bool: ...
    @property
    def denoiser(self) -> nn.Module: ...
    def denoise(self, mask: Tensor, condition: Condition) -> Denoise: ...


# (model, batch with noise, settings) -> the error of each latent [B, L], whose mean is the loss, and the error [B, L]
# that decides how often each time is drawn.
Objective = Callable[[Any, Noised, DenoisingConfig], tuple[Tensor, Tensor]]


def regression(model: LatentDiffusionModel, noised: Noised, config: DenoisingConfig) -> tuple[Tensor, Tensor]:
    """The weighted error of the raw prediction, and the squared error of z0_hat, each a mean over the channels."""
    (z0, *_), eps, zt, level, given = noised
    prediction = model.config.prediction
    output = model.denoiser(zt, level.log_snr, **given).float()
    error = weighted_error(config, prediction, output, target(prediction, z0, eps, level), level)
    z0_error = (to_z0(prediction, output.detach(), zt, level) - z0).square()
    return error.mean(-1), z0_error.mean(-1)


class DenoisingLoss(nn.Module):
    """A diffusion model in training, with the record of its errors.

    objective: the error of a prediction. adaptive_times: the model's own record of errors; None for a new one.
    """

    def __init__(
        self,
        model: Trainable,
        config: DenoisingConfig,
        objective: Objective = regression,
        adaptive_times: AdaptiveTimes | None = None,
    ):
        super().__init__()
        self.model: Any = model  # (torch's own type is vague)
        self.config, self.objective = config, objective
        self.adaptive_times = (adaptive_times or AdaptiveTimes()) if config.times == "adaptive" else None

    def forward(self, batch: DiffusionBatch, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean error over the existing latents. Its gradient includes that of the length model's cross-entropy.

        Eval mode uses uniform times. progress: the share of the training that is done, for the curriculum.
        """
        model, config = self.model, self.config
        z0, mask, rows = batch.z0, batch.mask, len(batch.z0)
        condition = model.condition.encode(batch.condition.dropped(config.drop_prob), rows)
        adaptive = self.adaptive_times if self.training else None
        times = config if self.training else DenoisingConfig(times="uniform")
        t = draw_times(times, rows, z0.device, adaptive, progress)
        level = model.schedule.level(t)
        eps = torch.randn_like(z0)
        zt = add_noise(z0, eps, level)
        share = SELF_CONDITION_PROB if model.self_conditions else 0.0
        chosen = torch.rand(rows, device=z0.device) < share
        previous = self._first_estimate(zt, level, mask, condition, chosen)
        given = {"mask": mask, "condition": condition, "self_condition": previous, "self_condition_mask": chosen}
        error, timed = self.objective(model, Noised(batch, eps, zt, level, given), config)
        diffusion = error[mask].mean()
        if adaptive is not None:
            adaptive.update(t, (timed.detach() * mask).sum(1) / mask.sum(1))
        metrics = {"diffusion_loss": diffusion.detach()}
        loss = diffusion
        if model.length is not None:
            length = model.length.loss(batch.length_condition.dropped(config.drop_prob), batch.lengths)
            # The length model shares no parameter with the denoiser, so its loss needs no weight. The sum leaves out
            # the value of that loss, which is mostly the entropy of lengths and would hide how the other loss falls.
            loss = loss + length - length.detach()
            metrics["length_loss"] = length.detach()
        return loss, metrics

    @torch.no_grad()
    def _first_estimate(
        self, zt: Tensor, level: Level, mask: Tensor, condition: Condition, chosen: Tensor
    ) -> Tensor | None:
        """z0_hat of the rows where `chosen` [B] is True, zero elsewhere. Only the chosen rows are computed."""
        rows = chosen.nonzero()[:, 0]
        if not len(rows):
            return None
        denoiser = self.model.denoiser
        part = Level(*(x[rows] for x in level))
        was_training = denoiser.training
        denoiser.eval()
        estimate = self.model.denoise(mask[rows], condition[rows])(zt[rows], part)
        denoiser.train(was_training)
        return torch.zeros_like(zt).index_copy(0, rows, estimate.to(zt))
