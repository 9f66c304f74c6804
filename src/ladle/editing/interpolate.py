"""Texts between texts: paths from one to another, and mixtures of several with weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ladle.checks import check_number
from ladle.conditioning.encoder import RawCondition
from ladle.config import nearest
from ladle.diffusion.model import LatentDiffusionModel
from ladle.editing.change import Change
from ladle.editing.paths import lerp, slerp, stretched, weighted
from ladle.editing.rewriting import Manner, rewrite_each
from ladle.editing.way import all_renoised, from_noise, to_noise
from ladle.editing.wordings import best_wordings, draw_wordings
from ladle.errors import UserError
from ladle.evaluation.text_stats import copy_key
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import decode_texts, encode_texts, padded
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

Mix = Callable[[Tensor, Tensor, float], Tensor]
"""(latents [L, D] of one text, of another, share of the other) -> latents between them."""
# How the latents of two texts are mixed on each path. `prior` mixes their noises.
PATHS: dict[str, Mix] = {"prior": slerp, "slerp": slerp, "linear": lerp, "renoise": slerp}
CANDIDATES = 4
MANNERS = (Manner(), Manner(keep=2.0))  # of the texts that are rewritten
READS_WELL = 0.03  # less than elsewhere: texts half-way became alike (benchmarks/LOG.md)
RENOISE_TIME = 0.4  # what is unlikely about a blend is lost there, and what it is about is not


def check_path(path: str) -> None:
    """Raises UserError: no such path."""
    if path not in PATHS:
        raise UserError(f"there is no path '{path}': {nearest(path, list(PATHS))}")


def positions(steps: int) -> list[float]:
    """`steps` positions from 0 to 1, both included. Raises UserError: fewer than 2."""
    if steps < 2:
        raise UserError(f"steps is {steps}; give at least 2: both ends are among them")
    return [number / (steps - 1) for number in range(steps)]


def interpolate(
    parts: ModelParts,
    firsts: Sequence[str],
    seconds: Sequence[str],
    shares: Sequence[float],
    *,
    path: str = "prior",
    seed: int = 0,
    candidates: int = CANDIDATES,
    options: SamplingOptions | None = None,
    batch_size: int = 128,
) -> list[list[Change]]:
    """For each pair of texts, those at `shares` (0 to 1) of the way from the first to the second.

    The ends are what the model makes of the texts themselves: with plan latents the texts to the letter, because plan
    and wording are decoded. Between them the decoder draws several wordings. With plan latents it also rewrites both
    texts (`ladle.editing.rewriting`). The one is kept that says what the latents on the path say and reads well
    (`best_wordings`).

    Args:
        path: `prior`: both texts go back to noise (`to_noise`), the arc between the noises is followed, and the way
            leads forward again. `slerp`: the arc between the latents. `linear`: the straight line, which leaves what
            the decoder knows. `renoise`: the arc, then a little noise that the prior takes away again.
        seed: of the random numbers: the i-th pair has seed + i, at all its positions.
        candidates: wordings for each position, and rewritings of each of the two texts.
        options: how words are drawn; None: the model's own.

    Raises UserError: no such path, or the model has no prior for `prior` and `renoise`.
    """
    check_path(path)
    options = options or parts.sampling
    texts, count = [*firsts, *seconds], len(firsts)
    plans = parts.autoencoder.is_plan
    latents = encode_texts(parts.autoencoder, texts, batch_size, wording=plans)
    points = latents.rows()
    decoder = None if plans else options.decoder
    ends = decode_texts(parts.autoencoder, points, decoder, batch_size, wording=latents.wording)
    mixes = [(pair, share) for pair in range(count) for share in dict.fromkeys(shares) if 0 < share < 1]
    way = _start(parts, points, path, batch_size) if mixes else points
    between = [mixed(way[pair], way[count + pair], share, PATHS[path]) for pair, share in mixes]
    seeds = [seed + pair for pair, _ in mixes]
    between = _end(parts, between, path, seeds, options, batch_size)
    ends_of = [[(texts[end], points[end]) for end in (pair, count + pair)] for pair, _ in mixes]
    written = _written(parts, between, seeds, ends_of, candidates, options, batch_size)
    found = dict(zip(mixes, zip(written, between, strict=True), strict=True))
    rows = []
    for pair in range(count):
        row = []
        for share in shares:
            end = pair if share <= 0 else count + pair
            text, own = found.get((pair, share)) or (ends[end], points[end])
            row.append(Change(text, texts[pair], seed + pair, texts[count + pair], share, latents=own.cpu()))
        rows.append(row)
    return rows


def blend(
    parts: ModelParts,
    texts: Sequence[str],
    weights: Sequence[float] | None = None,
    *,
    path: str = "slerp",
    seed: int = 0,
    candidates: int = CANDIDATES,
    options: SamplingOptions | None = None,
    batch_size: int = 128,
) -> Change:
    """One text from several: the weighted mean of their latents (`ladle.editing.paths.weighted`), put into words as by
    `interpolate`. The report compares it with the first text.

    weights: one for each text, negative to go away from it; None: all the same. They are divided by their sum. path:
    `slerp` decodes the mean itself, `linear` the mean without its length mended, `prior` takes the mean of the noises
    of the texts, `renoise` lets the prior mend the mean.

    Raises UserError: fewer than two texts, another number of weights than of texts, weights that are not finite or that
    sum to 0, no such path, no prior.
    """
    check_path(path)
    if len(texts) < 2:
        raise UserError(f"{len(texts)} text is given; a blend needs at least two")
    weights = [1.0] * len(texts) if weights is None else [check_number("a weight", weight) for weight in weights]
    if len(weights) != len(texts):
        raise UserError(f"{len(weights)} weights for {len(texts)} texts; give one weight for each text")
    total = sum(weights)
    if abs(total) < 1e-6:
        raise UserError("the weights of a blend sum to 0; give others")
    options = options or parts.sampling
    latents = encode_texts(parts.autoencoder, texts, batch_size)
    points = latents.rows()
    way = _start(parts, points, path, batch_size)
    shares = torch.tensor([weight / total for weight in weights])
    parted = shares.abs() / shares.abs().sum()
    length = round(sum(share * len(own) for share, own in zip(parted.tolist(), way, strict=True)))
    stacked = torch.stack([stretched(own, length) for own in way])
    mean = weighted(stacked, shares.to(stacked), mend=path != "linear")
    between = _end(parts, [mean], path, [seed], options, batch_size)
    mixed_texts = [(text, own) for text, own, share in zip(texts, points, shares.tolist(), strict=True) if share > 0]
    text = _written(parts, between, [seed], [mixed_texts], candidates, options, batch_size)[0]
    return Change(text, texts[0], seed, latents=between[0].cpu())


def mixed(first: Tensor, second: Tensor, share: float, mix: Mix) -> Tensor:
    """Two texts' latents, [L, D] each, mixed. Of position-aligned latents the number changes evenly too."""
    length = round((1 - share) * len(first) + share * len(second))
    return mix(stretched(first, length), stretched(second, length), share)


