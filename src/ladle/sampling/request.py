"""The input of one call of `generate`, a seed and conditions for each text, and its finished samples."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, Self

import numpy as np
import torch

from ladle.checks import MAX_SEED, check_list, check_texts, check_whole
from ladle.conditioning.config import LABEL, SOURCE, ConditionConfig
from ladle.data.labels import own_label
from ladle.errors import UserError
from ladle.seeding import check_seeds

LABELS = str | Number | np.bool_  # the types of one label: a label column may hold numbers
Values = str | int | Iterable[str | int | None] | None  # one value for all samples, or one for each


@dataclass(frozen=True)
class Sample:
    """A finished text and where it comes from."""

    text: str
    seed: int
    """Draws the same text again, with the same conditions and options."""
    label: str | None
    source: str | None
    latents: torch.Tensor = field(repr=False, compare=False)
    """The latents that the text was decoded from: [L, D], normalised, float32, on the CPU."""
    score: float | None
    """The score by which the text was chosen among its candidates; higher is better. With `choose="label"` it is the
    probability of the label, or of the attribute that is least probable. None if there was no choice: only one
    candidate, or only one that could be kept."""
    log_snr: float | None = None
    """Log-SNR of the latents if the sampler handed them over with noise (plans); None: they have none."""
    attributes: dict[str, str] = field(default_factory=dict)
    """The attributes that were asked for, by name."""


@dataclass(frozen=True)
class Request:
    """A seed, a label or None, a source or None, and attributes by name for each text."""

    seeds: list[int]
    labels: list[str | None]
    sources: list[str | None]
    attributes: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.attributes:
            self.attributes.extend({} for _ in self.seeds)

    @classmethod
    def line_up(
        cls,
        num_samples: int | None = None,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        label: Values = None,
        source: str | Iterable[str | None] | None = None,
        attributes: Mapping[str, Values] | None = None,
        known: ConditionConfig | None = None,
        *,
        counted: str = "num_samples",
    ) -> Self:
        """A request with lists of equal length. A single label, source or value applies to all samples. Seeds count up
        from `seed`. Without `seed` and `seeds` the first seed is random. known: the model's conditions, whose labels
        and values may be given in other spellings (`ladle.data.labels`). counted: what `num_samples` counts, for
        messages.

        Raises UserError: values of the wrong type, lengths that disagree, none asked for, both `seed` and `seeds`, a
        seed out of range, an unknown attribute.
        """
        known = known or ConditionConfig()
        if seed is not None and seeds is not None:
            raise UserError("both seed and seeds are given; give one of them")
        lists: dict[str, list[Any]] = {}
        if seeds is not None:
            lists["seeds"] = check_seeds(seeds)
        if attributes is not None and not isinstance(attributes, Mapping):
            raise UserError(f"attributes are {attributes!r:.60}; give a mapping such as {{'food': 'Italian'}}")
        values: dict[str, Any] = {LABEL: label, **(attributes or {})}
        for name in attributes or {}:
            known.check_attribute(name)
        several = {
            name: check_list(name, value, f"{_one(name)}, or a list with one for each text")
            for name, value in values.items()
            if value is not None and not isinstance(value, LABELS)
        }
        if source is not None:
            texts = check_texts(source, "source", optional=True)
            source, lists = (source, lists) if isinstance(source, str) else (None, lists | {"source": texts})
        counts: dict[str, int] = {} if num_samples is None else {counted: check_whole(counted, num_samples)}
        counts |= {name: len(own) for name, own in (several | lists).items()}
        if len(set(counts.values())) > 1:
            raise UserError("these lengths disagree: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        count = check_whole("num_samples", next(iter(counts.values()), 1))
        first = fresh_seed(count) if seed is None else check_whole("seed", seed, 0, MAX_SEED + 1 - count)
        lined_up: dict[str, list[str | None]] = {}
        for name, value in values.items():
            given = several.get(name, [value] * count)
            for one in given:
                if not isinstance(one, LABELS | None):
                    wrong = f"{one!r:.60} is not {_one(name)}"
                    raise UserError(f"{wrong}; give a string or a number for each text, or None")
            lined_up[name] = [own_label(one, known.values.get(name, ())) for one in given]
        labels = lined_up.pop(LABEL)
        rows = [{name: own[i] for name, own in lined_up.items()} for i in range(count)]
        return cls(
            lists.get("seeds", list(range(first, first + count))),
            labels,
            lists.get("source", [source] * count),
            [{name: value for name, value in row.items() if value is not None} for row in rows],
        )

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, rows: Iterable[int]) -> "Request":
        """The request for some rows, in that order."""
        rows = list(rows)
        return Request(
            [self.seeds[row] for row in rows],
            [self.labels[row] for row in rows],
            [self.sources[row] for row in rows],
            [self.attributes[row] for row in rows],
        )

    def classes(self, row: int) -> dict[str, str]:
        """The label and the attributes of a row, by name, as far as they are given."""
        label = self.labels[row]
        return ({} if label is None else {LABEL: label}) | self.attributes[row]

    def names(self, row: int) -> frozenset[str]:
        """The names of all conditions of a row."""
        return frozenset([*self.classes(row), *([] if self.sources[row] is None else [SOURCE])])

    def sample(self, row: int, text: str, latents: torch.Tensor, score: float | None, log_snr: float | None) -> Sample:
        """The finished sample of a row."""
        seed, label, source = self.seeds[row], self.labels[row], self.sources[row]
        return Sample(text, seed, label, source, latents, score, log_snr, self.attributes[row])


def _one(name: str) -> str:
    return "a label" if name == LABEL else f"a value of {name}"


def fresh_seed(count: int) -> int:
    """A random first seed for `count` seeds that count up."""
    return secrets.randbelow(MAX_SEED + 2 - count)
