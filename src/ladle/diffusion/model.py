"""The diffusion model: its training loss and its `Denoise` function, side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import Condition, ConditionEncoder, RawCondition
from ladle.diffusion.lengths import LengthModel
from ladle.diffusion.loss import AdaptiveTimes, ObjectiveConfig, draw_times, weighted_error
from ladle.diffusion.prediction import add_noise, eps_from_z0, target, to_z0
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule
from ladle.diffusion.transformer import DenoiserConfig, DenoisingTransformer
from ladle.paper.transformer import PaperTransformer

Denoise = Callable[..., Tensor]
UNIFORM_TIMES = ObjectiveConfig(times="uniform")


class DiffusionConfig(ObjectiveConfig):
    """schedule, prediction, objective (`ObjectiveConfig`) and network of the diffusion over latents.

    self_condition_prob: share of training samples that see the model's own first estimate (arXiv 2208.04202).
    self_condition_guidance: s, 1 is off: those samples learn what `sampling.self_condition_scale` = s would say, at the
    cost of one call a step in place of two (ELF's guidance in training; the target is that of Tang et al., arXiv
    2502.12154: it moves by (1 - 1/s) of the present output's distance from the output without the estimate).
    """

    schedule: ScheduleConfig = ScheduleConfig(shift=2.0)  # measured for latents of 64 channels
    prediction: Literal["v", "x0", "eps", "flow"] = "v"
    self_condition_prob: float = Field(0.5, ge=0, le=1)
    self_condition_guidance: float = Field(1.0, ge=1, allow_inf_nan=False)
    denoiser: DenoiserConfig = DenoiserConfig()


@dataclass(frozen=True)
class DiffusionBatch:
    """Latents z0 [B, L, D] with mask [B, L], and their conditions.

    The length model learns from other rows: those of one batch are all about as long as each other.
    lengths: [R] numbers of latents of those rows, with `length_condition`.
    """

    z0: Tensor
    mask: Tensor
    condition: RawCondition
    lengths: Tensor
    length_condition: RawCondition

    def to(self, device: torch.device | str, **options: bool) -> "DiffusionBatch":
        """All tensors on `device`."""
        return DiffusionBatch(
            self.z0.to(device), self.mask.to(device), self.condition.to(device),
            self.lengths.to(device), self.length_condition.to(device),
        )  # fmt: skip


class LatentDiffusionModel(nn.Module):
    """Denoiser, condition encoder and length model: p(number of latents, z0 | condition).

    Args:
        config, condition: settings.
        latent_dim: D. max_latents: most latents of a text. source_dim: C of the source's memory.
        fixed_length: all texts have `max_latents` latents (Perceiver), so that no length is modelled.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        condition: ConditionConfig,
        *,
        latent_dim: int,
        max_latents: int,
        source_dim: int,
        fixed_length: bool = False,
    ):
        super().__init__()
        width = config.denoiser.width
        self.config, self.latent_dim, self.max_latents = config, latent_dim, max_latents
        self.schedule = build_schedule(config.schedule)
        self.condition = ConditionEncoder(condition, width, source_dim)
        self.denoiser = self._denoiser(max_latents)
        self.adaptive_times = AdaptiveTimes() if config.times == "adaptive" else None
        self.length = None if fixed_length else LengthModel(condition, source_dim, max_latents)

    def _denoiser(self, max_latents: int) -> DenoisingTransformer | PaperTransformer:
        config, condition = self.config.denoiser, self.condition.config
        if config.kind == "compact":
            return DenoisingTransformer(config, self.latent_dim, max_latents, reads_memory=condition.source)
        return PaperTransformer(
            config, self.latent_dim, max_latents, reads_memory=condition.source,
            reads_vector=bool(condition.labels) or (condition.source and not condition.plain_source),
        )  # fmt: skip

    def loss(self, batch: DiffusionBatch, progress: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean error of the raw prediction over the latents that exist; its gradient is that of the length model's
        cross-entropy too.

        In eval mode at uniform times. progress: the share of the training that is over, for the curriculum.
        """
        z0, mask = batch.z0, batch.mask
        rows = len(z0)
        condition = self.condition.encode(self.condition.drop(batch.condition), rows)
        adaptive = self.adaptive_times if self.training else None
        t = draw_times(self.config if self.training else UNIFORM_TIMES, rows, z0.device, adaptive, progress)
        level = self.schedule.level(t)
        eps = torch.randn_like(z0)
        zt = add_noise(z0, eps, level)
        chosen = torch.rand(rows, device=z0.device) < self.config.self_condition_prob
        previous = self._first_estimate(zt, level, mask, condition, chosen)
        output = self.denoiser(
            zt, level.log_snr, mask=mask, condition=condition, self_condition=previous, self_condition_mask=chosen
        ).float()
        wanted = target(self.config.prediction, z0, eps, level)
        if previous is not None and self.training:
            wanted = self._guided_target(wanted, output.detach(), zt, previous, level, chosen)
        error = weighted_error(self.config, self.config.prediction, output, wanted, level)
        diffusion = error.mean(-1)[mask].mean()
        if adaptive is not None:
            z0_error = (to_z0(self.config.prediction, output.detach(), zt, level) - z0).square().mean(-1) * mask
            adaptive.update(t, z0_error.sum(1) / mask.sum(1))
        metrics = {"diffusion_loss": diffusion.detach()}
        loss = diffusion
        if self.length is not None:
            length = self.length.loss(self.condition.drop(batch.length_condition), batch.lengths)
            # It shares no parameter with the denoiser, so that it needs no weight. Its value, most of it the entropy of
            # lengths, is left out of the sum: it would hide how the other falls.
            loss = loss + length - length.detach()
            metrics["length_loss"] = length.detach()
        return loss, metrics

    def denoise(self, mask: Tensor, condition: Condition) -> Denoise:
        """The `Denoise` function of a batch: (zt, level, z0_prev=None) -> z0_hat in float32, zero outside `mask`."""

        def denoise(zt: Tensor, level: Level, z0_prev: Tensor | None = None) -> Tensor:
            previous = z0_prev if self.config.self_condition_prob else None
            weights = self.denoiser.no_self_condition.dtype  # the network's arithmetic; the sampler's is zt's own
            output = self.denoiser(
                zt.to(weights), level.log_snr, mask=mask, condition=condition, self_condition=previous
            )
            return to_z0(self.config.prediction, output.float(), zt, level) * mask[..., None]

        return denoise

    def _guided_target(
        self, wanted: Tensor, output: Tensor, zt: Tensor, previous: Tensor, level: Level, chosen: Tensor
    ) -> Tensor:
        """Where the rows that saw `previous` [B, L, D] learn to go (`DiffusionConfig.self_condition_guidance`). At its
        fixed point, output - without = s (wanted - without)."""
        share = 1 - 1 / self.config.self_condition_guidance
        if not share:
            return wanted
        without = target(self.config.prediction, previous, eps_from_z0(zt, previous, level), level)
        return wanted + share * (output - without) * chosen[:, None, None]

    @torch.no_grad()
    def _first_estimate(
        self, zt: Tensor, level: Level, mask: Tensor, condition: Condition, chosen: Tensor
    ) -> Tensor | None:
        """z0_hat of the rows where `chosen` [B], zero elsewhere; only those rows are computed."""
        rows = chosen.nonzero()[:, 0]
        if not len(rows):
            return None
        part = Level(level.log_snr[rows], level.alpha[rows], level.sigma[rows])
        was_training = self.denoiser.training
        self.denoiser.eval()
        estimate = self.denoise(mask[rows], condition[rows])(zt[rows], part)
        self.denoiser.train(was_training)
        return torch.zeros_like(zt).index_copy(0, rows, estimate.to(zt))
