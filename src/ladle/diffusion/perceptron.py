"""DenoisingPerceptron: the denoiser of plans, which reads all latents of a text as one vector."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.conditioning.encoder import Condition
from ladle.config import Config
from ladle.layers import LevelEmbedding, zero_linear


class PerceptronConfig(Config):
    """`DenoisingPerceptron`."""

    kind: Literal["perceptron"]
    width: int = Field(512, ge=8)
    num_layers: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @property
    def num_heads(self) -> int:
        """Attention heads of the layers that read a source."""
        return next(heads for heads in (8, 4, 2, 1) if self.width % heads == 0)


class PerceptronBlock(nn.Module):
    """A residual two-layer network whose input is scaled and shifted, and whose output is scaled, by the level."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.modulation = nn.Parameter(torch.zeros(3, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, W], modulation [B, 3, W]: scale, shift and gate -> [B, W]."""
        scale, shift, gate = modulation.unbind(1)
        hidden = torch.addcmul(shift, F.rms_norm(x, x.shape[-1:]), scale)
        added = F.linear(F.silu(F.linear(hidden, self.up.weight)), self.down.weight)
        if self.training:
            added = self.dropout(added)
        return torch.addcmul(x, gate, added.to(x.dtype))


class DenoisingPerceptron(nn.Module):
    """Residual blocks over the whole plan, with the level's and the condition's vector as scale and shift (RCG, arXiv
    2312.03701): the channels of an embedding have no order that attention could use.

    latent_dim: D. max_latents: L, of every text. Conditions come as a vector; a memory is not read.
    """

    def __init__(
        self,
        config: PerceptronConfig,
        latent_dim: int,
        max_latents: int,
        reads_memory: bool = False,
        reads_vector: bool = False,
    ):
        super().__init__()
        size, width = latent_dim * max_latents, config.width
        self.input = nn.Linear(2 * size, width)
        self.level = LevelEmbedding(width)
        self.shared_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.blocks: Any = nn.ModuleList(PerceptronBlock(width, config.dropout) for _ in range(config.num_layers))
        self.output = zero_linear(width, size)

    def forward(
        self,
        zt: Tensor,
        log_snr: Tensor,
        *,
        mask: Tensor,
        condition: Condition,
        self_condition: Tensor | None = None,
        self_condition_mask: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """As of `LatentTransformer`: zt [B, L, D] -> one raw prediction [B, L, D].

        modulation: what `modulations` gives for this level; None: it is worked out here.
        """
        previous = torch.zeros_like(zt) if self_condition is None else self_condition.to(zt)
        if self_condition_mask is not None:
            previous = previous * self_condition_mask[:, None, None]
        x = self.input(torch.cat([zt.flatten(1), previous.flatten(1)], dim=-1))
        if modulation is None:
            modulation = self._modulation(self.level(log_snr.expand(len(zt))), condition)
        for number, block in enumerate(self.blocks):
            x = block(x, modulation[:, number])
        return self.output(F.rms_norm(x, x.shape[-1:])).view(zt.shape)

    def modulations(self, log_snr: Tensor, condition: Condition, batch: int) -> Tensor:
        """log_snr [K] of the next K steps -> [K, B, blocks, 3, W]: scale, shift and gate of every block and step.

        A fifth of the network's weights need the level and the condition alone. A step at batch 1 takes as long as the
        weights take to come from memory, so these weights are better read once for many steps.
        """
        levels = self.level(log_snr)[:, None]
        return self._modulation(levels, condition).expand(-1, batch, -1, -1, -1)

    def _modulation(self, levels: Tensor, condition: Condition) -> Tensor:
        """Levels' vectors [..., B, W] -> [..., B, blocks, 3, W]."""
        signal = levels if condition.vector is None else levels + condition.vector
        shared = self.shared_modulation(signal).unflatten(-1, (1, 3, -1))
        own = torch.stack([block.modulation for block in self.blocks])
        return shared + own + own.new_tensor([[1.0], [0.0], [1.0]])  # (scale and gate begin at 1)
