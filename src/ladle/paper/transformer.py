"""The paper's denoiser (arXiv 2212.09462, appendix), with the same parameters, so that its checkpoints can be loaded.

It differs from `DenoisingTransformer` in how it gets the noise level: the output of every feed-forward has its own
scale and shift, which take 38 % of the parameters. It also has GeGLU and a norm after each feed-forward, and does not
read the number of latents.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.conditioning.encoder import Condition
from ladle.config import Config
from ladle.diffusion.transformer import LatentTransformer
from ladle.layers import Attention, zero_linear

EXPANSION = 4


class PaperTransformerConfig(Config):
    """`PaperTransformer`, with the paper's sizes as defaults."""

    kind: Literal["paper"]
    width: int = Field(768, ge=8)
    num_layers: int = Field(12, ge=1)
    num_heads: int = Field(12, ge=1)
    num_skips: int = Field(3, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)


class PaperBlock(nn.Module):
    """Self-attention, cross-attention if there is a memory, and GeGLU. The noise level scales and shifts its output."""

    def __init__(self, config: PaperTransformerConfig, reads_memory: bool):
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.num_heads, bias=False, dropout=config.dropout)
        self.cross_norm = nn.LayerNorm(width) if reads_memory else None
        self.cross_attention = None
        if reads_memory:
            self.cross_attention = Attention(width, config.num_heads, width, bias=False, dropout=config.dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 2 * EXPANSION * width)
        self.feed_out = nn.Linear(EXPANSION * width, width)
        self.fed_norm = nn.LayerNorm(width)
        self.modulation = zero_linear(EXPANSION * width, 2 * width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, level: Tensor, condition: Condition) -> Tensor:
        """x [B, L, W], mask [B, L], level [B, 4W], after its GELU."""
        x = x + self.attention(self.attention_norm(x), mask=mask)
        if self.cross_attention is not None and self.cross_norm is not None and condition.memory is not None:
            x = x + self.cross_attention(self.cross_norm(x), condition.memory, condition.memory_mask)
        value, gate = self.feed_in(self.feed_norm(x)).chunk(2, dim=-1)
        fed = self.fed_norm(self.feed_out(self.dropout(value * F.gelu(gate))))
        scale, shift = self.modulation(level)[:, None].chunk(2, dim=-1)
        return x + fed * (scale + 1) + shift


class PaperTransformer(LatentTransformer):
    """The paper's denoiser.

    latent_dim: D. max_latents: longest sequence of latents. reads_memory: whether conditions have a token memory
    [B, M, W], which each block reads. reads_vector: whether conditions have a vector [B, W].
    """

    def __init__(
        self, config: PaperTransformerConfig, latent_dim: int, max_latents: int, reads_memory: bool, reads_vector: bool
    ):
        super().__init__()
        self.width = width = config.width
        wide = EXPANSION * width
        self.no_self_condition = nn.Parameter(0.02 * torch.randn(latent_dim))
        self.input = nn.Linear(2 * latent_dim, width)
        self.positions = nn.Embedding(max_latents, width)
        self.level = nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, wide))
        self.level_to_input = nn.Linear(wide, width)
        self.vector = nn.Linear(width, wide) if reads_vector else None
        self.blocks = nn.ModuleList(PaperBlock(config, reads_memory) for _ in range(config.num_layers))
        num_skips = min(config.num_skips, config.num_layers // 2)
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(num_skips))
        self.norm = nn.LayerNorm(width)
        self.output = zero_linear(width, latent_dim)

    def hidden(self, x: Tensor, log_snr: Tensor, mask: Tensor, condition: Condition) -> Tensor:
        """As of every `LatentTransformer`."""
        level = self.level(sinusoids_of(1000 * log_snr.sigmoid(), self.width).to(self.no_self_condition))
        if self.vector is not None and condition.vector is not None:
            level = level + self.vector(condition.vector)
        level = F.gelu(level)
        x = x + self.positions.weight[: x.shape[1]] * self.width**-0.5 + self.level_to_input(level)[:, None]
        keys_mask = None if bool(mask.all()) else mask
        saved: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if len(self.blocks) - i <= len(self.skips):
                skip = self.skips[i - len(self.blocks) + len(self.skips)]
                x = skip(torch.cat([x, saved.pop()], dim=-1))
            x = block(x, keys_mask, level, condition)
            # As in the paper's code, for its weights: each entry that a skip takes off the stack is replaced at once.
            # So the first skip joins an early block's output to x, and the others join x to itself.
            if len(saved) < len(self.skips):
                saved.append(x)
        return x


def sinusoids_of(values: Tensor, width: int) -> Tensor:
    """values [B] -> [B, width]: sines, then cosines, of frequencies from 1 to 1/10,000 (arXiv 1706.03762)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, device=values.device))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
