"""S token states <-> L latents: position-aligned (neighbouring tokens to a latent) or Perceiver (learned queries).

Both halves of a bottleneck stand in one class: `compress` before diffusion, `expand` after it.
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ladle.config import Config
from ladle.layers import Attention, Block, feed_forward, sinusoids


class KLConfig(Config):
    """Latents as draws from a Gaussian of learned mean and spread, pulled towards N(0, I) (Kingma and Welling,
    arXiv 1312.6114); texts are encoded to the mean.

    scale: weight of the divergence; 1 is the evidence lower bound, at which little is left of a text. free_bits: what
    each channel may hold at no cost, in nats a latent (Kingma et al., arXiv 1606.04934). warmup: the share of the stage
    over which the weight rises from 0 (Bowman et al., arXiv 1511.06349).
    """

    scale: float = Field(0.01, ge=0, allow_inf_nan=False)
    free_bits: float = Field(0.0, ge=0, allow_inf_nan=False)
    warmup: float = Field(0.0, ge=0, le=1)


class BottleneckConfig(Config):
    """kind: `aligned`, `perceiver`, or `paper`, which reads the paper's checkpoints (`PaperBottleneck`).
    tokens_per_latent: of `aligned`. num_latents: of the others, whose texts all have so many.

    num_layers: transformer layers of `compress` (perceiver) and of `expand` (both).
    norm: scale each latent vector to norm sqrt(latent_dim), as in the paper.
    kl: regularise by the divergence from a unit Gaussian instead; None: not.
    """

    kind: Literal["aligned", "perceiver", "paper"] = "aligned"
    latent_dim: int = Field(64, ge=1)
    tokens_per_latent: int = Field(3, ge=1)
    num_latents: int = Field(32, ge=1)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    norm: bool = True
    kl: KLConfig | None = None

    @model_validator(mode="after")
    def _one_regulariser(self) -> Self:
        if self.kl is not None and self.norm:
            raise ValueError("kl needs norm = false: vectors of one length are no draws from a Gaussian")
        return self

    @property
    def fixed_length(self) -> bool:
        """Whether all texts have `num_latents` latents."""
        return self.kind != "aligned"

    @property
    def num_outputs(self) -> int:
        """Channels that `compress` gives: the latents, with `kl` the mean and log-variance of each."""
        return self.latent_dim if self.kl is None else 2 * self.latent_dim


class AlignedBottleneck(nn.Module):
    """Each latent holds `tokens_per_latent` neighbouring token states: position l keeps its place in the text."""

    def __init__(self, config: BottleneckConfig, width: int, max_tokens: int):
        super().__init__()
        self.config, self.group = config, config.tokens_per_latent
        self.max_latents = -(-max_tokens // self.group)
        self.norm_in = nn.LayerNorm(width)
        self.down = nn.Linear(self.group * width, config.num_outputs)
        self.up = nn.Linear(config.latent_dim, self.group * width)
        self.positions = nn.Parameter(sinusoids(self.max_latents * self.group, width))
        # The decoder's cross-attention finds "my own place" at once when both sides carry the same position code.
        self.memory_positions = nn.Parameter(sinusoids(self.max_latents * self.group, width))
        self.layers = nn.ModuleList(Block(width, config.num_heads) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)

    def compress(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, S, W], mask [B, S] -> raw latents [B, L, num_outputs], mask [B, L] with L = ceil(S / group)."""
        padding = -states.shape[1] % self.group
        states = F.pad(self.norm_in(states) * mask[..., None], (0, 0, 0, padding))
        raw = self.down(states.unflatten(1, (-1, self.group)).flatten(2))
        if self.config.norm:
            raw = F.layer_norm(raw.float(), raw.shape[-1:])
        return raw, F.pad(mask, (0, padding)).unflatten(1, (-1, self.group)).any(-1)

    def expand(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """raw latents [B, L, D], mask [B, L] -> decoder memory [B, L * group, W], mask [B, L * group]."""
        memory = self.up(raw).unflatten(-1, (self.group, -1)).flatten(1, 2)
        memory = memory + self.positions[: memory.shape[1]]
        memory_mask = mask.repeat_interleave(self.group, dim=1)
        for layer in self.layers:
            memory = layer(memory, memory_mask)
        return self.norm_out(memory) + self.memory_positions[: memory.shape[1]], memory_mask


class PerceiverBottleneck(nn.Module):
    """The paper's: learned queries read [token states ; latents]; back through linear, positions and a transformer.

    arXiv 2212.09462: pre-norm, RMS query-key norm, no self-attention apart from the concatenated keys.
    """

    def __init__(self, config: BottleneckConfig, width: int, max_tokens: int):
        super().__init__()
        self.config, self.max_latents = config, config.num_latents
        dim, heads = config.latent_dim, config.num_heads
        self.queries = nn.Parameter(0.02 * torch.randn(config.num_latents, width))
        self.token_positions = nn.Parameter(0.02 * torch.randn(max_tokens, width))
        self.norm_in = nn.LayerNorm(width)
        self.query_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_layers))
        self.attentions = nn.ModuleList(Attention(width, heads, qk_norm=True) for _ in range(config.num_layers))
        self.feed_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_layers))
        self.feeds = nn.ModuleList(feed_forward(width) for _ in range(config.num_layers))
        self.norm_latents = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, config.num_outputs), nn.Linear(dim, width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.num_latents, width))
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)

    def compress(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, S, W], mask [B, S] -> raw latents [B, L, num_outputs], mask [B, L] (all True), L = num_latents."""
        batch, size = states.shape[:2]
        tokens = self.norm_in(states) + self.token_positions[:size]
        latents = self.queries.expand(batch, -1, -1)
        latent_mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=mask.device)
        keys_mask = torch.cat([mask, latent_mask], dim=1)
        for query_norm, attention, feed_norm, feed in zip(
            self.query_norms, self.attentions, self.feed_norms, self.feeds, strict=True
        ):
            queries = query_norm(latents)
            latents = latents + attention(queries, torch.cat([tokens.to(queries), queries], dim=1), keys_mask)
            latents = latents + feed(feed_norm(latents))
        raw = self.down(self.norm_latents(latents))
        if self.config.norm:
            raw = F.layer_norm(raw.float(), raw.shape[-1:])
        return raw, latent_mask

    def expand(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """raw latents [B, L, D], mask [B, L] -> decoder memory [B, L, W], mask [B, L]."""
        memory = self.up(raw) + self.positions[: raw.shape[1]]
        for layer in self.layers:
            memory = layer(memory, mask)
        return self.norm_out(memory), mask


def _paper(config: BottleneckConfig, width: int, max_tokens: int) -> nn.Module:
    from ladle.paper.bottleneck import PaperBottleneck  # it takes its config from here

    return PaperBottleneck(config, width, max_tokens)


BOTTLENECKS: dict[str, Callable[[BottleneckConfig, int, int], nn.Module]] = {
    "aligned": AlignedBottleneck, "perceiver": PerceiverBottleneck, "paper": _paper,
}  # fmt: skip
