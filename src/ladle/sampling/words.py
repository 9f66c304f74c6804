"""Turns latents into words and words into latents: many texts, in batches of similar length."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self, get_args

import torch
from pydantic import Field, model_validator

from ladle.autoencoder.autoencoder import DecoderName, TextAutoencoder
from ladle.autoencoder.backbone import Backbone
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.lexicon import Lexicon, words_of
from ladle.autoencoder.loop import Ending
from ladle.autoencoder.plan import CLEAN_LOG_SNR
from ladle.autoencoder.wording import wording_of
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.store import ConditionStore
from ladle.config import Config, nearest
from ladle.data.stores import length_batches
from ladle.diffusion.schedule import Level, ScheduleConfig, build_schedule
from ladle.errors import UserError
from ladle.layers import lengths_to_mask
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise


class DecodingOptions(Config):
    """The options of `LatentDiffusion.decode`, named as in transformers' `generate`."""

    num_beams: int = Field(1, ge=1)
    do_sample: bool = False
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _draws(self) -> Self:
        if not self.do_sample and {"temperature", "top_p"} & self.model_fields_set:
            raise ValueError("temperature and top_p need do_sample=True")
        return self


def decoding(options: SamplingOptions) -> dict[str, Any]:
    """The options for words, under the names of `TextAutoencoder.decode`."""
    if options.num_beams > 1:
        return {"num_beams": options.num_beams}
    if options.temperature:
        return {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p}
    return {}


def words_are_known(options: SamplingOptions) -> bool:
    """Whether words are drawn from a lexicon. Beams and the parallel decoder do not look."""
    return options.words == "known" and options.decoder == "autoregressive" and options.num_beams == 1


def lexicon_for(backbone: Backbone, sources: Iterable[str | None]) -> Lexicon | None:
    """The words that the backbone may write for these sources: its own and theirs."""
    if backbone.lexicon is None:
        return None
    return backbone.lexicon.extended(words_of(source for source in sources if source))


def rows_by_lexicon(
    backbone: Backbone, known: Sequence[str], options: SamplingOptions
) -> list[tuple[Lexicon | None, list[int]]]:
    """Which rows may write the same words: (their lexicon, their numbers). `known` holds for each row a text whose
    words it may write beside the model's own. (Other rows' it may not, so that it does not depend on its batch.)"""
    lexicons = {text: lexicon_for(backbone, [text]) if words_are_known(options) else None for text in set(known)}
    groups: dict[int, list[int]] = {}
    for row, text in enumerate(known):
        groups.setdefault(id(lexicons[text]), []).append(row)
    return [(lexicons[known[rows[0]]], rows) for rows in groups.values()]


@torch.no_grad()
def encode_texts(
    autoencoder: TextAutoencoder,
    texts: Sequence[str],
    batch_size: int,
    *,
    wording: bool = False,
    conditions: ConditionStore | None = None,
) -> Latents:
    """texts -> z0 [B, L, D] with its mask, in the order of the texts, encoded in batches of similar length.

    wording: of a plan, give the wording too, as the decoder reads it under `conditions` (the texts' labels and
    sources).
    """
    parts: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    words: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for rows in length_batches(texts, batch_size):
        own = [texts[row] for row in rows]
        latents = autoencoder.encode_texts(own)
        for row, values, mask in zip(rows, latents.values, latents.mask, strict=True):
            parts[row] = values[mask]
        if not wording:
            continue
        tokens = autoencoder.backbone.tokenize(own)
        ids, there = (tokens[name].to(autoencoder.device) for name in ("input_ids", "attention_mask"))
        raw = None if conditions is None else conditions.gather(torch.tensor(rows)).to(autoencoder.device)
        numbers = wording_of(autoencoder, latents, ids, there, read_conditions(autoencoder, raw, len(rows)))
        for row, values, mask in zip(rows, numbers, there, strict=True):
            words[row] = values[mask]
    both = torch.nn.utils.rnn.pad_sequence(words, batch_first=True) if wording else None
    return replace(padded(parts), space=autoencoder.normaliser.fingerprint(), wording=both)


