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
        self.num_heads, self.head_size = num_heads, width // num_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(memory_width or width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=bias)
        self.dropout = dropout
        self.query_gain = nn.Parameter(torch.ones(self.head_size)) if qk_norm else None
        self.key_gain = nn.Parameter(torch.ones(self.head_size)) if qk_norm else None

    def forward(self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, Q, W], memory [B, N, memory_width] (x itself when None), mask [B, N], True where a key may be read."""
        memory = x if memory is None else memory
        q_BHQK = self._heads(self.query(x))
        k_BHNK, v_BHNK = (self._heads(part) for part in self.key_value(memory).chunk(2, dim=-1))
        if self.query_gain is not None and self.key_gain is not None:
            q_BHQK = F.rms_norm(q_BHQK, (self.head_size,), self.query_gain.to(q_BHQK))
            k_BHNK = F.rms_norm(k_BHNK, (self.head_size,), self.key_gain.to(k_BHNK))
        mixed = attend(q_BHQK, k_BHNK, v_BHNK, mask, self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)


def attend(q_BHQK: Tensor, k_BHNK: Tensor, v_BHNK: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(q k / sqrt(K)) v, [B, H, Q, K]. mask [B, N], True where a key may be read. dropout: of the weights."""
    allowed = None if mask is None else mask[:, None, None, :]
    if q_BHQK.is_cuda:
        return F.scaled_dot_product_attention(q_BHQK, k_BHNK, v_BHNK, attn_mask=allowed, dropout_p=dropout)
    # Torch's fused kernel is several times slower backward on a CPU at these lengths (benchmarks/LOG.md).
    scores = (q_BHQK * q_BHQK.shape[-1] ** -0.5) @ k_BHNK.transpose(-1, -2)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1).to(v_BHNK.dtype), dropout) @ v_BHNK


def feed_forward(width: int, expansion: int = 4) -> nn.Sequential:
    """The two-layer GELU network of a block."""
    return nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose output is zero at the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """A pre-norm transformer block. With `memory_width` it has cross-attention between its two halves."""

    def __init__(
        self, width: int, num_heads: int, memory_width: int | None = None, expansion: int = 4, qk_norm: bool = False
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, qk_norm=qk_norm)
        self.cross_norm = nn.LayerNorm(width) if memory_width else None
        self.cross_attention = Attention(width, num_heads, memory_width) if memory_width else None
        self.feed_norm = nn.LayerNorm(width)
        self.feed = feed_forward(width, expansion)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        """x [B, Q, W] with mask [B, Q]; memory [B, N, memory_width] with memory_mask [B, N]."""
        x = x + self.attention(self.attention_norm(x), mask=mask)
        if self.cross_attention is not None and self.cross_norm is not None:
            x = x + self.cross_attention(self.cross_norm(x), memory, memory_mask)
        return x + self.feed(self.feed_norm(x))


def sinusoids(num_positions: int, width: int, scale: float = 0.3) -> Tensor:
    """Sinusoidal position codes [num_positions, width] of root mean square `scale`, as a start for learned ones."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(num_positions)[:, None] * frequencies
    codes = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
    return scale * math.sqrt(2) * codes


def lengths_to_mask(lengths: Tensor, size: int) -> Tensor:
    """lengths [B] (integers) -> mask [B, size], True at the first `lengths[b]` places of row b."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def with_last_estimate(zt: Tensor, absent: Tensor, last: Tensor | None, rows: Tensor | None) -> Tensor:
    """zt [B, L, D] and the last z0_hat, concatenated to [B, L, 2D]. `absent` [D] replaces z0_hat if there is none, or
    in rows where `rows` [B] is False."""
    previous = absent.expand_as(zt)
    if last is not None:
        previous = last.to(zt)
        if rows is not None:
            previous = torch.where(rows[:, None, None], previous, absent.to(zt))
    return torch.cat([zt, previous], dim=-1)


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
