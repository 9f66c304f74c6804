"""Attention and the pre-norm transformer block that bottlenecks, parallel decoder and denoiser are built from.

Axes: B batch, Q query positions, N key positions, W width, H heads, K head size.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.errors import UserError

Gains = tuple[Tensor | None, Tensor | None]  # of the RMS norms of queries and keys, [K] each


class Attention(nn.Module):
    """Multi-head attention of `x` over itself or over `memory`.

    Args:
        width: channels of the queries and of the output.
        num_heads: heads; must divide `width`.
        memory_width: channels of `memory`, if different from `width`.
        qk_norm: RMS-normalise queries and keys per head, with a learned gain (arXiv 2212.09462, appendix).
        bias: whether the output has a bias. dropout: of the attention weights, in training.

    Raises:
        UserError: `num_heads` does not divide `width`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        memory_width: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % num_heads:
            raise UserError(f"num_heads is {num_heads}; it must divide the width, {width}")
        self.num_heads, head_size = num_heads, width // num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(memory_width or width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=bias)
        self.dropout = dropout
        self.query_gain = nn.Parameter(torch.ones(head_size)) if qk_norm else None
        self.key_gain = nn.Parameter(torch.ones(head_size)) if qk_norm else None

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, Q, W], memory [B, N, memory_width] (x itself when None), mask [B, N], True where a key may be read."""
        keys_values = self.key_value(x if memory is None else memory)
        gains, dropout = (self.query_gain, self.key_gain), self.dropout if self.training else 0.0
        return self.output(attend(self.query(x), keys_values, mask, self.num_heads, gains, dropout))


def attend(
    queries: Tensor, keys_values: Tensor, mask: Tensor | None, num_heads: int, gains: Gains, dropout: float = 0.0
) -> Tensor:
    """softmax(q k / sqrt(K)) v of every head, [B, Q, W]. queries [B, Q, W], keys_values [B, N, 2 W]. mask [B, N], True
    where a key may be read. dropout: of the weights."""
    keys, values = keys_values.chunk(2, dim=-1)
    parts = zip((queries, keys, values), (*gains, None), strict=True)
    q_BHQK, k_BHNK, v_BHNK = (_heads(x, num_heads, gain) for x, gain in parts)
    allowed = None if mask is None else mask[:, None, None, :]
    if q_BHQK.is_cuda:
        mixed = F.scaled_dot_product_attention(q_BHQK, k_BHNK, v_BHNK, attn_mask=allowed, dropout_p=dropout)
    else:  # Torch's fused kernel is several times slower backward on a CPU at these lengths (benchmarks/LOG.md).
        scores = (q_BHQK * q_BHQK.shape[-1] ** -0.5) @ k_BHNK.transpose(-1, -2)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        mixed = F.dropout(scores.softmax(-1).to(v_BHNK.dtype), dropout) @ v_BHNK
    return mixed.transpose(1, 2).flatten(2)


def _heads(x: Tensor, num_heads: int, gain: Tensor | None) -> Tensor:
    x = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return x if gain is None else F.rms_norm(x, x.shape[-1:], gain.to(x))


def feed_forward(width: int) -> nn.Sequential:
    """The two-layer GELU network of a block."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose output is zero at the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """A pre-norm transformer block. With `memory_width` it has cross-attention between its two halves."""

    def __init__(self, width: int, num_heads: int, memory_width: int | None = None, qk_norm: bool = False):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, qk_norm=qk_norm)
        self.cross_norm = nn.LayerNorm(width) if memory_width else None
        self.cross_attention = Attention(width, num_heads, memory_width) if memory_width else None
        self.feed_norm = nn.LayerNorm(width)
        self.feed = feed_forward(width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """x [B, Q, W] with mask [B, Q]; memory [B, N, memory_width] with memory_mask [B, N]."""
        x = x + self.attention(self.attention_norm(x), mask=mask)
        if self.cross_attention is not None and self.cross_norm is not None:
            x = x + self.cross_attention(self.cross_norm(x), memory, memory_mask)
        return x + self.feed(self.feed_norm(x))


class LevelEmbedding(nn.Module):
    """log_snr [B] -> [B, W]: sines and cosines of geometric frequencies through a small network."""

    frequencies: Tensor

    def __init__(self, width: int, num_frequencies: int = 64):
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(0.05), math.log(8.0), num_frequencies))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.network = nn.Sequential(nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, log_snr: Tensor) -> Tensor:
        """log_snr [B] -> [B, W]."""
        angles = log_snr.float()[:, None] * self.frequencies
        codes = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.network(codes.to(next(self.network.parameters()).dtype))


def sinusoids(num_positions: int, width: int, scale: float = 0.3) -> Tensor:
    """Sinusoidal position codes [num_positions, width] of root mean square `scale`, as a start for learned ones."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(num_positions)[:, None] * frequencies
    codes = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
    return scale * math.sqrt(2) * codes


def lengths_to_mask(lengths: Tensor, size: int) -> Tensor:
    """lengths [B] (integers) -> mask [B, size], True at the first `lengths[b]` places of row b."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


@contextmanager
def usual_defaults(dtype: torch.dtype | None = torch.float32) -> Iterator[None]:
    """In the block, or in the function that this decorates, new tensors are on the CPU and have this dtype if nothing
    else is said, whatever the program chose by `torch.set_default_device` and `torch.set_default_dtype`.

    dtype: None leaves the program's dtype alone, which (other than the device) all threads share.
    """
    chosen = torch.get_default_dtype()
    if dtype is not None:
        torch.set_default_dtype(dtype)
    try:
        with nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
            yield
    finally:
        if dtype is not None:
            torch.set_default_dtype(chosen)
