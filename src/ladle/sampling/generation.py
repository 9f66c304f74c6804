"""Turns a request into finished samples: lengths, latents, words, and the choice among candidates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.sampling.candidates import Candidate, ConditionCheck, candidate_seeds, first_that_matches, soundest
from ladle.sampling.draw import draw_latents, draw_lengths, followed, num_steps
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request, Sample
from ladle.sampling.soundness import SoundnessScore
from ladle.sampling.steering import Steering
from ladle.sampling.word_count import WordRange, write_ending, write_in_range
from ladle.sampling.words import check_decoder, decode_texts, decoding, lexicon_for, words_are_known
from ladle.seeding import SampleNoise

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Writer:
    """The parts of a model that write texts, in eval mode and on one device.

    reader: reads source texts. check: tells whether a text matches its label and attributes. batch_size: samples drawn
    at once. steering: control from outside the model.
    """

    autoencoder: TextAutoencoder
    diffusion: LatentDiffusionModel
    reader: SourceReader
    check: ConditionCheck
    batch_size: int = 128
    steering: Steering | None = None

    def unfollowed(self, options: SamplingOptions) -> frozenset[str]:
        """The model's conditions that texts need not obey, by name. Their decoder is not told these."""
        return frozenset(self.reader.config.names) - followed(self.diffusion, options)


def generate_samples(
    writer: Writer, request: Request, options: SamplingOptions, *, on_step: OnStep | None = None
) -> list[Sample]:
    """Draw the candidates of every sample and keep one per sample, in the order of the request.

    on_step: called with (steps done, steps in total). The total grows if candidates need another round.

    Raises UserError: an unknown label or value, a source or a decoder that the model does not have, a seed outside 0 to
    2^32 - 1, more words than a text of the model can have.
    """
    if words := WordRange.of(options):
        words.check(writer.autoencoder.backbone.max_tokens)
    check_decoder(writer.autoencoder, options.decoder)
    ignored = writer.unfollowed(options)
    score = SoundnessScore(writer.autoencoder, writer.diffusion, writer.reader, options.guidance_scale, ignored)
    draw = partial(_draw_candidates, writer, options, _Steps(on_step))
    several_by_label = options.choose == "label" and options.candidates > 1
    by_label = [several_by_label and source is None for source in request.sources]
    kept: dict[int, Sample] = {}
    for match_decides in sorted(set(by_label)):
        rows = [row for row, own in enumerate(by_label) if own == match_decides]
        part = request.part(rows)
        if match_decides:
            samples = first_that_matches(part, options, draw, writer.check)
        else:
            samples = soundest(part, options, draw, score, writer.check)
        kept |= zip(rows, samples, strict=True)
    return [kept[row] for row in range(len(request))]


def _draw_candidates(
    writer: Writer, options: SamplingOptions, steps: "_Steps", request: Request, numbers: Sequence[int]
) -> list[list[Candidate]]:
    """Each sample's candidates with these numbers, [sample][candidate]. Number 0 has the sample's own seed.

    All random numbers of a candidate come from its own stream, so the candidate is the same in any batch.
    """
    candidates = [
        [Candidate(row, SampleNoise([candidate_seeds(seed, number + 1)[number]])) for number in numbers]
        for row, seed in enumerate(request.seeds)
    ]
    every = [one for own in candidates for one in own]
    conditions = ConditionStore(writer.reader, request.labels, request.sources, request.attributes)
    unfollowed = writer.unfollowed(options)
    obeyed = conditions.without(unfollowed)

    def given(batch: Sequence[Candidate]) -> tuple[RawCondition, SampleNoise]:
        """Conditions and random streams. Each stream continues from its present position."""
        raw = conditions.gather(torch.tensor([one.sample for one in batch])).to(writer.diffusion.device)
        return raw, SampleNoise.join([one.noise for one in batch])

    # Lengths.
    for batch in _batches(every, writer.batch_size):
        lengths = draw_lengths(writer.diffusion, *given(batch), options)
        for one, length in zip(batch, lengths.tolist(), strict=True):
            one.length = length
    # Short texts are reconstructed better than long texts. Candidates that are compared by reconstruction get the same
    # length, else the shortest would win.
    for one in every:
        if request.sources[one.sample] is None:
            one.length = candidates[one.sample][0].length
    words, latent = WordRange.of(options), writer.autoencoder.bottleneck.tokens_per_latent
    if words is not None and latent is not None:  # (the decoder can hardly write more than such latents have places)
        least, most = words.num_latents(latent)
        for one in every:
            one.length = min(max(one.length, least), most or one.length, writer.diffusion.max_latents)

    # Latents. Samples of similar length share a batch, so that there is little padding. Samples without a condition
    # to obey have batches of their own, because they stop at another time.
    free = [not request.names(row) - unfollowed for row in range(len(request))]

    def draw(part: Sequence[Candidate]) -> None:
        by_length = sorted(part, key=lambda one: one.length)
        groups = {wanted: [one for one in by_length if free[one.sample] == wanted] for wanted in (False, True)}
        batches = {wanted: [*_batches(group, writer.batch_size)] for wanted, group in groups.items()}
        counts = {wanted: num_steps(writer.diffusion, options, not wanted) for wanted in groups}
        steps.total += sum(len(own) * counts[wanted] for wanted, own in batches.items())
        for batch in (*batches[False], *batches[True]):
            lengths = torch.tensor([one.length for one in batch])
            changed = None if writer.steering is None else writer.steering.changed(lengths, writer.diffusion.device)
            z0 = draw_latents(writer.diffusion, *given(batch), lengths, options, steps.step, changed=changed)
            scale = 1.0 if z0.level is None else z0.level.scale.cpu()
            for one, values in zip(batch, z0.values.cpu(), strict=True):
                one.latents = values[: one.length] / scale
                one.log_snr = None if z0.level is None else float(z0.level.log_snr)

    # Words.
    how = decoding(options)
    if words_are_known(options):
        how["lexicon"] = lexicon_for(writer.autoencoder.backbone, request.sources)

    def write(part: Sequence[Candidate], **more: Any) -> None:
        latents, noise = [one.latents for one in part], [one.noise for one in part]
        if writer.autoencoder.is_plan:
            samples = torch.tensor([one.sample for one in part])
            # (A decoder that were told of a condition to avoid would write it.)
            more |= {"log_snr": [one.log_snr for one in part], "conditions": obeyed.of_rows(samples)}
        more = how | more
        texts = decode_texts(writer.autoencoder, latents, options.decoder, writer.batch_size, noise=noise, **more)
        for one, text in zip(part, texts, strict=True):
            one.text = text

    draw(every)
    if words is None:
        write(every)
        empty = [one for one in every if not one.text.strip()]
        if empty and options.decoder == "autoregressive":  # nobody asks for a text of nothing
            write(empty, may_end=lambda text: bool(text.strip()))
    else:
        write_in_range(words, every, draw, partial(write_ending, words, write, drawn="do_sample" in how))
    return candidates


class _Steps:
    """Counts the steps of all rounds together."""

    def __init__(self, on_step: OnStep | None):
        self.on_step, self.done, self.total = on_step, 0, 0

    def step(self) -> None:
        self.done += 1
        if self.on_step is not None:
            self.on_step(self.done, self.total)


def _batches(candidates: list[Candidate], size: int) -> Iterator[list[Candidate]]:
    return (candidates[start : start + size] for start in range(0, len(candidates), size))
