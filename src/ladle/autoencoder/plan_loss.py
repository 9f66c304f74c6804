"""The training loss of a plan's decoder: write the text from its plan at every noise level, pure noise included.

    L = cross-entropy of the text, given zt = alpha * z0 + sigma * eps and its level

So one network is a reader of plans and a language model (STAR-LDM, arXiv 2602.20528), and sampling may hand over to it
at any level. A trained decoder needs nothing of this file.
"""

import torch
from pydantic import Field
from torch import Tensor

from ladle.autoencoder.autoencoder import Memory, TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.config import Config
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule

CLEAN_TIME = 0.1  # the diffusion time below which a plan counts as clean


class PlanDecodingConfig(Config):
    """How noisy the plans are from which the decoder learns to write."""

    clean_share: float = Field(0.25, ge=0, le=1)
    """Share of the texts whose plan is nearly clean. The diffusion times of the other texts are uniform."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of what each layer of a plan's decoder adds that training drops."""


def draw_level(config: PlanDecodingConfig, count: int, device: torch.device) -> Level:
    """[count] levels for training, on the cosine schedule."""
    t = torch.rand(count, device=device)
    clean = torch.rand(count, device=device) < config.clean_share
    return build_schedule(ScheduleConfig()).level(torch.where(clean, CLEAN_TIME * t, t))


def plan_decoding_loss(
    autoencoder: TextAutoencoder,
    z0: Tensor,
    input_ids: Tensor,
    mask: Tensor,
    level: Level,
    eps: Tensor,
    read: Memory | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the texts input_ids [B, S] with mask [B, S], from plans z0 [B, L, D] noised with eps to levels
    [B], and the conditions' memory. Returns the loss, a scalar, and detached metrics."""
    there = torch.ones(z0.shape[:2], dtype=torch.bool, device=z0.device)
    memory = autoencoder.expand(Latents(add_noise(z0, eps, level), there), level, read)
    loss = autoencoder.backbone.decode_loss(input_ids, mask, *memory)
    return loss, {"autoregressive_loss": loss.detach()}
