"""S token states <-> L latents: position-aligned (neighbouring tokens to a latent) or Perceiver (learned queries).

One class holds both halves of a bottleneck: `compress` before diffusion and `expand` after it. `fixed_length` says
whether all texts have the same number of latents.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, Tag
from torch import Tensor, nn

from ladle.autoencoder.plan import PlanBottleneck, PlanConfig
from ladle.config import Config, by_kind
from ladle.layers import Attention, Block, feed_forward, sinusoids
from ladle.paper.bottleneck import PaperBottleneck, PaperBottleneckConfig

Regulariser = Literal["norm", "gaussian", "none"]


class AlignedConfig(Config):
    """`AlignedBottleneck`: neighbouring tokens share a latent."""

    kind: Literal["aligned"] = "aligned"
    """`aligned`: a few neighbouring tokens share each latent. `perceiver`: a fixed number of latents, which learned
    queries read from the text. `plan`: a few latents that hold the meaning of a text, made from a sentence embedding;
    needs `autoencoder.backbone.kind = "language"`. `paper`: the network of the paper's code, for its checkpoints."""
    latent_dim: int = Field(64, ge=1)
    """Channels of a latent."""
    tokens_per_latent: int = Field(3, ge=1)
    """Neighbouring tokens that share a latent."""
    num_layers: int = Field(2, ge=1)
    """Transformer layers between latents and decoder. `perceiver` and `paper` also have them between text and latents.
    """
    regulariser: Regulariser = "norm"
    """`norm`: each latent is scaled to the norm sqrt(latent_dim), as in the paper. `gaussian`: in training, each latent
    is drawn from a Gaussian of learned mean and spread (Kingma and Welling, arXiv 1312.6114), and a loss pulls the
    Gaussian towards N(0, I) (see `training.autoencoder.kl`); later the mean is used. `none`: latents are not changed.
    """


class PerceiverConfig(Config):
    """`PerceiverBottleneck`: every text has `num_latents` latents."""

    kind: Literal["perceiver"]
    latent_dim: int = Field(64, ge=1)
    num_latents: int = Field(32, ge=1)
    """Number of latents of every text (`perceiver`, `plan` and `paper`). A plan has `num_latents` times `latent_dim`
    channels, as many as the embedding of the sentence encoder."""
    num_layers: int = Field(2, ge=1)
    regulariser: Regulariser = "norm"


class AlignedBottleneck(nn.Module):
    """Each latent holds `tokens_per_latent` neighbouring token states: position l keeps its place in the text."""

    def __init__(self, config: AlignedConfig, width: int, num_heads: int, max_tokens: int):
        super().__init__()
        self.config, self.tokens_per_latent = config, config.tokens_per_latent
        self.max_latents = -(-max_tokens // self.tokens_per_latent)
        self.norm_in = nn.LayerNorm(width)
        self.down = nn.Linear(self.tokens_per_latent * width, num_outputs(config.latent_dim, config.regulariser))
        self.up = nn.Linear(config.latent_dim, self.tokens_per_latent * width)
        self.positions = nn.Parameter(sinusoids(self.max_latents * self.tokens_per_latent, width))
        # The decoder's cross-attention finds "my own place" at once when both sides carry the same position code.
        self.memory_positions = nn.Parameter(sinusoids(self.max_latents * self.tokens_per_latent, width))
        self.layers = nn.ModuleList(Block(width, num_heads) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width)

    def compress(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """states [B, S, W], mask [B, S] -> raw latents [B, L, num_outputs], mask [B, L] with L = ceil(S / group)."""
        padding = -states.shape[1] % self.tokens_per_latent
        states = F.pad(self.norm_in(states) * mask[..., None], (0, 0, 0, padding))
        raw = self.down(states.unflatten(1, (-1, self.tokens_per_latent)).flatten(2))
        if self.config.regulariser == "norm":
            raw = F.layer_norm(raw.float(), raw.shape[-1:])
        return raw, F.pad(mask, (0, padding)).unflatten(1, (-1, self.tokens_per_latent)).any(-1)

    def expand(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """raw latents [B, L, D], mask [B, L] -> decoder memory [B, L * group, W], mask [B, L * group]."""
        memory = self.up(raw).unflatten(-1, (self.tokens_per_latent, -1)).flatten(1, 2)
        memory = memory + self.positions[: memory.shape[1]]
        memory_mask = mask.repeat_interleave(self.tokens_per_latent, dim=1)
        for layer in self.layers:
            memory = layer(memory, memory_mask)
        return self.norm_out(memory) + self.memory_positions[: memory.shape[1]], memory_mask


class PerceiverBottleneck(nn.Module):
    """The paper's bottleneck: learned queries read [token states ; latents]. `expand` is a linear map, positions and a
    transformer.

    arXiv 2212.09462: pre-norm, RMS query-key norm, no self-attention apart from the concatenated keys.
    """

    tokens_per_latent = None

    def __init__(self, config: PerceiverConfig, width: int, num_heads: int, max_tokens: int):
        super().__init__()
        self.config, self.max_latents = config, config.num_latents
        dim, heads = config.latent_dim, num_heads
        self.queries = nn.Parameter(0.02 * torch.randn(config.num_latents, width))
        self.token_positions = nn.Parameter(0.02 * torch.randn(max_tokens, width))
        self.norm_in = nn.LayerNorm(width)
        self.query_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_layers))
        self.attentions = nn.ModuleList(Attention(width, heads, qk_norm=True) for _ in range(config.num_layers))
        self.feed_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_layers))
        self.feeds = nn.ModuleList(feed_forward(width) for _ in range(config.num_layers))
        self.norm_latents = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, num_outputs(config.latent_dim, config.regulariser)), nn.Linear(dim, width)
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
        if self.config.regulariser == "norm":
            raw = F.layer_norm(raw.float(), raw.shape[-1:])
        return raw, latent_mask

    def expand(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """raw latents [B, L, D], mask [B, L] -> decoder memory [B, L, W], mask [B, L]."""
        memory = self.up(raw) + self.positions[: raw.shape[1]]
        for layer in self.layers:
            memory = layer(memory, mask)
        return self.norm_out(memory), mask


def num_outputs(latent_dim: int, regulariser: Regulariser) -> int:
    """Number of channels that `compress` returns. `gaussian` latents have a mean and a log-variance per channel."""
    return 2 * latent_dim if regulariser == "gaussian" else latent_dim


BottleneckConfig = Annotated[
    Annotated[AlignedConfig, Tag("aligned")]
    | Annotated[PerceiverConfig, Tag("perceiver")]
    | Annotated[PlanConfig, Tag("plan")]
    | Annotated[PaperBottleneckConfig, Tag("paper")],
    by_kind("aligned"),
]
# kind -> (its config, W, attention heads, longest text in tokens) -> the network
BOTTLENECKS: dict[str, Callable[[Any, int, int, int], Any]] = {
    "aligned": AlignedBottleneck, "perceiver": PerceiverBottleneck, "plan": PlanBottleneck, "paper": PaperBottleneck,
}  # fmt: skip