@torch.no_grad()
def decode_texts(
    autoencoder: TextAutoencoder,
    latents: Sequence[torch.Tensor],
    decoder: DecoderName | None,
    batch_size: int,
    noise: Sequence[SampleNoise] | None = None,
    log_snr: Sequence[float | None] | None = None,
    conditions: ConditionStore | None = None,
    wording: torch.Tensor | None = None,
    may_end: Callable[[str], bool] | None = None,
    ended: dict[int, bool] | None = None,
    **how: Any,
) -> list[str]:
    """One text for each element of `latents`, [L, D] each, in their order.

    Args:
        latents: normalised; the numbers of latents L may differ.
        decoder: `autoregressive` (also when None) or `parallel`. UserError if the model has no parallel decoder.
        noise: the texts' own random streams, to draw words.
        log_snr: of each text's latents; None: they have no noise.
        conditions: the texts' labels and sources, for a decoder that reads them.
        wording: [B, S], the numbers by which the texts' tokens are chosen.
        may_end: a text so far -> whether it may end there (`Ending`); None: anywhere.
        ended: is told of each text whether it ended by itself, or was cut at the longest text.
        how: options of `TextAutoencoder.decode`.
    """
    check_decoder(autoencoder, decoder)
    device = next(autoencoder.parameters()).device
    texts = [""] * len(latents)
    for rows in length_batches(latents, batch_size):
        given: dict[str, Any] = {}
        if noise is not None:
            given["noise"] = SampleNoise.join([noise[row] for row in rows])
        if log_snr is not None:
            given["level"] = level_of([log_snr[row] for row in rows]).to(device)
        if wording is not None:
            given["wording"] = wording[torch.tensor(rows)].to(device)
        raw = None if conditions is None else conditions.gather(torch.tensor(rows)).to(device)
        given["read"] = read_conditions(autoencoder, raw, len(rows))
        if may_end is not None:
            given["ending"] = Ending(partial(_may_end, autoencoder.backbone, may_end))
        ids = autoencoder.decode(padded([latents[row] for row in rows]).to(device), decoder, **given, **how)
        written = autoencoder.backbone.detokenize(ids, any_sign=wording is not None)  # (a wording brings its own signs)
        for row, text in zip(rows, written, strict=True):
            texts[row] = text
        if ended is not None:
            ended |= zip(rows, given["ending"].ended, strict=True)
    return texts


def decode_latents(
    autoencoder: TextAutoencoder,
    latents: Latents,
    decoder: DecoderName | None,
    batch_size: int,
    level: Level | None = None,
    **options: Any,
) -> list[str]:
    """Latents that a user gives -> texts. Arguments and errors are those of `LatentDiffusion.decode`."""
    autoencoder.check_latents(latents)
    how = DecodingOptions.parse(options, "decode")
    if how.num_beams > 1 and decoder == "parallel":
        raise UserError("num_beams needs the autoregressive decoder")
    level, log_snr, values = latents.level if level is None else level, None, latents.values
    if level is not None:
        if not autoencoder.is_plan:
            raise UserError("this model's decoder reads latents without noise only; give no level")
        log_snr = level.log_snr.expand(len(latents)).tolist()
        values = values / level.expand(values).scale
    parts = replace(latents, values=values).rows()
    words = how.model_dump(exclude_unset=True)
    if latents.wording is not None and how.num_beams == 1 and not how.do_sample:
        words["wording"] = latents.wording
    return decode_texts(autoencoder, parts, decoder, batch_size, log_snr=log_snr, **words)


def _may_end(backbone: Backbone, may_end: Callable[[str], bool], tokens: list[int]) -> bool:
    return may_end(backbone.detokenize(torch.tensor([tokens], dtype=torch.long))[0])


def check_decoder(autoencoder: TextAutoencoder, decoder: DecoderName | None) -> None:
    """Raises UserError if the autoencoder does not have this decoder."""
    known = get_args(DecoderName)
    if decoder is not None and not (isinstance(decoder, str) and decoder in known):
        raise UserError(f"there is no decoder {decoder!r:.60}: {nearest(str(decoder), list(known))}")
    if decoder == "parallel" and autoencoder.parallel_decoder is None:
        raise UserError("this model has no parallel decoder; use the autoregressive decoder")


def level_of(log_snr: Sequence[float | None]) -> Level:
    """The levels [B] of latents with these log-SNRs, of unit variance; None: without noise."""
    values = [CLEAN_LOG_SNR if value is None else value for value in log_snr]
    return build_schedule(ScheduleConfig()).level_from_log_snr(torch.tensor(values, dtype=torch.float32))


def padded(parts: Sequence[torch.Tensor]) -> Latents:
    """[L, D] each -> Latents [B, longest L, D]."""
    values = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    lengths = torch.tensor([len(part) for part in parts], device=values.device)
    return Latents(values, lengths_to_mask(lengths, values.shape[1]))
