"""Several wordings for each point of the latent space, and what tells a good one: it says what the point says, and it
reads well."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.store import ConditionStore
from ladle.data.stores import length_batches
from ladle.editing.paths import stretched
from ladle.sampling.candidates import candidate_seeds
from ladle.sampling.options import SamplingOptions
from ladle.sampling.soundness import soundness
from ladle.sampling.words import decode_texts, decoding, encode_texts, level_of, rows_by_lexicon
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

NOISE_LOG_SNR = -8.0  # of a plan of which nothing is left: its decoder is a plain language model
READS_WELL = 0.1  # what a nat a token is worth beside the cosine between a text's latents and the point
GONE = 0.3  # what the whole way from the source's latents to the point is worth
UNLIKE = 0.1  # what it costs to be written in another way than the source, for each of two ways
SPACED = re.compile(r"\w [.,!?;:]")


def write_points(
    parts: ModelParts,
    points: Sequence[Tensor],
    log_snr: Sequence[float | None],
    streams: Sequence[SampleNoise],
    known: Sequence[str],
    options: SamplingOptions,
    conditions: ConditionStore | None = None,
    batch_size: int = 128,
) -> list[str]:
    """A text for each of the points [L, D], drawn as `options` say from its own stream.

    log_snr: of each point; None: it has no noise. known: for each point a text whose words may be written beside those
    that the model knows (`rows_by_lexicon`). conditions: of each point, for a decoder that reads them.
    """
    texts = [""] * len(points)
    for lexicon, rows in rows_by_lexicon(parts.autoencoder.backbone, known, options):
        part = None if conditions is None else conditions.of_rows(torch.tensor(rows))
        how = decoding(options) | ({} if lexicon is None else {"lexicon": lexicon})
        written = decode_texts(
            parts.autoencoder, [points[row] for row in rows], options.decoder, batch_size,
            [streams[row] for row in rows], [log_snr[row] for row in rows], part, **how,
        )  # fmt: skip
        for row, text in zip(rows, written, strict=True):
            texts[row] = text
    return texts


def draw_wordings(
    parts: ModelParts,
    points: Sequence[Tensor],
    log_snr: Sequence[float | None],
    seeds: Sequence[int],
    known: Sequence[str],
    count: int,
    options: SamplingOptions,
    conditions: ConditionStore | None = None,
    batch_size: int = 128,
) -> list[list[str]]:
    """`count` texts for each of the points [L, D], drawn as by `write_points`.

    seeds: of each point; the first text is drawn by that seed alone, the others by seeds made of it. Points with the
    same seed get their words by the same random numbers, so that near points get similar words.
    """
    rows = [row for row in range(len(points)) for _ in range(count)]
    streams = [SampleNoise([own]) for seed in seeds for own in candidate_seeds(seed, count)]
    part = None if conditions is None else conditions.of_rows(torch.tensor(rows, dtype=torch.long))
    texts = write_points(
        parts, [points[row] for row in rows], [log_snr[row] for row in rows], streams, [known[row] for row in rows],
        options, part, batch_size,
    )  # fmt: skip
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def closeness(parts: ModelParts, texts: Sequence[str], points: Sequence[Tensor], batch_size: int = 128) -> list[float]:
    """Cosine between the latents of each text and its point [L, D], -1 to 1. An empty text has -1."""
    return cosines(texts, encode_texts(parts.autoencoder, texts, batch_size).rows(), points)


def cosines(texts: Sequence[str], latents: Sequence[Tensor], points: Sequence[Tensor]) -> list[float]:
    """`closeness` of texts whose latents [L, D] are known."""
    found = []
    for text, values, point in zip(texts, latents, points, strict=True):
        own = values.to(point)
        length = min(len(own), len(point))
        both = stretched(own, length).flatten(), stretched(point, length).flatten()
        found.append(float(torch.cosine_similarity(*both, dim=0)) if text.strip() else -1.0)
    return found


def progress(latents: Sequence[Tensor], origins: Sequence[Tensor], points: Sequence[Tensor]) -> list[float]:
    """How much of the way from its origin to its point the latents of each text have gone (all [L, D]): 0 to 1, and
    below 0 if they went the other way. (The cosine to the point hardly tells: the way is short beside the latents.)"""
    found = []
    for own, origin, point in zip(latents, origins, points, strict=True):
        length = min(len(own), len(origin), len(point))
        there, begin, end = (stretched(values.to(point), length) for values in (own, origin, point))
        way = end - begin
        found.append(min(1.0, float(((there - begin) * way).sum() / way.square().sum().clamp_min(1e-12))))
    return found


@torch.no_grad()
def fluency(parts: ModelParts, texts: Sequence[str], batch_size: int = 128) -> list[float]:
    """How well each text reads: the mean log-probability a token under the model's own decoder. An empty text has -100.

    The decoder of a plan is told nothing (a plan of pure noise). A decoder of other latents is told a rough plan alone
    (`soundness`), or the text's own latents in a model without a prior.
    """
    autoencoder, diffusion = parts.autoencoder, parts.diffusion
    found = [-100.0] * len(texts)
    for rows in length_batches(texts, batch_size):
        tokens = autoencoder.backbone.tokenize([texts[row] for row in rows])
        ids, mask = (tokens[name].to(autoencoder.device) for name in ("input_ids", "attention_mask"))
        noise = SampleNoise([0] * len(rows))  # the same for all that are compared
        if diffusion is not None and not autoencoder.is_plan:
            given = {"input_ids": ids, "attention_mask": mask}
            scores = soundness(autoencoder, diffusion, given, RawCondition(), noise, 1.0)
        else:
            latents = _untold(autoencoder, noise) if autoencoder.is_plan else autoencoder.encode(ids, mask)
            read = read_conditions(autoencoder, None, len(rows))
            scores = autoencoder.log_likelihood(latents, ids, mask, read=read)
        for row, value in zip(rows, scores.tolist(), strict=True):
            found[row] = value if texts[row].strip() else -100.0
    return found


def _untold(autoencoder: TextAutoencoder, noise: SampleNoise) -> Latents:
    """Plans of which nothing is left but noise."""
    shape = (autoencoder.max_latents, autoencoder.latent_dim)
    values = noise.normal([shape] * len(noise)).to(autoencoder.device)
    there = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return Latents(values, there, level=level_of([NOISE_LOG_SNR] * len(noise)).to(values.device))


def unlike(text: str, source: str) -> float:
    """What a text's score loses because it is written in another way than its source: without capitals, or with spaces
    before its punctuation. (A plan hardly says how a text is written.)"""
    differs = (
        any(map(str.isupper, text)) != any(map(str.isupper, source)),
        bool(SPACED.search(text)) != bool(SPACED.search(source)),
    )
    return UNLIKE * sum(differs)


def best_wordings(
    parts: ModelParts,
    drawn: Sequence[Sequence[str]],
    points: Sequence[Tensor],
    batch_size: int = 128,
    *,
    sources: Sequence[str] | None = None,
    origins: Sequence[Tensor] | None = None,
    reads_well: float = READS_WELL,
) -> list[str]:
    """Of each point's texts the one that is close to it and reads well. With `sources`, one for each point, it is also
    written as its source is (`unlike`). With `origins`, the latents [L, D] from which each point was moved away, it has
    also gone that way (`progress`). reads_well: what a nat a token is worth."""
    flat = [text for own in drawn for text in own]
    where = [point for own, point in zip(drawn, points, strict=True) for _ in own]
    if len(flat) == len(drawn):
        return flat
    latents = encode_texts(parts.autoencoder, flat, batch_size).rows()
    near, well = cosines(flat, latents, where), fluency(parts, flat, batch_size)
    given = [None] * len(drawn) if sources is None else sources
    apart = [
        0.0 if source is None else unlike(t, source) for own, source in zip(drawn, given, strict=True) for t in own
    ]
    gone = [0.0] * len(flat)
    if origins is not None:
        starts = [origin for own, origin in zip(drawn, origins, strict=True) for _ in own]
        gone = progress(latents, starts, where)
    figures = zip(near, well, apart, gone, strict=True)
    scores = iter(one + reads_well * other - less + GONE * far for one, other, less, far in figures)
    return [max((next(scores), -number, text) for number, text in enumerate(own))[2] for own in drawn]
