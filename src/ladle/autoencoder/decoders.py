"""Memory -> token ids: the backbone's autoregressive decoder, or a parallel decoder that writes all tokens at once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.choice import chosen_ids
from ladle.autoencoder.lexicon import Lexicon
from ladle.autoencoder.loop import Draft, Ending
from ladle.layers import Block
from ladle.seeding import SampleNoise


class ParallelDecoder(nn.Module):
    """One bidirectional pass gives logits for every position. The text ends at the first end token.

    With position-aligned latents the memory already has a place for each token. With a Perceiver's latents, learned
    position queries read the memory by cross-attention.
    """

    def __init__(self, num_layers: int, width: int, num_heads: int, vocab_size: int, max_tokens: int, aligned: bool):
        super().__init__()
        self.queries = None if aligned else nn.Parameter(0.02 * torch.randn(max_tokens, width))
        self.layers = nn.ModuleList(
            Block(width, num_heads, memory_width=None if aligned else width) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, memory: Tensor, mask: Tensor, embedding: Tensor, num_places: int | None = None) -> Tensor:
        """memory [B, N, W], mask [B, N], embedding [V, W] (the backbone's, shared) -> logits [B, S, V].

        S is N for aligned latents and `max_tokens` for a Perceiver's. A smaller `num_places` computes only the first
        positions, with the same logits.
        """
        if self.queries is None:
            x = memory
            for layer in self.layers:
                x = layer(x, mask)
        else:
            x = self.queries.expand(memory.shape[0], -1, -1)
            for layer in self.layers:
                x = layer(x, None, memory, mask)
        return F.linear(self.norm(x[:, :num_places]), embedding, self.bias)


def parallel_targets(input_ids: Tensor, attention_mask: Tensor, size: int, end: int) -> tuple[Tensor, Tensor]:
    """Targets [B, size] and weights [B, size] of the parallel decoder.

    The place after the text already holds the end token. If there is room, one more end token follows, so that a
    decoder that misses the first end token still finds one.
    """
    size = min(size, input_ids.shape[1] + 1)
    ids = input_ids.masked_fill(~attention_mask, end)
    ids = F.pad(ids, (0, max(0, size - ids.shape[1])), value=end)[:, :size]
    weights = F.pad(attention_mask, (1, 0), value=True)[:, :size]
    return ids, weights


def autoregressive_ids(
    backbone: Backbone,
    memory: Tensor,
    mask: Tensor,
    *,
    noise: SampleNoise | None = None,
    num_beams: int = 1,
    do_sample: bool = False,
    top_p: float = 1.0,
    temperature: float = 1.0,
    drafts: Sequence[Draft] | None = None,
    lexicon: Lexicon | None = None,
    wording: Tensor | None = None,
    ending: Ending | None = None,
) -> Tensor:
    """Greedy by default; or drawn (`do_sample`) with `top_p` and `temperature`; or a search by transformers with
    `num_beams` beams.

    wording: [B, S], the texts' own numbers (`ladle.autoencoder.wording`), which then choose all words. noise: one
    random stream per row to draw with, so that a text does not depend on its batch; by default torch's global
    generator, which is left as it was. drafts: one per row (`ladle.autoencoder.loop`); the texts are the same without
    them. ending: when texts may end; a search by beams does not look.
    """
    if num_beams > 1:
        return backbone.search(memory, mask, num_beams)
    uniform = None
    if do_sample and temperature:
        size = (backbone.max_tokens,)
        with torch.random.fork_rng(devices=()):  # (the caller's next random numbers stay what they are)
            uniform = torch.rand(len(memory), *size) if noise is None else noise.uniform(size)
        uniform = uniform.to(memory.device)
    return backbone.write(
        memory, mask, uniform=uniform, top_p=top_p, temperature=temperature, drafts=drafts, lexicon=lexicon,
        wording=wording, ending=ending,
    )  # fmt: skip


def parallel_ids(
    logits: Tensor,
    mask: Tensor,
    end: int,
    *,
    do_sample: bool = False,
    top_p: float = 1.0,
    temperature: float = 1.0,
    noise: SampleNoise | None = None,
) -> Tensor:
    """logits [B, S, V], mask [B, S] of the places that exist -> ids [B, S], with only `end` after the first `end`.

    noise: one random stream per row to sample with; by default torch's global generator.
    """
    if do_sample:
        if noise is None:
            uniform = torch.rand(logits.shape[:2])
        else:  # a stream's j-th number is its j-th place's, however long the batch is
            uniform = torch.stack([noise.uniform() for _ in range(logits.shape[1])], dim=1)
        ids = chosen_ids(logits.flatten(0, 1), uniform.flatten().to(logits.device), top_p, temperature)
        ids = ids.view(logits.shape[:2])
    else:
        ids = logits.argmax(-1)
    ids = ids.masked_fill(~mask, end)
    return ids.masked_fill((ids == end).cumsum(1) > 0, end)
