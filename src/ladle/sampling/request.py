"""The input of one call of `generate`, a seed, a label and a source for each text, and its finished samples."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, Self

import numpy as np
import torch

from ladle.checks import MAX_SEED, check_list, check_texts, check_whole
from ladle.data.labels import own_label
from ladle.errors import UserError
from ladle.seeding import check_seeds

LABELS = str | Number | np.bool_  # the types of one label: a label column may hold numbers


@dataclass(frozen=True)
class Sample:
    """A finished text and where it comes from."""

    text: str
    seed: int
    """Draws the same text again, with the same label, source and options."""
    label: str | None
    source: str | None
    latents: torch.Tensor = field(repr=False, compare=False)
    """The latents that the text was decoded from: [L, D], normalised, float32, on the CPU."""
    score: float | None
    """The score by which the text was chosen among its candidates; higher is better. With `choose="label"` it is the
    probability of the label. None if there was no choice: only one candidate, or only one that could be kept."""
    log_snr: float | None = None
    """Log-SNR of the latents if the sampler handed them over with noise (plans); None: they have none."""


@dataclass(frozen=True)
class Request:
    """A seed, a label or None, a source or None for each text."""

    seeds: list[int]
    labels: list[str | None]
    sources: list[str | None]

    @classmethod
    def line_up(
        cls,
        num_samples: int | None = None,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        label: str | int | Iterable[str | int | None] | None = None,
        source: str | Iterable[str | None] | None = None,
        known: Sequence[str] = (),
    ) -> Self:
        """A request with lists of equal length. A single label or source applies to all samples. Seeds count up from
        `seed`. Without `seed` and `seeds` the first seed is random. known: the model's labels, which may be given in
        other spellings (`ladle.data.labels`).

        Raises UserError: values of the wrong type, lengths that disagree, none asked for, both `seed` and `seeds`, a
        seed out of range.
        """
        if seed is not None and seeds is not None:
            raise UserError("both seed and seeds are given; give one of them")
        lists: dict[str, list[Any]] = {}
        if seeds is not None:
            lists["seeds"] = check_seeds(seeds)
        if label is not None and not isinstance(label, LABELS):
            lists["label"] = check_list("label", label, "a label, or a list with one for each text")
        if source is not None:
            texts = check_texts(source, "source", optional=True)
            source, lists = (source, lists) if isinstance(source, str) else (None, lists | {"source": texts})
        counts: dict[str, int] = {} if num_samples is None else {"num_samples": check_whole("num_samples", num_samples)}
        counts |= {name: len(values) for name, values in lists.items()}
        if len(set(counts.values())) > 1:
            raise UserError("these lengths disagree: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        count = check_whole("num_samples", next(iter(counts.values()), 1))
        first = fresh_seed(count) if seed is None else check_whole("seed", seed, 0, MAX_SEED + 1 - count)
        labels = lists.get("label", [label] * count)
        for name in labels:
            if not isinstance(name, LABELS | None):
                raise UserError(f"{name!r:.60} is not a label; give a string or a number for each text, or None")
        return cls(
            lists.get("seeds", list(range(first, first + count))),
            [own_label(name, known) for name in labels],
            lists.get("source", [source] * count),
        )

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, rows: Iterable[int]) -> "Request":
        """The request for some rows, in that order."""
        rows = list(rows)
        return Request(
            [self.seeds[row] for row in rows], [self.labels[row] for row in rows], [self.sources[row] for row in rows]
        )


def fresh_seed(count: int) -> int:
    """A random first seed for `count` seeds that count up."""
    return secrets.randbelow(MAX_SEED + 2 - count)
