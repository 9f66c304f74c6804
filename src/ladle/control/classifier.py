"""LatentClassifier: which label do noised latents have?"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.config import Config
from ladle.diffusion.schedule import Level
from ladle.layers import LevelEmbedding


class ClassifierConfig(Config):
    """The sizes of `LatentClassifier`."""

    num_labels: int = Field(ge=2)
    latent_dim: int = Field(ge=1)
    num_latents: int | None = Field(None, ge=1)
    """Number of latents of every text; None: numbers differ, because latents have the places of tokens."""
    width: int = Field(256, ge=8)
    num_layers: int = Field(2, ge=0)
    dropout: float = Field(0.3, ge=0, lt=1)

    @classmethod
    def of(cls, autoencoder: TextAutoencoder, num_labels: int) -> "ClassifierConfig":
        """The sizes that fit the latents of this autoencoder."""
        count = autoencoder.max_latents if autoencoder.fixed_length else None
        return cls(num_labels=num_labels, latent_dim=autoencoder.latent_dim, num_latents=count)


class LatentClassifier(nn.Module):
    """A small perceptron: p(label | zt, level).

    It does not read zt but alpha * zt, on the path of unit variance: the best linear estimate of z0, because latents
    have mean 0 and variance 1. So its gradient has the factor alpha, and steering by it moves z0_hat by
    sigma^2 / alpha * alpha = sigma^2 times the network's own gradient: bounded at every level. With zt itself as input
    a factor sigma^2 / alpha would stay, 1800 at t = 1, and the least error of the network there would be all that is
    seen of it.

    Latents of a fixed number (plans) are read as one vector. Of others each latent goes through a small network, and
    their mean, weighted by attention, is read.
    """

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.pool: nn.Linear | None = None
        if config.num_latents is None:
            self.each: Any = nn.Sequential(nn.Linear(config.latent_dim, width), nn.SiLU(), nn.Linear(width, width))
            self.pool = nn.Linear(width, 1)
        else:
            self.each = nn.Linear(config.num_latents * config.latent_dim, width)
        self.level = LevelEmbedding(width)
        blocks: list[nn.Module] = []
        for _ in range(config.num_layers):
            blocks += [nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Dropout(config.dropout)]
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(width, config.num_labels)

    def forward(self, zt: Tensor, level: Level, mask: Tensor) -> Tensor:
        """zt [B, L, D] at a level (a scalar, or [B]), mask [B, L] -> logits [B, K] in float32."""
        own = level.expand(zt)
        estimate = own.alpha / own.scale.square() * zt.float()
        if self.pool is None:
            hidden = self.each(estimate.flatten(1))
        else:
            states = self.each(estimate)
            shares = self.pool(states)[..., 0].masked_fill(~mask, -torch.inf).softmax(1)
            hidden = (shares[..., None] * states).sum(1)
        hidden = hidden + self.level(level.log_snr.expand(len(zt)))
        logits: Tensor = self.output(self.blocks(hidden))
        return logits
