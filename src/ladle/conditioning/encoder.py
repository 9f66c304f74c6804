"""The conditions of samples: a class label, attributes, a source text, all of them or none.

Training drops each condition of some samples, so that one model samples with and without it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from ladle.conditioning.config import LABEL, SOURCE, ConditionConfig
from ladle.layers import Block, sinusoids

# A channel of a label's vector at the start: as much as the noise level's, to which it is added, moves from level to
# level (.17 in a prior over aligned latents). From .02 a training of minutes hardly uses labels (benchmarks/LOG.md).
LABEL_STD = 0.2


@dataclass(frozen=True)
class TensorGroup:
    """A group of tensors. Each field is a tensor or None."""

    def to(self, device: torch.device | str, **options: bool) -> Self:
        """All tensors on `device`."""
        return replace(self, **{name: None if x is None else x.to(device) for name, x in vars(self).items()})

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """Some rows of all tensors."""
        return replace(self, **{name: None if x is None else x[rows] for name, x in vars(self).items()})


@dataclass(frozen=True)
class RawCondition(TensorGroup):
    """The given conditions as tensors. label_ids: [B], -1 for no label. source: [B, M, C] with source_mask [B, M]
    (a row without True has no source), the denoiser's. source_ids: [B, S], the tokens of the source, with
    source_ids_mask [B, S], for a decoder that reads sources. attribute_ids: [B, A], -1 where an attribute has no
    value."""

    label_ids: Tensor | None = None
    source: Tensor | None = None
    source_mask: Tensor | None = None
    source_ids: Tensor | None = None
    source_ids_mask: Tensor | None = None
    attribute_ids: Tensor | None = None

    def given_rows(self, batch: int) -> Tensor:
        """Which of the `batch` rows have a condition, bool [B] on the CPU."""
        given = torch.zeros(batch, dtype=torch.bool)
        if self.label_ids is not None:
            given |= self.label_ids.cpu() >= 0
        if self.source_mask is not None:
            given |= self.source_mask.any(1).cpu()
        if self.attribute_ids is not None:
            given |= (self.attribute_ids >= 0).any(1).cpu()
        return given

    def dropped(self, drop_prob: float) -> "RawCondition":
        """The same, but each condition of each row is lost with probability `drop_prob` (torch's global generator)."""
        raw = self
        if raw.label_ids is not None:
            lost = torch.rand(raw.label_ids.shape, device=raw.label_ids.device) < drop_prob
            raw = replace(raw, label_ids=raw.label_ids.masked_fill(lost, -1))
        if raw.source_mask is not None:
            lost = torch.rand(len(raw.source_mask), 1, device=raw.source_mask.device) < drop_prob
            raw = replace(raw, source_mask=raw.source_mask & ~lost)
            if raw.source_ids_mask is not None:
                raw = replace(raw, source_ids_mask=raw.source_ids_mask & ~lost)
        if raw.attribute_ids is not None:
            lost = torch.rand(raw.attribute_ids.shape, device=raw.attribute_ids.device) < drop_prob
            raw = replace(raw, attribute_ids=raw.attribute_ids.masked_fill(lost, -1))
        return raw

    def only(self, kept: Collection[str], attributes: Sequence[str] = ()) -> "RawCondition":
        """The same rows with the conditions whose names are in `kept` alone: "label", "source", or one of `attributes`,
        the names of the A columns."""
        raw = self
        if raw.label_ids is not None and LABEL not in kept:
            raw = replace(raw, label_ids=torch.full_like(raw.label_ids, -1))
        if SOURCE not in kept:
            masks = {"source_mask": raw.source_mask, "source_ids_mask": raw.source_ids_mask}
            raw = replace(raw, **{name: torch.zeros_like(mask) for name, mask in masks.items() if mask is not None})
        if raw.attribute_ids is not None:
            ids = torch.full_like(raw.attribute_ids, -1)
            columns = [number for number, name in enumerate(attributes) if name in kept]
            ids[:, columns] = raw.attribute_ids[:, columns]
            raw = replace(raw, attribute_ids=ids)
        return raw

    @classmethod
    def joined(cls, parts: Sequence["RawCondition"]) -> "RawCondition":
        """All rows of one part, then those of the next. The parts have the same tensors."""
        every = [vars(part) for part in parts]
        return cls(**{name: None if x is None else torch.cat([own[name] for own in every])
                      for name, x in every[0].items()})  # fmt: skip

    def and_without(self) -> "RawCondition":
        """All rows, followed by the same rows without any condition: [2B]."""
        return self.joined([self, self.only(())])


@dataclass(frozen=True)
class Condition(TensorGroup):
    """The input of the denoiser: an optional vector [B, W], an optional memory [B, M, W] with its mask [B, M]."""

    vector: Tensor | None = None
    memory: Tensor | None = None
    memory_mask: Tensor | None = None


class ConditionEncoder(nn.Module):
    """RawCondition -> Condition, with learned replacements for absent conditions.

    width: W of the denoiser. source_dim: C, channels of the source's states or latents. num_heads: attention heads of
    the layers above the source's memory.
    """

    positions: nn.Parameter | None

    def __init__(self, config: ConditionConfig, width: int, source_dim: int, num_heads: int):
        super().__init__()
        self.config = config
        self.label = None
        if config.labels:
            self.label = nn.Embedding(len(config.labels) + 1, width)  # the last row stands for "no label"
            nn.init.normal_(self.label.weight, std=LABEL_STD)
        # By number: a name may be one that no module can have. (Each one's last row stands for "no value".)
        tables = [nn.Embedding(len(values) + 1, width) for values in config.attributes.values()]
        for table in tables:
            nn.init.normal_(table.weight, std=LABEL_STD)
        self.attributes = nn.ModuleList(tables)
        self.project = None
        if config.source is not None:
            plain = config.source.plain
            norm = nn.Identity() if plain else nn.LayerNorm(source_dim)
            self.project = nn.Sequential(norm, nn.Linear(source_dim, width))
            self.no_source = nn.Parameter(0.02 * torch.randn(width))
            positions = None if plain else nn.Parameter(sinusoids(config.source.max_tokens, width))
            self.register_parameter("positions", positions)
            num_layers = 0 if plain else config.source.num_layers
            self.layers = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
            self.norm = nn.Identity() if plain else nn.LayerNorm(width)
            self.pool = None if plain else nn.Linear(width, width)

    def encode(self, raw: RawCondition, batch: int) -> Condition:
        """raw -> Condition of `batch` rows. Learned replacements fill the conditions that `raw` lacks."""
        vector = memory = mask = None
        if self.label is not None:
            ids = torch.full((batch,), -1) if raw.label_ids is None else raw.label_ids
            ids = ids.to(self.label.weight.device)
            vector = self.label(torch.where(ids < 0, len(self.config.labels), ids))
        for own in attribute_vectors(self.attributes, raw, batch):
            vector = own if vector is None else vector + own
        if self.project is not None:
            memory, mask = self._source(raw, batch)
            if self.pool is not None:
                pooled = self.pool((memory * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
                vector = pooled if vector is None else vector + pooled
        return Condition(vector, memory, mask)

    def _source(self, raw: RawCondition, batch: int) -> tuple[Tensor, Tensor]:
        assert self.project is not None and self.config.source is not None
        x = self.no_source.expand(batch, 1, -1)
        mask = torch.ones(batch, 1, dtype=torch.bool, device=self.no_source.device)
        if raw.source is not None and raw.source_mask is not None:
            longest = self.config.source.max_tokens
            source, source_mask = raw.source[:, :longest], raw.source_mask[:, :longest]
            states = self.project(source.to(self.no_source.dtype))
            if self.positions is not None:
                states = states + self.positions[: source.shape[1]]
            # The stand-in is a first token that only the rows without a source may read.
            x = torch.cat([x.to(states), states], dim=1)
            mask = torch.cat([~source_mask.any(1, keepdim=True), source_mask], dim=1)
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x), mask


def attribute_vectors(tables: Iterable[Any], raw: RawCondition, batch: int) -> list[Tensor]:
    """The vector [B, W] of each attribute, by its table [values + 1, W], whose last row stands for "no value"."""
    found = []
    for number, table in enumerate(tables):
        device, none = table.weight.device, table.num_embeddings - 1
        ids = torch.full((batch,), -1) if raw.attribute_ids is None else raw.attribute_ids[:, number]
        ids = ids.to(device)
        found.append(table(torch.where(ids < 0, none, ids)))
    return found
