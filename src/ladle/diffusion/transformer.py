"""DenoisingTransformer: reads noised latents and returns one raw prediction for each latent."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ladle.conditioning.encoder import Condition
from ladle.config import Config
from ladle.layers import Attention, LevelEmbedding, feed_forward, sinusoids, zero_linear

CROSS_EVERY = 2  # one in so many blocks reads the condition's memory


class CompactConfig(Config):
    """`DenoisingTransformer`."""

    kind: Literal["compact"] = "compact"
    """`compact`: Ladle's transformer. `perceptron`: residual blocks that read all latents of a text as one vector, for
    plan latents. `paper`: the network of the paper's code, for its checkpoints. At the same sizes it has about twice as
    many parameters as `compact`."""
    width: int = Field(256, ge=8)
    """Channels of the hidden states."""
    num_layers: int = Field(8, ge=1)
    """Transformer blocks."""
    num_heads: int = Field(4, ge=1)
    """Attention heads. `width` must be a multiple of this number."""
    conditioning: Literal["adaln", "in_context"] = "adaln"
    """How the noise level and the condition's vector enter. `adaln`: as a shift, scale and gate of each block, from one
    shared projection and a learned offset per block (PixArt-alpha, arXiv 2310.00426). `in_context`: as tokens before
    the latents."""
    num_skips: int = Field(3, ge=0)
    """Long skip connections from the first blocks to the last (U-ViT, arXiv 2209.12152)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a block's outputs that training drops."""


class DenoiserBlock(nn.Module):
    """Self-attention, cross-attention if there is a memory, and feed-forward, all modulated with `adaln`."""

    def __init__(self, config: CompactConfig, reads_memory: bool):
        super().__init__()
        width, adaln = config.width, config.conditioning == "adaln"
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=not adaln)
        self.attention = Attention(width, config.num_heads)
        self.cross_norm = nn.LayerNorm(width) if reads_memory else None
        self.cross_attention = Attention(width, config.num_heads, width) if reads_memory else None
        self.feed_norm = nn.LayerNorm(width, elementwise_affine=not adaln)
        self.feed = feed_forward(width)
        self.dropout = nn.Dropout(config.dropout)
        # Gates start at one and shifts at zero: the block begins as an ordinary pre-norm block.
        start = torch.cat([torch.zeros(4, width), torch.ones(2, width)])
        self.modulation = nn.Parameter(start) if adaln else None

    def forward(self, x: Tensor, mask: Tensor | None, shared: Tensor | None, condition: Condition) -> Tensor:
        """x [B, L, W], mask [B, L], shared modulation [B, 6, W] or None."""
        if self.modulation is None or shared is None:
            x = self._read(x + self.dropout(self.attention(self.attention_norm(x), mask=mask)), condition)
            return x + self.dropout(self.feed(self.feed_norm(x)))
        shift1, scale1, shift2, scale2, gate1, gate2 = (shared + self.modulation).unsqueeze(2).unbind(1)
        # addcmul reads and writes the activations once where x * a + b does it twice: these lines are bound by memory.
        mixed = self.attention(torch.addcmul(shift1, self.attention_norm(x), 1 + scale1), mask=mask)
        x = self._read(torch.addcmul(x, gate1, self.dropout(mixed).to(x.dtype)), condition)
        fed = self.feed(torch.addcmul(shift2, self.feed_norm(x), 1 + scale2))
        return torch.addcmul(x, gate2, self.dropout(fed).to(x.dtype))

    def _read(self, x: Tensor, condition: Condition) -> Tensor:
        if self.cross_attention is None or self.cross_norm is None or condition.memory is None:
            return x
        return x + self.cross_attention(self.cross_norm(x), condition.memory, condition.memory_mask)


