"""The plan of a text: a few latents that hold its meaning, and the memory that the decoder reads of them."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.config import Config
from ladle.diffusion.schedule import Level
from ladle.errors import UserError
from ladle.layers import Block, LevelEmbedding

CLEAN_LOG_SNR = 12.0  # of a plan without noise; beyond it levels make no difference


class PlanConfig(Config):
    """`PlanBottleneck`: every text has `num_latents` latents, made from one embedding of its meaning."""

    kind: Literal["plan"]
    latent_dim: int = Field(64, ge=1)
    num_latents: int = Field(6, ge=1)
    """Number of latents of every text (`plan`, `perceiver` and `paper`). A plan has `num_latents` times `latent_dim`
    channels, as many as the embedding of the sentence encoder."""
    num_layers: int = Field(1, ge=0)
    sentence_encoder: str | None = None
    """The frozen sentence encoder that makes the plans (`plan`). Without it, the backbone's own encoder makes them.
    * the name of a shipped model: the encoder of that model. The new model's folder does not hold it again. A folder of
    the same name does not count.
    * the folder of a plain encoder of transformers, which becomes a part of the model.
    * a model of sentence-transformers, by hub id or folder."""

    @property
    def regulariser(self) -> str:
        """The encoder's own norm is enough."""
        return "none"


class PlanBottleneck(nn.Module):
    """A sentence embedding in `num_latents` parts, and the memory that a decoder makes of the noised parts.

    The plan is the mean of the encoder's token states with norm 1, as in sentence-transformers (arXiv 1908.10084). The
    normaliser gives every channel mean 0 and variance 1. `expand` is told the noise level, as in STAR-LDM (arXiv
    2602.20528), so that a decoder knows how far to trust the plan: from pure noise it is a language model.
    """

    tokens_per_latent = None

    def __init__(self, config: PlanConfig, width: int, num_heads: int, max_tokens: int):
        super().__init__()
        self.config, self.max_latents = config, config.num_latents
        self.up = nn.Linear(config.latent_dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_latents, width))
        self.level = LevelEmbedding(width)
        self.layers = nn.ModuleList(Block(width, num_heads) for _ in range(config.num_layers))

    def compress(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, S, L * D], mask [B, S] -> raw plan [B, L, D], mask [B, L] (all True)."""
        mean = (states * mask[..., None]).sum(1).float() / mask.sum(1, keepdim=True)
        raw = self.split(F.normalize(mean, dim=-1))
        return raw, torch.ones(raw.shape[:2], dtype=torch.bool, device=raw.device)

    def split(self, embedding: Tensor) -> Tensor:
        """Sentence embeddings [B, L * D] -> raw plan [B, L, D]. Raises UserError: embeddings of another width."""
        count, dim = self.config.num_latents, self.config.latent_dim
        if embedding.shape[1] != count * dim:
            what = f"the sentence encoder gives {embedding.shape[1]} channels"
            raise UserError(f"{what}; num_latents times latent_dim of autoencoder.bottleneck must be that number")
        return embedding.unflatten(-1, (count, dim))

    def expand(self, zt: Tensor, mask: Tensor, level: Level | None = None) -> tuple[Tensor, Tensor]:
        """Normalised plan [B, L, D] at a level (one, or [B]; None: clean), mask [B, L] -> memory [B, L, W], mask."""
        log_snr = zt.new_tensor(CLEAN_LOG_SNR) if level is None else level.log_snr.clamp(-CLEAN_LOG_SNR, CLEAN_LOG_SNR)
        if level is not None:
            zt = zt / level.expand(zt).scale  # as on the variance-preserving path, with which the decoder was trained
        codes = self.level(log_snr.to(zt.device).expand(len(zt)))
        memory = self.up(zt.to(self.up.weight.dtype)) + self.positions + codes[:, None]
        for layer in self.layers:
            memory = layer(memory)
        return memory, mask
