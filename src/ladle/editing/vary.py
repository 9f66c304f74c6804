"""Other texts like a given one: from another wording of the same plan to a free variation."""

from collections.abc import Sequence

from torch import Tensor

from ladle.checks import check_number
from ladle.editing.change import Change, sentence_bleu
from ladle.editing.way import all_renoised
from ladle.editing.wordings import READS_WELL, closeness, draw_wordings, fluency, unlike, write_points
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import encode_texts
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

PARAPHRASE_TIME = 0.1  # of a plan: as much noise as hides the small things that only the source's own words say
ALIGNED_TIME = 0.5  # of position-aligned latents, which hold the words themselves
MAX_OVERLAP = 40.0  # sentence BLEU of a paraphrase against its source, above which it says the same in the same words


def vary(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    strength: float,
    options: SamplingOptions,
    *,
    batch_size: int = 128,
) -> list[Change]:
    """One variation of each text: its latents, noised to diffusion time `strength` and brought back by the prior
    (`renoised`), in new words.

    strength: 0 keeps the latents and draws other words, 1 is a free sample with as many latents. seeds: one for each
    text.

    Raises UserError: strength out of range, a model without a diffusion model.
    """
    strength = check_number("strength", strength, 0, 1)
    streams = [SampleNoise([seed]) for seed in seeds]
    points, log_snr = _moved(parts, _latents(parts, texts, batch_size), streams, strength, options, batch_size)
    # The words go on from the stream that made the noise, as those of a sample do.
    drawn = write_points(parts, points, log_snr, streams, texts, options, batch_size=batch_size)
    return [
        Change(text, source, seed, amount=strength, latents=point.cpu())
        for text, source, seed, point in zip(drawn, texts, seeds, points, strict=True)
    ]


def paraphrase(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions,
    *,
    count: int = 1,
    candidates: int = 16,
    max_overlap: float = MAX_OVERLAP,
    batch_size: int = 128,
) -> list[list[Change]]:
    """`count` paraphrases of each text: the plan is kept and the words are drawn anew, `candidates` times.

    Those are kept that are nearest in meaning and read well (as `best_wordings`), among those whose sentence BLEU
    against the source is at most `max_overlap`. If too few differ so much, the others follow, the most different first.

    Raises UserError: fewer candidates than paraphrases, max_overlap outside 0 to 100.
    """
    if candidates < count:
        raise UserError(f"{candidates} candidates for {count} paraphrases; give at least as many candidates")
    check_number("max_overlap", max_overlap, 0, 100)
    time = PARAPHRASE_TIME if parts.autoencoder.is_plan else ALIGNED_TIME
    clean = _latents(parts, texts, batch_size)
    points, log_snr = _moved(parts, clean, [SampleNoise([seed]) for seed in seeds], time, options, batch_size)
    drawn = draw_wordings(parts, points, log_snr, seeds, texts, candidates, options, batch_size=batch_size)
    flat = [text for own in drawn for text in own]
    near = closeness(parts, flat, [point for point in clean for _ in range(candidates)], batch_size)
    well = fluency(parts, flat, batch_size)
    found = []
    for row, own in enumerate(drawn):
        ranked = []
        for number, text in enumerate(own):
            place = row * candidates + number
            overlap = sentence_bleu(text, texts[row])
            far = overlap <= max_overlap
            score = near[place] + READS_WELL * well[place] - unlike(text, texts[row])
            ranked.append((not far, -score if far else overlap, number, text))
        kept = dict.fromkeys(text for *_, text in sorted(ranked))
        chosen = [text for text in kept if text.strip()][:count] or [own[0]]
        chosen += [chosen[0]] * (count - len(chosen))  # (too few differ)
        found.append([Change(text, texts[row], seeds[row], latents=points[row].cpu()) for text in chosen])
    return found


def _latents(parts: ModelParts, texts: Sequence[str], batch_size: int) -> list[Tensor]:
    """z0 [L, D] of each text."""
    return encode_texts(parts.autoencoder, texts, batch_size).rows()


def _moved(
    parts: ModelParts,
    points: Sequence[Tensor],
    streams: Sequence[SampleNoise],
    time: float,
    options: SamplingOptions,
    batch_size: int,
) -> tuple[list[Tensor], list[float | None]]:
    """`all_renoised` by the model's prior, which time 0 does not need."""
    if time == 0:
        return list(points), [None] * len(points)
    if parts.diffusion is None:
        raise UserError(f"'{parts.name}' has no diffusion model, so it cannot vary texts; train one with `ladle train`")
    return all_renoised(parts.diffusion, points, streams, time, options, batch_size=batch_size)
