"""Changes one attribute of a text: to another label that the model knows, or along a direction."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ladle.checks import check_number
from ladle.conditioning.store import ConditionStore
from ladle.data.labels import own_label
from ladle.editing.change import Change, sentence_bleu
from ladle.editing.directions import Direction
from ladle.editing.rewriting import Manner, rewrite_each
from ladle.editing.way import all_renoised, led
from ladle.editing.wordings import READS_WELL, best_wordings, closeness, draw_wordings, fluency, unlike
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import encode_texts
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

CANDIDATES = 16
CONFIDENCE = 0.8  # probability of the new label from which a candidate counts as changed
CHANGED = 2.0  # what a probability of 1 is worth beside nearness, where no candidate counts as changed
MOST = 10.0  # times a direction
LED = 16.0  # times the difference of two labels, at strength 1
# From bold to timid and back: which one is right depends on how much of a text tells its label (benchmarks/LOG.md).
MANNERS = (
    Manner(keep=4), Manner(keep=2), Manner(0.5, push=1, keep=4), Manner(keep=1),
    Manner(0.5, push=1, keep=2), Manner(push=1, keep=4), Manner(0.5, push=2, keep=4), Manner(push=1, keep=2),
)  # fmt: skip
MOVED_MANNERS = (Manner(), Manner(keep=2))


def by_label(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    label: str,
    strength: float,
    options: SamplingOptions,
    *,
    candidates: int = CANDIDATES,
    confidence: float = CONFIDENCE,
    batch_size: int = 128,
) -> list[Change]:
    """Each text with another label, and as much of the rest as can stay.

    Latents are led from the label that the judge finds to the new one (`led`, up to LED times the difference at
    strength 1). `candidates` texts are rewritten for them, more and less boldly (`ladle.editing.rewriting`): only words
    that the label changes are changed there. A quarter as many wordings are drawn anew. Latents that are no plan are
    noised to diffusion time `strength` instead and brought back under the new label (SDEdit, arXiv 2108.01073).
    Strength 0 keeps the latents, and a text that has the label may stay as it is.

    Of the candidates that the model's judge finds to have the label with at least `confidence`, the one is kept that is
    nearest to the text, in meaning and in words, and reads well; if there is none, the one for which this and its
    probability are together the highest.

    Raises UserError: a model without labels, an unknown label, strength out of 0 to 1, a model without a judge.
    """
    strength = check_number("strength", strength, 0, 1)
    diffusion, judge = parts.diffusion, parts.judge
    labels = () if diffusion is None else diffusion.condition.config.labels
    if diffusion is None or not labels:
        raise UserError(f"'{parts.name}' was trained without labels; give a direction, or use another model")
    label = str(own_label(label, labels))
    diffusion.condition.config.label_ids([label])  # (known, or it raises)
    if judge is None:
        raise UserError(f"'{parts.name}' has no judge of its labels, so it cannot tell changed texts; train it anew")
    reader = parts.reader()
    new = ConditionStore(reader, [label] * len(texts), [None] * len(texts))
    known = judge.probabilities(texts, labels)
    there = [labels[int(row.argmax())] for row in known]
    # (A text that has the label is sure enough as it is.)
    enough = [min(confidence, float(row.max()) - 1e-4) if name == label else confidence
              for row, name in zip(known, there, strict=True)]  # fmt: skip
    old = ConditionStore(reader, list(there), [None] * len(texts))
    own = encode_texts(parts.autoencoder, texts, batch_size).rows()
    streams = [SampleNoise([seed]) for seed in seeds]
    log_snr: list[float | None] = [None] * len(own)
    if parts.autoencoder.is_plan:
        points = led(diffusion, own, old, new, streams, LED * strength, batch_size)
        conditions = {"old_conditions": old, "new_conditions": new}
        drawn = rewrite_each(parts, texts, own, points, seeds, candidates, options, MANNERS, **conditions)
    else:
        points, log_snr = all_renoised(diffusion, own, streams, strength, options, new, batch_size)
        drawn = [[] for _ in texts]
    count = -(-candidates // 4) if parts.autoencoder.is_plan else candidates
    more = draw_wordings(parts, points, log_snr, seeds, texts, count, options, new, batch_size)
    as_it_is = [[text] if strength == 0 or name == label else [] for text, name in zip(texts, there, strict=True)]
    drawn = [[*first, *changed, *others] for first, changed, others in zip(as_it_is, drawn, more, strict=True)]
    flat = [text for tried in drawn for text in tried]
    shares = judge.probabilities(flat, [label])[:, 0].tolist()
    near = closeness(parts, flat, [own[row] for row, tried in enumerate(drawn) for _ in tried], batch_size)
    figures = zip(shares, near, fluency(parts, flat, batch_size), strict=True)
    found = []
    for text, values, seed, tried, point, least in zip(texts, own, seeds, drawn, points, enough, strict=True):
        ranked = []
        for number, (candidate, (share, close, well)) in enumerate(zip(tried, figures, strict=False)):
            share = share if candidate.strip() else 0.0
            alike = close + sentence_bleu(candidate, text) / 100 + READS_WELL * well - unlike(candidate, text)
            ranked.append((share >= least, alike if share >= least else alike + CHANGED * share, -number))
        best = tried[-max(ranked)[2]]
        latents = (values if best == text else point).cpu()
        found.append(Change(best, text, seed, amount=strength, latents=latents))
    return found


def by_direction(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    direction: Direction,
    strength: float,
    options: SamplingOptions,
    *,
    candidates: int = CANDIDATES,
    batch_size: int = 128,
) -> list[Change]:
    """Each text, moved by `strength` times the direction: negative strengths go the other way, 1 is as far as the means
    of both sides are apart. Candidates are new wordings of the moved plan, and as many texts that are rewritten for it.
    The one is kept that says what the moved plan says and reads well.

    Raises UserError: a direction of other latents, a strength beyond -10 to 10.
    """
    direction.check(parts)
    strength = check_number("strength", strength, -MOST, MOST)
    own = encode_texts(parts.autoencoder, texts, batch_size).rows()
    points = [direction.moved(values, strength) for values in own]
    points = [point * (values.norm() / point.norm()) for point, values in zip(points, own, strict=True)]
    return at_points(parts, texts, seeds, own, points, options, strength, candidates, batch_size)


def at_points(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    own: Sequence[Tensor],
    points: Sequence[Tensor],
    options: SamplingOptions,
    strength: float | None,
    candidates: int,
    batch_size: int,
) -> list[Change]:
    """Each text, said as its point [L, D] says it. own: the latents [L, D] of the texts."""
    clean: list[float | None] = [None] * len(texts)
    drawn = draw_wordings(parts, points, clean, seeds, texts, candidates, options, batch_size=batch_size)
    if parts.autoencoder.is_plan:
        changed = rewrite_each(parts, texts, own, points, seeds, candidates, options, MOVED_MANNERS)
        drawn = [[*others, *known] for others, known in zip(changed, drawn, strict=True)]
    best = best_wordings(parts, drawn, points, batch_size, sources=texts, origins=own)
    return [
        Change(text, source, seed, amount=strength, latents=point.cpu())
        for text, source, seed, point in zip(best, texts, seeds, points, strict=True)
    ]


@dataclass(frozen=True)
class LabelAttribute:
    """The probability of a label, in any spelling, by a model's own judge, for the report of an edit."""

    parts: ModelParts
    label: str

    def __call__(self, texts: list[str]) -> list[float]:
        """One for each text."""
        assert self.parts.judge is not None
        label = str(own_label(self.label, self.parts.judge.labels))
        return self.parts.judge.probabilities(texts, [label])[:, 0].tolist()


@dataclass(frozen=True)
class DirectionAttribute:
    """The probability of a direction's label by its probe, for the report of an edit."""

    parts: ModelParts
    direction: Direction
    batch_size: int = 128

    def __call__(self, texts: list[str]) -> list[float]:
        """One for each text."""
        return self.direction.probability(encode_texts(self.parts.autoencoder, texts, self.batch_size))
