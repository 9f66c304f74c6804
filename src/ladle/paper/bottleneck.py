"""The bottleneck of the paper's code, with the same parameters, so that its checkpoints can be loaded.

Unlike in `PerceiverBottleneck`, latents are narrow (`latent_dim`) from the first layer on, have their own keys and
values, and are scaled to norm sqrt(latent_dim) without being centred.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.config import Config
from ladle.layers import Block, attend, feed_forward

HEAD_SIZE = 64  # channels of an attention head


class PaperBottleneckConfig(Config):
    """`PaperBottleneck`: every text has `num_latents` latents."""

    kind: Literal["paper"]
    latent_dim: int = Field(64, ge=1)
    num_latents: int = Field(32, ge=1)
    num_layers: int = Field(3, ge=1)
    regulariser: Literal["norm", "none"] = "norm"


class ResamplerLayer(nn.Module):
    """Latents [B, L, D] read [token states [B, S, W] ; latents] (Flamingo's resampler, arXiv 2204.14198)."""

    def __init__(self, width: int, latent_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.states_norm, self.latents_norm = nn.LayerNorm(width), nn.LayerNorm(latent_dim)
        self.query = nn.Linear(latent_dim, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.latent_key_value = nn.Linear(latent_dim, 2 * width, bias=False)
        self.query_gain, self.key_gain = (nn.Parameter(torch.ones(width // num_heads)) for _ in range(2))
        self.output = nn.Linear(width, latent_dim)
        self.feed_norm, self.feed = nn.LayerNorm(latent_dim), feed_forward(latent_dim)

    def forward(self, states: Tensor, latents: Tensor, mask: Tensor) -> Tensor:
        """states [B, S, W], latents [B, L, D], mask [B, S + L]."""
        own = self.latents_norm(latents)
        keys_values = torch.cat([self.key_value(self.states_norm(states)), self.latent_key_value(own)], dim=1)
        mixed = attend(self.query(own), keys_values, mask, self.num_heads, (self.query_gain, self.key_gain))
        latents = latents + self.output(mixed)
        return latents + self.feed(self.feed_norm(latents))


class PaperBottleneck(nn.Module):
    """`num_layers` resampler layers. `expand` is a linear map, positions and a transformer with as many layers."""

    tokens_per_latent = None

    def __init__(self, config: PaperBottleneckConfig, width: int, num_heads: int, max_tokens: int):
        super().__init__()
        num_heads = max(1, width // HEAD_SIZE)  # as in the paper's code, whatever the backbone has
        self.config, self.max_latents, self.width = config, config.num_latents, width
        dim = config.latent_dim
        self.token_positions = nn.Embedding(max_tokens, width)
        self.queries = nn.Parameter(0.02 * torch.randn(config.num_latents, dim))
        self.readers = nn.ModuleList(ResamplerLayer(width, dim, num_heads) for _ in range(config.num_layers))
        self.norm_latents = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, width)
        self.positions = nn.Embedding(config.num_latents, width)
        self.layers = nn.ModuleList(Block(width, num_heads, qk_norm=True) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)

    def compress(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, S, W], mask [B, S] -> raw latents [B, L, D], mask [B, L] (all True), L = num_latents."""
        states = states + self.token_positions.weight[: states.shape[1]] * self.width**-0.5
        latents = self.queries.expand(len(states), -1, -1)
        latent_mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=mask.device)
        for reader in self.readers:
            latents = reader(states, latents, torch.cat([mask, latent_mask], dim=1))
        raw = self.norm_latents(latents)
        if self.config.regulariser == "norm":
            raw = F.normalize(raw.float(), dim=-1) * math.sqrt(raw.shape[-1])
        return raw, latent_mask

    def expand(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """raw latents [B, L, D], mask [B, L] -> decoder memory [B, L, W], mask [B, L]."""
        memory = self.up(raw) + self.positions.weight[: raw.shape[1]] * self.width**-0.5
        for layer in self.layers:
            memory = layer(memory, mask)
        return self.norm_out(memory), mask
