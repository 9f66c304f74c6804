"""LanguageDecoder: a causal transformer that writes text token by token, and reads a memory while it writes.

Axes: B batch, S text tokens, N memory vectors, W width, H heads, K head size, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.autoencoder.output_loss import output_loss

ROTARY_BASE = 10_000.0


class LanguageDecoder(nn.Module):
    """A decoder-only transformer over a memory and a text: p(next token | memory, tokens so far).

    Every layer's keys and values are those of the memory and of the text so far, by the same maps. So a memory costs
    no layers of its own, and its keys and values are computed once a text. Text tokens have rotary positions (arXiv
    2104.09864). The memory is a set: its vectors carry their places themselves. Queries and keys are RMS-normalised,
    the feed-forward network is a squared ReLU (arXiv 2109.08668), and what a layer adds is zero at the start.

    vocab_size: V, input and output share their vectors. max_tokens: the longest text.
    """

    ragged = True
    blocks: Any
    cosines: Tensor
    sines: Tensor

    def __init__(self, vocab_size: int, width: int, num_layers: int, num_heads: int, max_tokens: int):
        super().__init__()
        self.max_tokens, self.num_heads = max_tokens, num_heads
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(LanguageBlock(width, num_heads) for _ in range(num_layers))
        self.make_tables()

    def make_tables(self) -> None:
        """The rotary angles, which are not stored with the weights."""
        cosines, sines = rotary_tables(self.max_tokens, self.embedding.weight.shape[1] // self.num_heads)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(
        self,
        ids: Tensor,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """ids [B, S] (start token first), memory [B, N, W], memory_mask [B, N] -> logits [B, S, V] of the tokens after
        each. Padding may only follow a text.

        targets: [B, S], the tokens after each (-100: none): then the result is their mean cross-entropy, a scalar.
        """
        size = ids.shape[1]
        x = self.embedding(ids)
        allowed = torch.ones(size, size, dtype=torch.bool, device=ids.device).tril()[None, None]
        if memory is not None:
            seen = x.new_ones(1, memory.shape[1], dtype=torch.bool) if memory_mask is None else memory_mask
            seen = seen[:, None, None, :].expand(-1, 1, size, -1)
            allowed = torch.cat([seen, allowed.expand(len(seen), -1, -1, -1)], dim=-1)
        rotation = self.cosines[:size].to(x.dtype), self.sines[:size].to(x.dtype)
        for block in self.blocks:
            x = block(x, memory, allowed, rotation)
        if targets is not None:
            return output_loss(rms(x), self.embedding.weight, targets)
        return self.logits(x)

    def begin(self, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int) -> "Cache":
        """An empty text for each of `batch` rows: the keys and values of their memories [B, N, W], and room for those
        of `max_tokens` tokens."""
        return Cache(self, memory, memory_mask, batch, max_tokens)

    def step(self, ids: Tensor, cache: "Cache") -> Tensor:
        """ids [B, n], the next tokens of every row -> logits [B, n, V] of the tokens after each. `cache` grows by n."""
        x = self.embedding(ids)
        places = cache.lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        rotation = self.cosines[places][:, None].to(x.dtype), self.sines[places][:, None].to(x.dtype)
        allowed = cache.allowed(places)
        for number, block in enumerate(self.blocks):
            x = block.step(x, cache, number, places, allowed, rotation)
        cache.lengths = cache.lengths + ids.shape[1]
        return self.logits(x)

    def set_dropout(self, dropout: float) -> None:
        """The share of what each layer adds that training drops from now on."""
        for block in self.blocks:
            block.dropout = dropout

    def logits(self, x: Tensor) -> Tensor:
        """Last hidden states [..., W] -> logits [..., V]."""
        return F.linear(rms(x), self.embedding.weight)


class LanguageBlock(nn.Module):
    """Attention over memory and earlier tokens, and a feed-forward network; both read RMS-normalised states."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads, self.dropout = num_heads, 0.0
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, memory: Tensor | None, allowed: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, S, W], memory [B, N, W], allowed [B or 1, 1, S, N + S] -> [B, S, W]."""
        states = rms(x)
        queries = rms(self.heads(self.query(states)))
        keys, values = self.keys_values(states)
        scores = rotated(queries, *rotation) @ rotated(keys, *rotation).transpose(-1, -2)
        if memory is not None:
            memory_keys, memory_values = self.keys_values(rms(memory))
            scores = torch.cat([queries @ memory_keys.transpose(-1, -2), scores], dim=-1)
            values = torch.cat([memory_values, values], dim=2)
        scores = (scores * queries.shape[-1] ** -0.5).masked_fill(~allowed, torch.finfo(scores.dtype).min)
        mixed = scores.softmax(-1).to(values.dtype) @ values
        x = x + self._dropped(self.output(mixed.transpose(1, 2).flatten(2)))
        return x + self._dropped(self.feed(rms(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def step(
        self,
        x: Tensor,
        cache: "Cache",
        number: int,
        places: Tensor,
        allowed: Tensor | None,
        rotation: tuple[Tensor, Tensor],
    ) -> Tensor:
        """As `forward`, for the next tokens x [B, n, W] at `places` [B, n] of texts whose earlier keys and values are
        those of layer `number` in `cache`."""
        states = rms(x)
        queries = rms(self.heads(self.query(states)))
        keys, values = self.keys_values(states)
        cache.put(number, rotated(keys, *rotation), values, places)
        scores = rotated(queries, *rotation) @ cache.keys[number, :, :, : cache.size].transpose(-1, -2)
        values = cache.values[number, :, :, : cache.size]
        if cache.memory is not None:
            memory_keys, memory_values = cache.memory[number]
            scores = torch.cat([queries @ memory_keys.transpose(-1, -2), scores], dim=-1)
        scores = scores * queries.shape[-1] ** -0.5
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).to(values.dtype)
        if cache.memory is None:
            mixed = weights @ values
        else:
            split = memory_values.shape[2]
            mixed = weights[..., :split] @ memory_values + weights[..., split:] @ values
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.feed(rms(x))

    def heads(self, x: Tensor) -> Tensor:
        """[B, S, W] -> [B, H, S, K]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised states [B, N, W] -> keys (normalised, not rotated) and values, [B, H, N, K] each."""
        keys, values = self.key_value(states).chunk(2, dim=-1)
        return rms(self.heads(keys)), self.heads(values)

    def feed(self, states: Tensor) -> Tensor:
        """Normalised states -> what the feed-forward network adds."""
        return self.down(F.relu(self.up(states)).square())


class Cache:
    """The keys and values of memories and texts, for every layer. Rows may have texts of different lengths.

    lengths: [B], tokens of each row's text so far. A smaller value forgets the last tokens.
    """

    def __init__(
        self, decoder: LanguageDecoder, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int
    ):
        weight = decoder.embedding.weight
        shape = (len(decoder.blocks), batch, decoder.num_heads, max_tokens, weight.shape[1] // decoder.num_heads)
        self.keys, self.values = weight.new_zeros(shape), weight.new_zeros(shape)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=weight.device)
        self.size = 0  # of the longest text, with the tokens of the present step
        self.memory: list[tuple[Tensor, Tensor]] | None = None
        self.memory_mask = memory_mask
        if memory is not None:
            states = rms(memory.to(weight.dtype))
            self.memory = [block.keys_values(states) for block in decoder.blocks]

    def put(self, number: int, keys: Tensor, values: Tensor, places: Tensor) -> None:
        """Write keys and values [B, H, n, K] of layer `number` to `places` [B, n]."""
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)
        if len(places) == 1:  # (a slice is faster than a scatter)
            start = self.size - places.shape[1]
            self.keys[number, :, :, start : self.size] = keys
            self.values[number, :, :, start : self.size] = values
            return
        index = places[:, None, :, None].expand_as(keys)
        self.keys[number].scatter_(2, index, keys)
        self.values[number].scatter_(2, index, values)

    def allowed(self, places: Tensor) -> Tensor | None:
        """Which keys the tokens at `places` [B, n] may read, [B, 1, n, N + size]; None if they may read all."""
        self.size = int(places.max()) + 1
        even = places.shape[1] == 1 and bool((places == places[0]).all())
        if even and (self.memory_mask is None or bool(self.memory_mask.all())):
            return None
        text = torch.arange(self.size, device=places.device) <= places[:, :, None]
        if self.memory is None:
            return text[:, None]
        read = self.memory_mask
        if read is None:
            read = text.new_ones(len(places), self.memory[0][0].shape[2])
        return torch.cat([read[:, None].expand(-1, places.shape[1], -1), text], dim=-1)[:, None]

    def keep(self, rows: Tensor) -> None:
        """Leave out all rows but these."""
        self.keys, self.values, self.lengths = self.keys[:, rows], self.values[:, rows], self.lengths[rows]
        if self.memory is not None:
            self.memory = [(keys[rows], values[rows]) for keys, values in self.memory]
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask[rows]


def rms(x: Tensor) -> Tensor:
    """x / rms(x) over the last axis (arXiv 1910.07467), without a gain."""
    return F.rms_norm(x, x.shape[-1:])


def rotary_tables(num_positions: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, [num_positions, head_size / 2] each."""
    half = head_size // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(ROTARY_BASE) / half))
    angles = torch.arange(num_positions)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x [B, H, S, K] turned by the angles of its positions, [S, K / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1)
