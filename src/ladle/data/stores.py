"""All texts of a set in memory, packed end to end: as token ids, or as vectors."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from ladle.checks import check_whole
from ladle.layers import lengths_to_mask


class VectorStore:
    """Sequences of vectors of varying length, packed end to end in half precision.

    Args:
        vectors: [T, C], all sequences one after another.
        lengths: [N], how many vectors each sequence has.
        num_tokens: number of tokens that they were encoded from; 0 if they are not from texts.
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


def length_batches(items: Sequence[Sized], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches, from the longest item to the shortest: batches in this order hold little padding.

    Raises:
        UserError: `batch_size` is below 1.
    """
    batch_size = check_whole("batch_size", batch_size)
    order = sorted(range(len(items)), key=lambda i: -len(items[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def count_cut(tokenizer: Any, texts: Sequence[str], limit: int) -> int:
    """How many texts are longer than `limit` tokens. Only texts that may be too long are tokenized."""
    # A token is a byte at least; a space before the text, a start and an end token may come with it.
    long = [text for text in texts if len(text.encode()) + 3 > limit]
    return sum(len(ids) > limit for ids in tokenizer(long)["input_ids"]) if long else 0


class TokenStore:
    """Token ids of all texts, packed."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], max_tokens: int):
        parts: list[list[int]] = []
        for start in range(0, len(texts), 10_000):
            chunk = list(texts[start : start + 10_000])
            parts += tokenizer(chunk, truncation=True, max_length=max_tokens)["input_ids"]
        self.pad = tokenizer.pad_token_id
        self.lengths = torch.tensor([len(part) for part in parts])
        self.ids = torch.tensor([token for part in parts for token in part], dtype=torch.int32)
        self.starts = torch.cumsum(self.lengths, 0) - self.lengths

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """rows [B] -> input_ids and attention_mask, [B, longest]."""
        mask = lengths_to_mask(self.lengths[rows], int(self.lengths[rows].max()))
        places = (self.starts[rows][:, None] + torch.arange(mask.shape[1])).clamp_max(len(self.ids) - 1)
        return {"input_ids": self.ids[places].long().masked_fill(~mask, self.pad), "attention_mask": mask}
