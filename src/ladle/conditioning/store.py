"""The conditions of rows as tensors: labels, attributes, and the memories of the sources."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ladle.autoencoder.encoding import store_latents, store_texts
from ladle.conditioning.config import LABEL, SOURCE
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.data.rows import Row
from ladle.data.stores import TokenStore


class ConditionStore:
    """A label and a source, or None, and attributes by name for each row. Equal sources are encoded and stored once.
    Sources are left out if the model takes none.

    attributes: of each row; None: no row has one. Raises UserError: an unknown label, attribute or value.
    """

    def __init__(
        self,
        reader: SourceReader,
        labels: Sequence[str | None],
        sources: Sequence[str | None],
        attributes: Sequence[Mapping[str, str]] | None = None,
    ):
        self.names = tuple(reader.config.attributes)
        ids = reader.config.label_ids(labels)
        self.label_ids = ids if reader.config.labels else None
        ids = reader.config.attribute_ids(attributes or [{}] * len(labels))
        self.attribute_ids = ids if reader.config.attributes else None
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
        attributes = [row.get("attributes", {}) if reader.config.attributes else {} for row in rows]
        return cls(reader, labels, [row.get("source") for row in rows], attributes)

    def gather(self, rows: Tensor) -> RawCondition:
        """rows [B] -> their conditions. The mask is all False in rows without a source."""
        attributes = None if self.attribute_ids is None else self.attribute_ids[rows]
        raw = RawCondition(None if self.label_ids is None else self.label_ids[rows], attribute_ids=attributes)
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
        part.attribute_ids = None if self.attribute_ids is None else self.attribute_ids[rows]
        return part

    def without(self, lost: Collection[str]) -> Self:
        """The same rows without the conditions of these names."""
        part = copy(self)
        if LABEL in lost and self.label_ids is not None:
            part.label_ids = torch.full_like(self.label_ids, -1)
        if SOURCE in lost:
            part.index = torch.full_like(self.index, -1)
        if self.attribute_ids is not None:
            columns = [number for number, name in enumerate(self.names) if name in lost]
            part.attribute_ids = self.attribute_ids.clone()
            part.attribute_ids[:, columns] = -1
        return part
