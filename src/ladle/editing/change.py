"""What a changed text kept of its source, and what it changed: the report beside every edited text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.autoencoder.embedding import pooled
from ladle.editing.paths import stretched
from ladle.evaluation.text_stats import tokenise
from ladle.sampling.words import encode_texts
from ladle.storage.parts import ModelParts

Attribute = Callable[[list[str]], Sequence[float]]
"""Texts -> for each text the probability, 0 to 1, of what an edit asks for."""
Fluency = Callable[[list[str]], Sequence[float]]
"""Texts -> for each text its perplexity a token."""


@dataclass(frozen=True)
class Change:
    """A text that was made from others, and how far it is from them."""

    text: str
    source: str
    """The text that it was made from."""
    seed: int | None = None
    """Draws the same text again from the same source with the same options."""
    target: str | None = None
    """Of a text between two texts: the other one."""
    amount: float | None = None
    """How far it was asked to go: the position between two texts (0 to 1), or the strength."""
    similarity: float = 0.0
    """Cosine of the embeddings of text and source, -1 to 1."""
    target_similarity: float | None = None
    """The same with the target."""
    bleu: float = 0.0
    """Sentence BLEU of the text against its source, 0 to 100 (sacreBLEU, effective order)."""
    edit_distance: float = 0.0
    """Words and signs that were put in, left out or replaced (Levenshtein), over the number in the longer text, 0 to 1.
    """
    moved: float = 0.0
    """Distance between the latents that were decoded and those of the source: root mean square a channel. Latents of
    two independent texts are 1.4 apart. The noise of latents that were handed over with noise counts."""
    attribute_before: float | None = None
    """Probability that the source has what was asked for, by the model's own judge or the direction's probe. None if
    nothing was asked for, or if there is no such judge."""
    attribute_after: float | None = None
    """The same of the text."""
    perplexity: float | None = None
    """Of the text under a scorer, if one was given."""
    latents: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)
    """The latents that it was decoded from, [L, D], normalised, float32, on the CPU."""

    def __str__(self) -> str:
        return self.text

    def as_row(self) -> dict[str, Any]:
        """All but the latents, without what is None, for JSON Lines."""
        return {k: v for k, v in vars(self).items() if k != "latents" and v is not None}


def measured(
    parts: ModelParts,
    changes: Sequence[Change],
    *,
    attribute: Attribute | None = None,
    fluency: Fluency | None = None,
    batch_size: int = 128,
) -> list[Change]:
    """The changes with their figures. attribute: of an edit. fluency: of a scorer."""
    if not changes:
        return []
    texts = list(dict.fromkeys(t for c in changes for t in (c.text, c.source, c.target) if t is not None))
    place = {text: number for number, text in enumerate(texts)}
    latents = encode_texts(parts.autoencoder, texts, batch_size)
    points = pooled(parts.autoencoder, latents).cpu()
    chances = None if attribute is None else [float(value) for value in attribute(texts)]
    perplexities = None if fluency is None else [float(value) for value in fluency(texts)]
    found = []
    for change in changes:
        own, source = place[change.text], place[change.source]
        target = None if change.target is None else _cosine(points[own], points[place[change.target]])
        found.append(replace(
            change,
            similarity=_cosine(points[own], points[source]),
            target_similarity=target,
            bleu=sentence_bleu(change.text, change.source),
            edit_distance=edit_distance(change.text, change.source),
            moved=_moved(change.latents, latents.values[source][latents.mask[source]].cpu()),
            attribute_before=None if chances is None else chances[source],
            attribute_after=None if chances is None else chances[own],
            perplexity=None if perplexities is None else perplexities[own],
        ))  # fmt: skip
    return found


def _cosine(first: Tensor, second: Tensor) -> float:
    """Of vectors of norm 1. (Rounded sums may be a little above 1.)"""
    return min(1.0, max(-1.0, float(first @ second)))


def sentence_bleu(text: str, reference: str) -> float:
    """0 to 100; an empty text has 0."""
    from sacrebleu.metrics import BLEU

    if not text.strip():
        return 0.0
    return min(100.0, float(BLEU(effective_order=True).sentence_score(text, [reference]).score))


def edit_distance(text: str, other: str) -> float:
    """Levenshtein distance of the words and signs of two texts, over the number of the longer text: 0 to 1."""
    first, second = tokenise(text), tokenise(other)
    if not first or not second:
        return float(first != second)
    row = np.arange(len(second) + 1)
    for number, word in enumerate(first, start=1):
        kept = row[:-1] + np.array([word != one for one in second])
        best = np.minimum(kept, row[1:] + 1)
        new = np.empty_like(row)
        new[0] = number
        for column, value in enumerate(best, start=1):
            new[column] = min(value, new[column - 1] + 1)
        row = new
    return float(row[-1]) / max(len(first), len(second))


def _moved(latents: Tensor, source: Tensor) -> float:
    if latents.numel() == 0:
        return 0.0
    if latents.shape != source.shape:  # (of texts of other lengths: place by place on the shorter one's scale)
        length = min(len(latents), len(source))
        latents, source = stretched(latents, length), stretched(source, length)
    return float((latents - source).square().mean().sqrt())
