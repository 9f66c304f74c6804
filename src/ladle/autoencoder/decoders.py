"""Memory -> token ids: the backbone's autoregressive decoder, or a parallel one that writes every position at once."""

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ladle.autoencoder.backbone import Backbone
from ladle.config import Config
from ladle.layers import Block


class ParallelDecoderConfig(Config):
    """num_layers: bidirectional layers above the memory; 0 leaves the parallel decoder out."""

    num_layers: int = Field(1, ge=0)
    num_heads: int = Field(4, ge=1)


class ParallelDecoder(nn.Module):
    """One bidirectional pass: logits for every position; the text ends at the first end token.

    Over position-aligned latents the memory already has a place for each token; over a Perceiver's, learned
    position queries read it by cross-attention.
    """

    def __init__(self, config: ParallelDecoderConfig, width: int, vocab_size: int, max_tokens: int, aligned: bool):
        super().__init__()
        self.queries = None if aligned else nn.Parameter(0.02 * torch.randn(max_tokens, width))
        self.layers = nn.ModuleList(
            Block(width, config.num_heads, memory_width=None if aligned else width) for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, memory: Tensor, mask: Tensor, embedding: Tensor) -> Tensor:
        """memory [B, N, W], mask [B, N], embedding [V, W] (the backbone's, shared) -> logits [B, S, V].

        S is N over aligned latents and `max_tokens` over a Perceiver's.
        """
        if self.queries is None:
            x = memory
            for layer in self.layers:
                x = layer(x, mask)
        else:
            x = self.queries.expand(memory.shape[0], -1, -1)
            for layer in self.layers:
                x = layer(x, None, memory, mask)
        return F.linear(self.norm(x), embedding, self.bias)


def parallel_targets(input_ids: Tensor, attention_mask: Tensor, size: int, end: int) -> tuple[Tensor, Tensor]:
    """Targets [B, size] and weights [B, size] of the parallel decoder.

    The place after the text holds the end token already; one more is asked for where there is room, so that a
    decoder that overlooks the first end token still finds one.
    """
    size = min(size, input_ids.shape[1] + 1)
    ids = input_ids.masked_fill(~attention_mask, end)
    ids = F.pad(ids, (0, max(0, size - ids.shape[1])), value=end)[:, :size]
    weights = F.pad(attention_mask, (1, 0), value=True)[:, :size]
    return ids, weights


def autoregressive_ids(backbone: Backbone, memory: Tensor, mask: Tensor, **options: Any) -> Tensor:
    """Greedy by default; `num_beams`, or `do_sample` with `top_p` and `temperature`, as transformers names them.

    Sampling uses torch's global generator (transformers takes no other), so it is forked around the call.
    """
    with torch.random.fork_rng(enabled=bool(options.get("do_sample"))):
        return backbone.generate(memory, mask, **options)


def parallel_ids(
    logits: Tensor, mask: Tensor, end: int, *, do_sample: bool = False, temperature: float = 1.0
) -> Tensor:
    """logits [B, S, V], mask [B, S] of the places that exist -> ids [B, S]; all is `end` after the first `end`."""
    if do_sample:
        probabilities = (logits.float() / temperature).softmax(-1)
        ids = torch.multinomial(probabilities.flatten(0, 1), 1).view(logits.shape[:2])
    else:
        ids = logits.argmax(-1)
    ids = ids.masked_fill(~mask, end)
    return ids.masked_fill((ids == end).cumsum(1) > 0, end)
