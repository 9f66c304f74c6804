"""Latents of a whole data set in memory, so that the diffusion stage never runs the encoder."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.layers import lengths_to_mask
from ladle.source import SourceReader


class VectorStore:
    """Sequences of vectors of varying length, packed end to end in half precision.

    Args:
        vectors: [T, C], all sequences one after another.
        lengths: [N], how many vectors each sequence has.
        num_tokens: that were encoded into all of them; 0: not from texts.
    """

    def __init__(self, vectors: Tensor, lengths: Tensor, num_tokens: int = 0):
        self.vectors, self.lengths, self.num_tokens = vectors, lengths, num_tokens
        self.starts = torch.cumsum(lengths, 0) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [B] -> vectors [B, longest, C] in float32, zero where the mask [B, longest] is False."""
        lengths = self.lengths[rows]
        mask = lengths_to_mask(lengths, int(lengths.max()))
        places = self.starts[rows][:, None] + torch.arange(mask.shape[1])
        values = self.vectors[places.clamp_max(len(self.vectors) - 1)].float()
        return values * mask[..., None], mask


def length_order(texts: Sequence[str]) -> list[int]:
    """Row numbers from the longest text to the shortest: batches in this order hold little padding."""
    return sorted(range(len(texts)), key=lambda i: -len(texts[i]))


@torch.no_grad()
def store_texts(
    autoencoder: TextAutoencoder,
    texts: Sequence[str],
    encode: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]],
    batch_size: int = 256,
    bf16: bool = False,
    tokenize: Callable[[Iterator[str]], dict[str, Tensor]] | None = None,
) -> VectorStore:
    """Run `encode` (tokens -> vectors [B, N, C] and mask [B, N]) over all texts, in their order of rows.

    tokenize: in place of the backbone's. bf16: several times faster where the processor has units for it; the error is
    about a hundredth of the vectors.
    """
    device = next(autoencoder.parameters()).device
    order = length_order(texts)
    parts: list[Tensor] = [torch.empty(0)] * len(texts)
    num_tokens = 0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = (tokenize or autoencoder.backbone.tokenize)(texts[i] for i in rows)
        num_tokens += int(tokens["attention_mask"].sum())
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            vectors, mask = encode({name: tensor.to(device) for name, tensor in tokens.items()})
        packed = vectors[mask].half().cpu().split(mask.sum(1).tolist())
        for row, part in zip(rows, packed, strict=True):
            parts[row] = part
    return VectorStore(torch.cat(parts), torch.tensor([len(part) for part in parts]), num_tokens)


def store_latents(autoencoder: TextAutoencoder, texts: Sequence[str], bf16: bool = False) -> VectorStore:
    """z0 of every text; `bf16` as in `store_texts`."""

    def encode(tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        latents = autoencoder.encode(**tokens)
        return latents.values, latents.mask

    return store_texts(autoencoder, texts, encode, bf16=bf16)


def fit_normaliser(autoencoder: TextAutoencoder, texts: Sequence[str], max_rows: int = 5_000) -> None:
    """Give z0 of these texts mean 0 and variance 1 in each channel, from up to `max_rows` of them."""
    chosen = np.random.default_rng(0).permutation(len(texts))[:max_rows]
    store = store_latents(autoencoder, [texts[i] for i in chosen])

    def batches() -> Iterator[Latents]:
        for vectors in store.vectors.split(65_536):
            yield Latents(vectors.float()[None], torch.ones(1, len(vectors), dtype=torch.bool))

    autoencoder.normaliser.fit(batches())


class SourceStore:
    """What the denoiser reads of each row's source text; equal sources are encoded and kept once."""

    def __init__(self, reader: SourceReader, sources: Sequence[str | None]):
        unique = sorted({source for source in sources if source is not None})
        number = {source: i for i, source in enumerate(unique)}
        self.index = torch.tensor([-1 if source is None else number[source] for source in sources])
        self.store = store_texts(reader.autoencoder, unique, reader.read, tokenize=reader.tokenize)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [B] -> memory [B, M, C] and its mask [B, M]; no place of a row without a source is True."""
        index = self.index[rows]
        vectors, mask = self.store.gather(index.clamp_min(0))
        return vectors, mask & (index >= 0)[:, None]


def count_cut(tokenizer: Any, texts: list[str], limit: int) -> int:
    """How many texts are longer than `limit` tokens. Tokenizes only those long enough to be in doubt."""
    # A token is a byte at least; a space before the text, a start and an end token may come with it.
    long = [text for text in texts if len(text.encode()) + 3 > limit]
    return sum(len(ids) > limit for ids in tokenizer(long)["input_ids"]) if long else 0
