"""Latents for a text of which only a part is known: how does the prior draw them near that part?

Latents that are not in the order of the words (a plan, a Perceiver's) have no place for a blank. So the given part is
encoded as a text of its own, noised to a middle time and taken to a clean end by the prior (SDEdit, arXiv 2108.01073).
Latents in the order of the words are inpainted: those of given words are held, those of the blanks are drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.wrappers import inpainted
from ladle.editing.template import Template
from ladle.editing.vocabulary import Vocabulary
from ladle.editing.way import renoised
from ladle.layers import lengths_to_mask
from ladle.sampling.draw import draw_latents, draw_lengths
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise

START_TIME = 0.5  # diffusion time from which the given part is taken to a clean end (measured on base-en)
BLANK_TOKENS = 6  # a blank's guessed number of tokens, at most


@torch.no_grad()
def latents_for(
    autoencoder: TextAutoencoder,
    diffusion: LatentDiffusionModel,
    templates: Sequence[Template],
    raw: RawCondition,
    noise: SampleNoise,
    options: SamplingOptions,
) -> Latents:
    """Latents for a text of each template, each from its own stream. Either all templates give some words, or none;
    and either all rows have a condition, or none. As in `draw_latents` plans may be handed over with noise."""
    if not templates[0].known:
        return draw_latents(diffusion, raw, noise, draw_lengths(diffusion, raw, noise, options), options)
    if autoencoder.fixed_length:
        z0 = autoencoder.encode_texts([template.known for template in templates])
        return renoised(diffusion, raw, z0, noise, START_TIME, options)
    z0, is_known = with_guessed_blanks(autoencoder, templates, noise)
    return renoised(diffusion, raw, z0, noise, 1.0, options, lambda denoise: inpainted(denoise, z0.values, is_known))


def with_guessed_blanks(
    autoencoder: TextAutoencoder, templates: Sequence[Template], noise: SampleNoise
) -> tuple[Latents, Tensor]:
    """z0 of the templates, with mask tokens in their blanks, and which latents hold given tokens alone, bool [B, L].

    How many tokens a blank has is not known. Each candidate of a text guesses its own number, from 1 to BLANK_TOKENS.
    """
    backbone = autoencoder.backbone
    vocabulary = Vocabulary(backbone)
    stand_in = backbone.tokenizer.mask_token_id
    stand_in = backbone.tokenizer.pad_token_id if stand_in is None else stand_in
    guesses = (1 + noise.uniform((max(template.num_blanks for template in templates),)) * BLANK_TOKENS).long().tolist()
    rows, known = [], []
    for template, sizes in zip(templates, guesses, strict=True):
        own = vocabulary.contexts([template.pieces[0]])[0]
        tokens, is_known = [*own], [True] * len(own)
        for piece, size in zip(template.pieces[1:], sizes, strict=False):
            own = vocabulary.after(piece)
            tokens, is_known = tokens + [stand_in] * size + own, is_known + [False] * size + [True] * len(own)
        rows.append(torch.tensor([*tokens[: backbone.max_tokens - 1], vocabulary.end]))
        known.append(torch.tensor([*is_known[: backbone.max_tokens - 1], bool(template.pieces[-1])]))
    lengths = torch.tensor([len(own) for own in rows])
    ids, mask = pad_sequence(rows, batch_first=True), lengths_to_mask(lengths, int(lengths.max()))
    latents = autoencoder.encode(ids.to(autoencoder.device), mask.to(autoencoder.device))
    group = autoencoder.bottleneck.tokens_per_latent
    padded = torch.ones(len(rows), latents.mask.shape[1] * group, dtype=torch.bool)
    padded[:, : ids.shape[1]] = pad_sequence(known, batch_first=True, padding_value=True)
    return latents, padded.unflatten(1, (-1, group)).all(-1).to(autoencoder.device)