def _start(parts: ModelParts, points: list[Tensor], path: str, batch_size: int) -> list[Tensor]:
    """What is mixed on a path: the latents themselves, or the noise of each text."""
    return _noises(_prior(parts), points, batch_size) if path == "prior" else points


def _end(
    parts: ModelParts,
    mixes: list[Tensor],
    path: str,
    seeds: Sequence[int],
    options: SamplingOptions,
    batch_size: int,
) -> list[Tensor]:
    """The latents of what was mixed on a path."""
    if path == "prior":
        return _forward(_prior(parts), mixes, batch_size)
    if path == "renoise":
        streams, to_the_end = [SampleNoise([seed]) for seed in seeds], options.override(stop_time=0.0)
        return all_renoised(_prior(parts), mixes, streams, RENOISE_TIME, to_the_end, batch_size=batch_size)[0]
    return mixes


def _written(
    parts: ModelParts,
    points: list[Tensor],
    seeds: Sequence[int],
    mixes: Sequence[Sequence[tuple[str, Tensor]]],
    count: int,
    options: SamplingOptions,
    batch_size: int,
) -> list[str]:
    """Each point in words. mixes: for each point the texts that it lies between, and their latents."""
    if not points:
        return []
    clean = [None] * len(points)
    known = [" ".join(text for text, _ in mix) for mix in mixes]
    drawn = draw_wordings(parts, points, clean, seeds, known, count, options, batch_size=batch_size)
    if parts.autoencoder.is_plan:
        rows = [row for row, mix in enumerate(mixes) for _ in mix]
        texts, ends = zip(*(part for mix in mixes for part in mix), strict=True)
        changed = rewrite_each(
            parts, texts, ends, [points[row] for row in rows], [seeds[row] for row in rows], count, options, MANNERS
        )  # fmt: skip
        for row, others in zip(rows, changed, strict=True):
            drawn[row] = [*drawn[row], *others]
        for row, (own, mix) in enumerate(zip(drawn, mixes, strict=True)):  # (a point between texts is none of them)
            there = {copy_key(text) for text, _ in mix}
            drawn[row] = [text for text in own if copy_key(text) not in there] or own
    return best_wordings(parts, drawn, points, batch_size, sources=known, reads_well=READS_WELL)


def _prior(parts: ModelParts) -> LatentDiffusionModel:
    if parts.diffusion is None:
        raise UserError(f"'{parts.name}' has no diffusion model; choose the path slerp, which needs none")
    return parts.diffusion


def _noises(diffusion: LatentDiffusionModel, points: list[Tensor], batch_size: int) -> list[Tensor]:
    """The noise of each text's latents."""
    found: list[Tensor] = []
    for start in range(0, len(points), batch_size):
        latents = padded(points[start : start + batch_size])
        found += replace(latents, values=to_noise(diffusion, RawCondition(), latents)).rows()
    return found


def _forward(diffusion: LatentDiffusionModel, noises: list[Tensor], batch_size: int) -> list[Tensor]:
    """The latents of each noise."""
    found: list[Tensor] = []
    for start in range(0, len(noises), batch_size):
        zt = padded(noises[start : start + batch_size])
        found += from_noise(diffusion, RawCondition(), zt.values, zt.mask).rows()
    return found
