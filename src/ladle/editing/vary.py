"""Other texts like a given one: from another wording of the same plan to a free variation."""

from collections.abc import Sequence

from torch import Tensor

from ladle.conditioning.encoder import RawCondition
from ladle.editing.change import Change, sentence_bleu
from ladle.editing.way import renoised
from ladle.editing.wordings import READS_WELL, closeness, draw_wordings, fluency
from ladle.errors import UserError
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import decode_texts, decoding, encode_texts, padded
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

PARAPHRASE_TIME = 0.1  # of a plan: as much noise as hides the small things that only the source's own words say
ALIGNED_TIME = 0.5  # of position-aligned latents, which hold the words themselves
MAX_OVERLAP = 40.0  # sentence BLEU of a paraphrase against its source, above which it says the same in the same words


def check_strength(strength: float, most: float = 1.0) -> float:
    """Raises UserError: not a number from 0 to `most`."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= most:
        raise UserError(f"strength is {strength!r}; give a number from 0 to {most:g}")
    return float(strength)


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

    strength: 0 keeps the latents and draws other words, 1 is a free sample. seeds: one for each text.

    Raises UserError: strength out of range, a model without a diffusion model.
    """
    strength = check_strength(strength)
    points, log_snr, streams = _moved(parts, texts, seeds, strength, options, batch_size)
    # The words go on from the stream that made the noise, as those of a sample do.
    drawn = _one_wording(parts, points, log_snr, streams, options, batch_size)
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
    if not 0 <= max_overlap <= 100:
        raise UserError(f"max_overlap is {max_overlap}; give a BLEU from 0 to 100")
    time = PARAPHRASE_TIME if parts.autoencoder.is_plan else ALIGNED_TIME
    latents = encode_texts(parts.autoencoder, texts, batch_size)
    clean = [own[mask] for own, mask in zip(latents.values, latents.mask, strict=True)]
    points, log_snr, _ = _moved(parts, texts, seeds, time, options, batch_size)
    drawn = draw_wordings(parts, points, log_snr, seeds, candidates, options, batch_size=batch_size)
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
            ranked.append((not far, -(near[place] + READS_WELL * well[place]) if far else overlap, number, text))
        kept = dict.fromkeys(text for *_, text in sorted(ranked))
        chosen = [text for text in kept if text.strip()][:count] or [own[0]]
        chosen += [own[0]] * (count - len(chosen))
        found.append([Change(text, texts[row], seeds[row], latents=points[row].cpu()) for text in chosen])
    return found


def _moved(
    parts: ModelParts,
    texts: Sequence[str],
    seeds: Sequence[int],
    time: float,
    options: SamplingOptions,
    batch_size: int,
) -> tuple[list[Tensor], list[float | None], list[SampleNoise]]:
    """Each text's latents [L, D], noised to `time` and brought back, with unit variance where they keep noise; their
    log-SNR, None without noise; and the streams of random numbers after that."""
    latents = encode_texts(parts.autoencoder, texts, batch_size)
    points = [own[mask] for own, mask in zip(latents.values, latents.mask, strict=True)]
    streams = [SampleNoise([seed]) for seed in seeds]
    if time == 0:
        return points, [None] * len(points), streams
    if parts.diffusion is None:
        raise UserError(f"'{parts.name}' has no diffusion model, so it cannot vary texts; train one with `ladle train`")
    found: list[Tensor] = []
    log_snr: list[float | None] = []
    for start in range(0, len(points), batch_size):
        rows = slice(start, start + batch_size)
        noise = SampleNoise.join(streams[rows])
        z0 = renoised(parts.diffusion, RawCondition(), padded(points[rows]), noise, time, options)
        scale = 1.0 if z0.level is None else z0.level.scale
        found += [values[mask] / scale for values, mask in zip(z0.values, z0.mask, strict=True)]
        log_snr += [None if z0.level is None else float(z0.level.log_snr)] * len(points[rows])
    return found, log_snr, streams


def _one_wording(
    parts: ModelParts,
    points: Sequence[Tensor],
    log_snr: Sequence[float | None],
    streams: Sequence[SampleNoise],
    options: SamplingOptions,
    batch_size: int,
) -> list[str]:
    return decode_texts(parts.autoencoder, points, options.decoder, batch_size, streams, log_snr, **decoding(options))
