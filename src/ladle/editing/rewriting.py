"""Texts rewritten for another plan or label: their own words stay, but for those that the change touches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ladle.autoencoder.autoencoder import Memory, TextAutoencoder
from ladle.autoencoder.counterfactual import counterfactual_ids
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.store import ConditionStore
from ladle.data.stores import length_batches
from ladle.editing.paths import slerp
from ladle.sampling.candidates import candidate_seeds
from ladle.sampling.options import SamplingOptions
from ladle.sampling.words import level_of, padded, rows_by_lexicon
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

TEMPERATURE = 0.7  # of words in place of those that change: at 1 one in a few of them is odd
TOKENS = 1024  # of the texts at once: each has a number for every token of the vocabulary (16 MiB for 4,096)


@dataclass(frozen=True)
class Manner:
    """How boldly a text is rewritten. share: of the way from its latents to the new ones. push, keep: as of
    `counterfactual_ids`."""

    share: float = 1.0
    push: float = 0.0
    keep: float = 0.0


def rewrite_each(
    parts: ModelParts,
    texts: Sequence[str],
    old: Sequence[Tensor],
    new: Sequence[Tensor],
    seeds: Sequence[int],
    count: int,
    options: SamplingOptions,
    manners: Sequence[Manner] = (Manner(),),
    **conditions: ConditionStore | None,
) -> list[list[str]]:
    """`count` rewritings of each text (`rewritten`), with seeds made of its own, in turn as each of `manners` says.
    conditions: `old_conditions` and `new_conditions`."""
    found: list[list[str]] = [[] for _ in texts]
    streams = [[SampleNoise([own]) for own in candidate_seeds(seed, count)] for seed in seeds]
    for number in range(count):
        manner = manners[number % len(manners)]
        points = [slerp(before, after, manner.share) for before, after in zip(old, new, strict=True)]
        noise = [own[number] for own in streams]
        more = rewritten(parts, texts, old, points, noise, options, push=manner.push, keep=manner.keep, **conditions)
        for own, text in zip(found, more, strict=True):
            own.append(text)
    return found


@torch.no_grad()
def rewritten(
    parts: ModelParts,
    texts: Sequence[str],
    old: Sequence[Tensor],
    new: Sequence[Tensor],
    streams: Sequence[SampleNoise],
    options: SamplingOptions,
    *,
    old_conditions: ConditionStore | None = None,
    new_conditions: ConditionStore | None = None,
    push: float = 0.0,
    keep: float = 0.0,
) -> list[str]:
    """Each text as the decoder would have written it for other latents and conditions (`counterfactual_ids`).

    Args:
        old, new: latents [L, D] of each text, and those that it is rewritten for.
        streams: of each text. push, keep: as of `counterfactual_ids`.
    """
    autoencoder, found = parts.autoencoder, [""] * len(texts)
    backbone, device = autoencoder.backbone, autoencoder.device
    for lexicon, same in rows_by_lexicon(backbone, texts, options):
        longest = max(map(len, backbone.tokenizer([texts[row] for row in same])["input_ids"]))
        for places in length_batches([texts[row] for row in same], max(1, TOKENS // longest)):
            rows = [same[place] for place in places]
            tokens = backbone.tokenize([texts[row] for row in rows])
            before = _read(autoencoder, [old[row] for row in rows], old_conditions, rows)
            after = _read(autoencoder, [new[row] for row in rows], new_conditions, rows)
            ids = counterfactual_ids(
                autoencoder, tokens["input_ids"].to(device), tokens["attention_mask"].to(device), before, after,
                [streams[row] for row in rows], temperature=TEMPERATURE, push=push, keep=keep, lexicon=lexicon,
            )  # fmt: skip
            for row, text in zip(rows, backbone.detokenize(ids, any_sign=True), strict=True):
                found[row] = text
    return found


def _read(
    autoencoder: TextAutoencoder,
    points: Sequence[Tensor],
    conditions: ConditionStore | None,
    rows: Sequence[int],
) -> Memory:
    """What the decoder reads of these rows."""
    device = autoencoder.device
    raw = None if conditions is None else conditions.gather(torch.tensor(rows)).to(device)
    read = read_conditions(autoencoder, raw, len(rows))
    return autoencoder.expand(padded(points).to(device), level_of([None] * len(rows)).to(device), read)
