"""The conditions of all rows as tensors: labels, and the memories of the sources."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ladle.autoencoder.encoding import store_texts
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.data.rows import Row


class SourceStore:
    """The memory of each row's source text. Equal sources are encoded and stored once."""

    def __init__(self, reader: SourceReader, sources: Sequence[str | None]):
        unique = sorted({source for source in sources if source is not None})
        number = {source: i for i, source in enumerate(unique)}
        self.index = torch.tensor([-1 if source is None else number[source] for source in sources])
        self.store = store_texts(reader.autoencoder, unique, reader.read, tokenize=reader.tokenize)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [B] -> memory [B, M, C] and its mask [B, M], which is all False in rows without a source."""
        index = self.index[rows]
        vectors, mask = self.store.gather(index.clamp_min(0))
        return vectors, mask & (index >= 0)[:, None]


class ConditionStore:
    """Labels and sources of all rows, as tensors."""

    def __init__(self, reader: SourceReader, rows: Sequence[Row]):
        config = reader.config
        self.label_ids = config.label_ids([row.get("label") for row in rows]) if config.labels else None
        self.sources = None
        sources = [row.get("source") for row in rows]
        if config.source and any(source is not None for source in sources):
            self.sources = SourceStore(reader, sources)

    def gather(self, rows: Tensor) -> RawCondition:
        """rows [B] -> their conditions."""
        source = mask = None
        if self.sources is not None:
            source, mask = self.sources.gather(rows)
        return RawCondition(None if self.label_ids is None else self.label_ids[rows], source, mask)
