"""LanguageDecoder: a causal transformer that writes text token by token, and reads a memory while it writes.

Axes: B batch, S text tokens, N memory vectors, W width, H heads, K head size, V vocabulary.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.autoencoder.output_loss import output_loss

ROTARY_BASE = 10_000.0
FIRST_TOKENS = 32  # for which a cache has room at first: most texts are much shorter than the longest


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

    def set_max_tokens(self, max_tokens: int) -> None:
        """Write texts of at most so many tokens from now on."""
        self.max_tokens = max_tokens
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
        with torch.autocast(self.embedding.weight.device.type, enabled=False):
            return Cache(self, memory, memory_mask, batch, max_tokens)

    def step(self, ids: Tensor, cache: "Cache") -> Tensor:
        """ids [B, n], the next tokens of every row -> logits [B, n, V] of the tokens after each, or of those alone that
        may be written (`Cache.write_only`). `cache` grows by n.

        The same as `forward` in fewer and smaller operations, which are most of the time of a small batch. It has no
        gradients, and computes in the dtype of the weights, under autocast too.
        """
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            now = cache.begin_step(ids.shape[1])
            x = self.embedding(ids).flatten(0, 1)
            for number, block in enumerate(self.blocks):
                x = block.step(x, cache, number, now)
            cache.lengths = [length + ids.shape[1] for length in cache.lengths]
            return F.linear(rms(x), cache.outputs).unflatten(0, ids.shape)

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

    def step(self, x: Tensor, cache: "Cache", number: int, now: "Step") -> Tensor:
        """As `forward`, for the next n tokens x [B n, W] of texts whose earlier keys and values are those of layer
        `number` in `cache`.

        States are divided by their norms. What is missing to an RMS norm is a number, sqrt(W): queries and keys are
        normalised again, and the other maps take it as a factor of their product.
        """
        width, heads, n = x.shape[1], self.num_heads, now.size
        states = unit(x)
        both = x.new_empty(len(x), 2 * width)  # queries and keys side by side, for one norm and one rotation
        torch.mm(states, self.query.weight.t(), out=both[:, :width])
        torch.mm(states, self.key_value.weight[:width].t(), out=both[:, width:])
        values = torch.mm(states, self.key_value.weight[width:].t()).view(-1, n, heads, width // heads)
        both = unit(both.view(-1, n, 2, heads, width // heads), math.sqrt(width))
        turned = turned_by(both, now.rotation)
        cache.put(number, turned[:, :, 1], values, now)
        scores = cache.scores(number, both[:, :, 0], turned[:, :, 0], now)
        mixed = torch.bmm(scores.softmax(-1), cache.values_read(number, now))
        mixed = mixed.unflatten(0, (-1, heads)).transpose(1, 2).reshape(len(x), width)
        x = torch.addmm(x, mixed, self.output.weight.t(), alpha=math.sqrt(width))
        hidden = torch.mm(unit(x), self.up.weight.t()).relu_().square_()
        return torch.addmm(x, hidden, self.down.weight.t(), alpha=width)

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


@dataclass(frozen=True)
class Step:
    """What all layers need for the next n tokens of every row.

    size: n. begin: the place of the first of them, if all rows are equally long. places: [B, n], if they are not. end:
    how many places of the text are read. rotation: complex [B or 1, n, 2, 1, K / 2], for queries and for keys.
    forbidden: [B or 1, 1, n, N + end], the keys that may not be read; None if all may be.
    """

    size: int
    begin: int
    end: int
    places: Tensor | None
    rotation: Tensor
    forbidden: Tensor | None


class Cache:
    """The keys and values of memories and texts, for every layer. Rows may have texts of different lengths.

    lengths: [B], tokens of each row's text so far. A smaller value forgets the last tokens.

    Keys and values are [B H, places, K]. The values of a memory stand before those of the text. Its keys, which meet
    queries that are not turned, are apart: [B H, K, N].
    """

    def __init__(
        self, decoder: LanguageDecoder, memory: Tensor | None, memory_mask: Tensor | None, batch: int, max_tokens: int
    ):
        weight = decoder.embedding.weight
        self.batch, self.heads, self.max_tokens = batch, decoder.num_heads, max_tokens
        self.outputs: Tensor = weight
        self.lengths = [0] * batch
        self.num_memory, self.memory_keys = 0, list[Tensor]()
        self.memory_mask = None if memory is None or memory_mask is None or bool(memory_mask.all()) else memory_mask
        size = weight.shape[1] // self.heads
        # Scores are of queries and keys with norm 1: sqrt(K) is all that is left of RMS norms and of the usual scale.
        scale = math.sqrt(size)
        self.rotations = torch.complex(decoder.cosines.float(), decoder.sines.float())[:, None, None]
        self.rotations = torch.cat([self.rotations * scale, self.rotations], dim=1)
        self.capacity = min(FIRST_TOKENS, max_tokens)
        rows = batch * self.heads
        if memory is not None:
            self.num_memory = memory.shape[1]
            states = unit(memory.detach().to(weight.dtype))
        shape = (rows, self.num_memory + self.capacity, size)
        self.keys = [weight.new_zeros(rows, self.capacity, size) for _ in decoder.blocks]
        self.values = [weight.new_zeros(shape) for _ in decoder.blocks]
        if memory is not None:
            for values, block in zip(self.values, decoder.blocks, strict=True):
                own_keys, own_values = block.key_value(states).chunk(2, dim=-1)
                values[:, : self.num_memory] = block.heads(own_values).flatten(0, 1)
                keys = unit(block.heads(own_keys), math.sqrt(weight.shape[1])) * scale
                self.memory_keys.append(keys.flatten(0, 1).transpose(1, 2).contiguous())

    def write_only(self, tokens: Tensor) -> None:
        """From now on steps give logits of these tokens [U] alone. The copy of their vectors takes less than a step."""
        self.outputs = self.outputs.detach()[tokens]

    def begin_step(self, size: int) -> Step:
        """The next `size` tokens of every row."""
        begin, device = self.lengths[0], self.rotations.device
        end = max(self.lengths) + size
        self._make_room(end)
        places = None
        if self.lengths.count(begin) < self.batch:
            starts = torch.tensor(self.lengths, device=device)
            places = starts[:, None] + torch.arange(size, device=device)
        rotation = self.rotations[begin:end][None] if places is None else self.rotations[places]
        return Step(size, begin, end, places, rotation, self._forbidden(begin, size, end, places))

    def _make_room(self, end: int) -> None:
        if end <= self.capacity:
            return
        more = max(end, min(2 * self.capacity, self.max_tokens)) - self.capacity
        self.capacity += more
        self.keys = [F.pad(keys, (0, 0, 0, more)) for keys in self.keys]
        self.values = [F.pad(values, (0, 0, 0, more)) for values in self.values]

    def _forbidden(self, begin: int, size: int, end: int, places: Tensor | None) -> Tensor | None:
        device = self.rotations.device
        if places is None and size == 1 and self.memory_mask is None:
            return None
        if places is None:
            places = torch.arange(begin, end, device=device)[None]
        text = torch.arange(end, device=device) > places[:, :, None]
        if self.num_memory == 0:
            return text[:, None]
        unread = text.new_zeros(1, self.num_memory) if self.memory_mask is None else ~self.memory_mask
        rows = max(len(text), len(unread))
        unread = unread[:, None].expand(rows, size, -1)
        return torch.cat([unread, text.expand(rows, -1, -1)], dim=-1)[:, None]

    def put(self, number: int, keys: Tensor, values: Tensor, now: Step) -> None:
        """Write keys and values [B, n, H, K] of layer `number` to their places."""
        own_keys = self.keys[number].unflatten(0, (-1, self.heads))
        own_values = self.values[number].unflatten(0, (-1, self.heads))
        if now.places is None:  # (a slice is faster than an index)
            own_keys[:, :, now.begin : now.end] = keys.transpose(1, 2)
            own_values[:, :, self.num_memory + now.begin : self.num_memory + now.end] = values.transpose(1, 2)
            return
        rows = torch.arange(self.batch, device=keys.device)[:, None]
        own_keys[rows, :, now.places] = keys.to(own_keys.dtype)
        own_values[rows, :, self.num_memory + now.places] = values.to(own_values.dtype)

    def scores(self, number: int, plain: Tensor, turned: Tensor, now: Step) -> Tensor:
        """Queries [B, n, H, K], as they are and turned, with norm 1 and sqrt(K) -> scores [B H, n, N + end] of the
        memory and of the text."""
        found = torch.bmm(self._by_head(turned, now), self.keys[number][:, : now.end].transpose(1, 2))
        if self.num_memory:
            of_memory = torch.bmm(self._by_head(plain, now), self.memory_keys[number])
            found = torch.cat([of_memory, found], dim=-1)
        if now.forbidden is not None:
            found.unflatten(0, (-1, self.heads)).masked_fill_(now.forbidden, torch.finfo(found.dtype).min)
        return found

    def _by_head(self, x: Tensor, now: Step) -> Tensor:
        """[B, n, H, K] -> [B H, n, K]."""
        return x.transpose(1, 2).reshape(self.batch * self.heads, now.size, -1)

    def values_read(self, number: int, now: Step) -> Tensor:
        """Values [B H, N + end, K]."""
        return self.values[number][:, : self.num_memory + now.end]

    def keep(self, rows: Tensor) -> None:
        """Leave out all rows but these."""

        def kept(tensors: list[Tensor]) -> list[Tensor]:
            return [x.unflatten(0, (-1, self.heads))[rows].flatten(0, 1) for x in tensors]

        self.keys, self.values, self.memory_keys = kept(self.keys), kept(self.values), kept(self.memory_keys)
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        self.batch = len(self.lengths)
        if self.memory_mask is not None:
            mask = self.memory_mask[rows]
            self.memory_mask = None if bool(mask.all()) else mask


def unit(x: Tensor, divided: float = 1.0) -> Tensor:
    """x with norm 1 over the last axis: `rms` but for the square root of its size, in a third of the time.

    divided: what x was divided by before. (`rms` adds a little to the mean square, which shows where x is small.)
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.hypot(norm, _floor(math.sqrt(x.shape[-1]) / divided, x.dtype))


@cache
def _floor(size: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(size * math.sqrt(torch.finfo(dtype).eps), dtype=dtype, device="cpu")


def turned_by(x: Tensor, rotation: Tensor) -> Tensor:
    """x [..., K] turned by complex numbers [..., K / 2]. It is `rotated` with the two halves interleaved: products of
    queries and keys are the same in any order of their channels."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.view_as_real(torch.complex(first, second) * rotation).flatten(-2).to(x.dtype)


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