class LatentTransformer(nn.Module, ABC):
    """A pre-norm transformer over L latents, with self-conditioning by concatenation and a zero-initialised output."""

    no_self_condition: nn.Parameter
    input: nn.Linear
    norm: nn.LayerNorm
    output: nn.Linear

    def forward(
        self,
        zt: Tensor,
        log_snr: Tensor,
        *,
        mask: Tensor,
        condition: Condition,
        self_condition: Tensor | None = None,
        self_condition_mask: Tensor | None = None,
    ) -> Tensor:
        """zt [B, L, D] -> one raw prediction [B, L, D] (v, x0, eps or flow, as trained).

        Args:
            log_snr: [B] or scalar.
            mask: [B, L] bool, True where a latent exists.
            condition: vector [B, W] and memory [B, M, W]; either or both may be absent.
            self_condition: [B, L, D], the last z0_hat; None for none.
            self_condition_mask: [B] bool, rows for which `self_condition` counts (all when None).
        """
        previous = self.no_self_condition.expand_as(zt)
        if self_condition is not None:
            previous = self_condition.to(zt)
            if self_condition_mask is not None:
                previous = torch.where(self_condition_mask[:, None, None], previous, self.no_self_condition.to(zt))
        x = self.input(torch.cat([zt, previous], dim=-1))
        return self.output(self.norm(self.hidden(x, log_snr.expand(len(zt)), mask, condition)))

    @abstractmethod
    def hidden(self, x: Tensor, log_snr: Tensor, mask: Tensor, condition: Condition) -> Tensor:
        """x [B, L, W], log_snr [B], mask [B, L] -> output of the last block, [B, L, W]."""


class DenoisingTransformer(LatentTransformer):
    """Ladle's denoiser. Every block gets the noise level, the number of latents and the condition's vector.

    latent_dim: D. max_latents: longest sequence of latents. reads_memory: whether conditions have a token memory
    [B, M, W]. reads_vector is not used: each condition shows whether it has a vector.
    """

    def __init__(
        self, config: CompactConfig, latent_dim: int, max_latents: int, reads_memory: bool, reads_vector: bool = False
    ):
        super().__init__()
        width = config.width
        self.no_self_condition = nn.Parameter(torch.zeros(latent_dim))
        self.input = nn.Linear(2 * latent_dim, width)
        self.positions = nn.Parameter(sinusoids(max_latents, width))
        self.num_latents = nn.Embedding(max_latents + 1, width)
        nn.init.normal_(self.num_latents.weight, std=0.02)
        self.level = LevelEmbedding(width)
        self.blocks = nn.ModuleList(
            DenoiserBlock(config, reads_memory and i % CROSS_EVERY == CROSS_EVERY - 1) for i in range(config.num_layers)
        )
        num_skips = min(config.num_skips, config.num_layers // 2)
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(num_skips))
        self.shared_modulation = None
        if config.conditioning == "adaln":
            self.shared_modulation = nn.Sequential(nn.SiLU(), zero_linear(width, 6 * width))
        self.norm = nn.LayerNorm(width)
        self.output = zero_linear(width, latent_dim)

    def hidden(self, x: Tensor, log_snr: Tensor, mask: Tensor, condition: Condition) -> Tensor:
        """As of every `LatentTransformer`."""
        x = x + self.positions[: x.shape[1]]
        signals = [self.level(log_snr), self.num_latents(mask.sum(1))]
        if condition.vector is not None:
            signals.append(condition.vector)
        shared, context = None, 0
        if self.shared_modulation is not None:
            shared = self.shared_modulation(sum(signals)).unflatten(-1, (6, -1))
        else:
            context = len(signals)
            x = torch.cat([torch.stack(signals, dim=1).to(x), x], dim=1)
            mask = torch.cat([mask.new_ones(len(x), context), mask], dim=1)
        keys_mask = None if bool(mask.all()) else mask
        saved: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            remaining = len(self.blocks) - i
            if remaining <= len(self.skips):
                x = self.skips[remaining - 1](torch.cat([x, saved[remaining - 1]], dim=-1))
            x = block(x, keys_mask, shared, condition)
            if i < len(self.skips):
                saved.append(x)
        return x[:, context:]
