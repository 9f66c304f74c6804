"""The conditions of rows as tensors: labels, and the memories of the sources."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ladle.autoencoder.encoding import store_latents, store_texts
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.data.rows import Row
from ladle.data.stores import TokenStore


class ConditionStore:
    """A label and a source, or None, for each row. Equal sources are encoded and stored once. Sources are left out if
    the model takes none.

    Raises UserError: an unknown label.
    """

    def __init__(self, reader: SourceReader, labels: Sequence[str | None], sources: Sequence[str | None]):
        ids = reader.config.label_ids(labels)
        self.label_ids = ids if reader.config.labels else None
        unique = sorted({source for source in sources if source is not None}) if reader.config.source else []
        number: dict[str | None, int] = {source: i for i, source in enumerate(unique)}
        self.index = torch.tensor([number.get(source, -1) for source in sources])
        self.sources, self.tokens = None, None
        if unique and reader.source.memory == "latents":
            self.sources = store_latents(reader.autoencoder, unique)
        elif unique:
            self.sources = store_texts(reader.autoencoder, unique, reader.read, tokenize=reader.tokenize)
        if unique and reader.autoencoder.condition is not None:
            self.tokens = TokenStore(reader.autoencoder.backbone.tokenizer, unique, reader.source.max_tokens)

    @classmethod
    def of(cls, reader: SourceReader, rows: Sequence[Row]) -> Self:
        """The conditions of rows of data, as far as the model takes them."""
        labels = [row.get("label") if reader.config.labels else None for row in rows]
        return cls(reader, labels, [row.get("source") for row in rows])

    def gather(self, rows: Tensor) -> RawCondition:
        """rows [B] -> their conditions. The mask is all False in rows without a source."""
        raw = RawCondition(None if self.label_ids is None else self.label_ids[rows])
        if self.sources is None:
            return raw
        index = self.index[rows]
        there, known = (index >= 0)[:, None], index.clamp_min(0)
        source, mask = self.sources.gather(known)
        raw = replace(raw, source=source, source_mask=mask & there)
        if self.tokens is None:
            return raw
        tokens = self.tokens.gather(known)
        return replace(raw, source_ids=tokens["input_ids"], source_ids_mask=tokens["attention_mask"] & there)

    def of_rows(self, rows: Tensor) -> Self:
        """The conditions of some rows, in that order."""
        part = copy(self)
        part.index = self.index[rows]
        part.label_ids = None if self.label_ids is None else self.label_ids[rows]
        return part
