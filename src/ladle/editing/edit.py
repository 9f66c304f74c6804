"""Changes one attribute of a text: to another label that the model knows, or along a direction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle.autoencoder.latents import Latents
from ladle.conditioning.store import ConditionStore
from ladle.data.labels import own_label
from ladle.editing.change import Change, sentence_bleu
from ladle.editing.directions import Direction
from ladle.editing.vary import check_strength
from ladle.editing.way import renoised
from ladle.editing.wordings import READS_WELL, best_wordings, closeness, draw_wordings, fluency
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import decode_texts, encode_texts, padded
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

CANDIDATES = 16
CONFIDENCE = 0.8  # probability of the new label from which a candidate counts as changed
MOST = 10.0  # times a direction


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

    The latents are noised to diffusion time `strength` and brought back under the new label, with guidance (SDEdit,
    arXiv 2108.01073). Candidates are: the text's own wording (`ladle.autoencoder.wording`: the random numbers that
    would have drawn it) under the new label, from its own plan and from the changed one, which changes only the words
    that the label changes (a counterfactual, arXiv 2411.07180); and new wordings of the changed plan. Of those that the
    model's judge finds to have the label with at least `confidence`, the one is kept that is nearest to the text, in
    meaning and in words, and reads well; if there is none, the one with the highest probability.

    Raises UserError: a model without labels, an unknown label, strength out of 0 to 1, a model without a judge.
    """
    strength = check_strength(strength)
    diffusion = parts.diffusion
    labels = () if diffusion is None else diffusion.condition.config.labels
    if diffusion is None or not labels:
        raise UserError(f"'{parts.name}' was trained without labels; give a direction, or use another model")
    label = str(own_label(label, labels))
    if parts.judge is None:
        raise UserError(f"'{parts.name}' has no judge of its labels, so it cannot tell changed texts; train it anew")
    judge, count = parts.judge, len(texts)
    there = [labels[int(row.argmax())] for row in judge.probabilities(texts, labels)]
    reader = parts.reader()
    new = ConditionStore(reader, [label] * count, [None] * count)
    old = ConditionStore(reader, list(there), [None] * count)
    plans = parts.autoencoder.is_plan
    latents = encode_texts(parts.autoencoder, texts, batch_size, wording=plans, conditions=old)
    own = [values[mask] for values, mask in zip(latents.values, latents.mask, strict=True)]
    points, log_snr = _under_label(parts, own, seeds, new, strength, options, batch_size)
    drawn = [[text] for text in texts] if strength == 0 else [list[str]() for _ in texts]
    if plans:
        for places, levels in ((own, [None] * count), (points, log_snr)):
            worded = _same_wording(parts, places, levels, latents, new, batch_size)
            drawn = [[*known, text] for known, text in zip(drawn, worded, strict=True)]
    more = draw_wordings(parts, points, log_snr, seeds, max(1, candidates - 2), options, new, batch_size)
    drawn = [[*known, *others] for known, others in zip(drawn, more, strict=True)]
    flat = [text for known in drawn for text in known]
    column = labels.index(label)
    shares = judge.probabilities(flat, labels)[:, column].tolist()
    near = closeness(parts, flat, [own[row] for row, known in enumerate(drawn) for _ in known], batch_size)
    well = fluency(parts, flat, batch_size)
    found, place = [], 0
    for row, known in enumerate(drawn):
        ranked = []
        for number, text in enumerate(known):
            share = shares[place] if text.strip() else 0.0
            alike = near[place] + sentence_bleu(text, texts[row]) / 100 + READS_WELL * well[place]
            ranked.append((share >= confidence, alike if share >= confidence else share, -number, text))
            place += 1
        best = max(ranked)[3]
        found.append(Change(best, texts[row], seeds[row], amount=strength, latents=points[row].cpu()))
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
    of both sides are apart. Candidates are the text's own wording of the moved plan, and new wordings of it. The one is
    kept that says what the moved plan says and reads well.

    Raises UserError: a direction of other latents, a strength beyond -10 to 10.
    """
    direction.check(parts)
    check_strength(abs(strength), MOST)
    latents = encode_texts(parts.autoencoder, texts, batch_size, wording=parts.autoencoder.is_plan)
    own = [values[mask] for values, mask in zip(latents.values, latents.mask, strict=True)]
    points = [direction.moved(values, strength) for values in own]
    points = [point * (values.norm() / point.norm()) for point, values in zip(points, own, strict=True)]
    return at_points(parts, texts, seeds, points, options, latents, strength, candidates, batch_size)


def at_points(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    points: Sequence[Tensor],
    options: SamplingOptions,
    latents: Latents,
    strength: float | None,
    candidates: int,
    batch_size: int,
) -> list[Change]:
    """Each text, said as its point [L, D] says it. latents: of the texts, with their wording if they have one."""
    clean: list[float | None] = [None] * len(texts)
    drawn = draw_wordings(parts, points, clean, seeds, candidates, options, batch_size=batch_size)
    if latents.wording is not None:
        worded = _same_wording(parts, points, clean, latents, None, batch_size)
        drawn = [[text, *known] for text, known in zip(worded, drawn, strict=True)]
    best = best_wordings(parts, drawn, points, batch_size)
    return [
        Change(text, source, seed, amount=strength, latents=point.cpu())
        for text, source, seed, point in zip(best, texts, seeds, points, strict=True)
    ]


def _under_label(
    parts: ModelParts,
    own: Sequence[Tensor],
    seeds: Sequence[int],
    conditions: ConditionStore,
    strength: float,
    options: SamplingOptions,
    batch_size: int,
) -> tuple[list[Tensor], list[float | None]]:
    """Latents [L, D] of each text, noised and brought back under the conditions, and their log-SNR."""
    assert parts.diffusion is not None
    points: list[Tensor] = []
    log_snr: list[float | None] = []
    for start in range(0, len(own), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(own)))
        raw = conditions.gather(rows).to(parts.diffusion.device)
        noise = SampleNoise([seeds[row] for row in rows.tolist()])
        z0 = renoised(parts.diffusion, raw, padded([own[row] for row in rows.tolist()]), noise, strength, options)
        scale = 1.0 if z0.level is None else z0.level.scale
        points += [values[mask] / scale for values, mask in zip(z0.values, z0.mask, strict=True)]
        log_snr += [None if z0.level is None else float(z0.level.log_snr)] * len(rows)
    return points, log_snr


def _same_wording(
    parts: ModelParts,
    points: Sequence[Tensor],
    log_snr: Sequence[float | None],
    latents: Latents,
    conditions: ConditionStore | None,
    batch_size: int,
) -> list[str]:
    """Each point in the wording of its text."""
    return decode_texts(parts.autoencoder, points, None, batch_size, None, log_snr, conditions, wording=latents.wording)


@dataclass(frozen=True)
class LabelAttribute:
    """The probability of a label by a model's own judge, for the report of an edit."""

    parts: ModelParts
    label: str

    def __call__(self, texts: list[str]) -> list[float]:
        """One for each text."""
        assert self.parts.judge is not None
        return self.parts.judge.probabilities(texts, [self.label])[:, 0].tolist()


@dataclass(frozen=True)
class DirectionAttribute:
    """The probability of a direction's label by its probe, for the report of an edit."""

    parts: ModelParts
    direction: Direction
    batch_size: int = 128

    def __call__(self, texts: list[str]) -> list[float]:
        """One for each text."""
        return self.direction.probability(encode_texts(self.parts.autoencoder, texts, self.batch_size))
