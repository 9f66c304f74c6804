"""Infilling: texts from a template such as "The ___ served ___ food.". What is given stays in them to the letter.

plans    latents near those of what is given (`latents_for`)
words    fills for the blanks, from the left to the right (`ladle.editing.blanks`)
choice   of several candidates the one whose words fit together best (`ladle.sampling.soundness`)
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ladle.autoencoder.lexicon import Lexicon
from ladle.checks import check_texts, check_whole
from ladle.conditioning.config import LABEL, SOURCE
from ladle.conditioning.decoder import read_conditions
from ladle.conditioning.store import ConditionStore
from ladle.diffusion.model import LatentDiffusionModel
from ladle.editing.blanks import DRAWS, Draft, fill_blanks, repeated
from ladle.editing.starts import latents_for
from ladle.editing.template import Template
from ladle.errors import UserError
from ladle.sampling.asked import check_asked
from ladle.sampling.candidates import Candidate, ConditionCheck, candidate_seeds, soundest
from ladle.sampling.draw import followed
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request, Sample, Values
from ladle.sampling.soundness import SoundnessScore
from ladle.sampling.word_count import WordRange, count_words, missed_line, write_in_range
from ladle.sampling.words import level_of, lexicon_for, padded
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

REPEATED = 0.2  # of a candidate's score, nats a token, for each long word that it says again


def infill(
    parts: ModelParts,
    template: str | Iterable[str],
    n: int = 1,
    *,
    seed: int | None = None,
    seeds: Iterable[int] | None = None,
    label: str | int | Iterable[str | int | None] | None = None,
    source: str | Iterable[str | None] | None = None,
    attributes: Mapping[str, Values] | None = None,
    check: Callable[[SamplingOptions], ConditionCheck] | None = None,
    batch_size: int = 128,
    **overrides: Any,
) -> list[Sample]:
    """Fill the blanks (three or more underscores each) of one template or several: `n` texts of each.

    A text depends on its own template, seed, label and source alone, not on its batch.

    Args:
        parts: a model with a diffusion model, in evaluation mode.
        seed, seeds, label, source, attributes: as in `LatentDiffusion.generate`: one for all texts, or one for each.
        check: options -> the check of candidates by their conditions. None: no check.
        batch_size: candidates whose latents are drawn at once. Their words are drawn in smaller batches.
        overrides: fields of `SamplingOptions`. `temperature` and `top_p` are those of the words in blanks, `candidates`
            the filled texts of which one is kept. `min_words` and `max_words` count all words of a text: its blanks are
            filled again until it has as many, as in `generate`.

    Returns:
        The samples of the first template, then those of the second, and so on.

    Raises:
        UserError: a template that is empty, has no blank, or more tokens or words than it may; the parallel decoder or
            a search by beams, which cannot keep to a template; all that `LatentDiffusion.generate` raises.
    """
    assert parts.diffusion is not None, "infilling needs a diffusion model"
    texts, options = check_texts(template, "template"), parts.sampling.override(**overrides)
    condition = parts.diffusion.condition.config
    many, batch_size = len(texts) * check_whole("n", n), check_whole("batch_size", batch_size)
    request = Request.line_up(many, seed, seeds, label, source, attributes, condition)
    if options.decoder != "autoregressive" or options.num_beams > 1:
        given = "the parallel decoder" if options.decoder == "parallel" else f"num_beams {options.num_beams}"
        raise UserError(f"{given} cannot fill blanks; use the autoregressive decoder without beams")
    asked = {LABEL: label, SOURCE: source} | dict(attributes or {})
    check_asked(request, asked, condition, options, overrides)
    condition.label_ids(request.labels)  # (here, before anything is drawn)
    condition.attribute_ids(request.attributes)
    known = {text: Template.parse(text) for text in texts}
    words = WordRange.of(options) or WordRange()
    words.check(parts.autoencoder.backbone.max_tokens)
    for text, own in known.items():
        own.check_room(parts.autoencoder.backbone)
        check_words(words, text, own)
    checked = ConditionCheck({}, lambda texts, seeds, name: torch.empty(0)) if check is None else check(options)
    if options.choose == "label":
        checked = replace(checked, always=tuple(checked.values))
    ignored = frozenset(condition.names) - followed(parts.diffusion, options)
    templates = [known[text] for text in texts for _ in range(n)]
    work = _Work(parts, parts.diffusion, templates, options, batch_size, ignored)
    sound = SoundnessScore(parts.autoencoder, parts.diffusion, parts.reader(), options.guidance_scale, ignored)

    def score(given: list[str], own: Request) -> list[float]:
        """A decoder finds a text likely that says the same word again and again."""
        pairs = zip(given, sound(given, own), strict=True)
        return [value - REPEATED * repeated(text) for text, value in pairs]

    samples = soundest(request, options, work.draw, score, checked)
    if line := missed_line([sample.text for sample in samples], options):
        warnings.warn(line, stacklevel=2)
    return samples


def check_words(words: WordRange, text: str, template: Template) -> None:
    """Raises UserError if a template gives more words than its texts may have. A blank may only lengthen words."""
    given = count_words("".join(template.pieces))
    if words.most is not None and given > words.most:
        what = f"the template {text!r:.60} has {given} words, but max_words is {words.most}"
        raise UserError(f"{what}; give a larger number")


@dataclass(frozen=True)
class _Work:
    """What the candidates of all templates are drawn with. ignored: conditions that texts need not obey, by name."""

    parts: ModelParts
    diffusion: LatentDiffusionModel
    templates: list[Template]
    options: SamplingOptions
    batch_size: int
    ignored: frozenset[str]

    def draw(self, request: Request, numbers: Sequence[int]) -> list[list[Candidate]]:
        """Each template's candidates with these numbers, [template][candidate]. All random numbers of a candidate come
        from its own stream."""
        candidates = [
            [Candidate(row, SampleNoise([candidate_seeds(seed, number + 1)[number]])) for number in numbers]
            for row, seed in enumerate(request.seeds)
        ]
        every = [one for own in candidates for one in own]
        conditions = ConditionStore(self.parts.reader(), request.labels, request.sources, request.attributes)
        obeyed = conditions.without(self.ignored)  # (a decoder that were told of a condition to avoid would write it)

        def draw_latents(part: Sequence[Candidate]) -> None:
            # Texts without a condition to obey may stop at another time, and templates without words begin elsewhere.
            groups: dict[tuple[bool, bool], list[Candidate]] = {}
            for one in part:
                free = not request.names(one.sample) - self.ignored
                groups.setdefault((free, bool(self.templates[one.sample].known)), []).append(one)
            for group in groups.values():
                for batch in _batches(group, self.batch_size):
                    self._draw_latents(batch, conditions)

        lexicons = [
            lexicon_for(self.parts.autoencoder.backbone, [source, template.known])
            if self.options.words == "known" else None
            for source, template in zip(request.sources, self.templates, strict=True)
        ]  # fmt: skip

        def write(part: Sequence[Candidate], number: int = 0) -> list[bool]:
            for batch in _batches(part, max(1, self.batch_size // DRAWS)):
                self._write(batch, obeyed, lexicons)
            return [True] * len(part)  # (whether a text is cut is nothing that fills tell)

        draw_latents(every)
        if words := WordRange.of(self.options):
            write_in_range(words, every, draw_latents, write)
        else:
            write(every)
        return candidates

    def _draw_latents(self, batch: Sequence[Candidate], conditions: ConditionStore) -> None:
        raw = conditions.gather(torch.tensor([one.sample for one in batch])).to(self.diffusion.device)
        noise = SampleNoise.join([one.noise for one in batch])
        templates = [self.templates[one.sample] for one in batch]
        latents = latents_for(self.parts.autoencoder, self.diffusion, templates, raw, noise, self.options)
        scale = 1.0 if latents.level is None else latents.level.scale.cpu()
        for one, values, mask in zip(batch, latents.values.cpu(), latents.mask.cpu(), strict=True):
            one.latents, one.length = values[mask] / scale, int(mask.sum())
            one.log_snr = None if latents.level is None else float(latents.level.log_snr)

    @torch.no_grad()
    def _write(self, batch: Sequence[Candidate], conditions: ConditionStore, lexicons: list[Lexicon | None]) -> None:
        autoencoder = self.parts.autoencoder
        rows = torch.tensor([one.sample for one in batch])
        latents = padded([one.latents for one in batch]).to(autoencoder.device)
        level = level_of([one.log_snr for one in batch]).to(autoencoder.device) if autoencoder.is_plan else None
        raw = conditions.gather(rows).to(autoencoder.device)
        memory = autoencoder.expand(latents, level, read_conditions(autoencoder, raw, len(batch)))
        drafts = [Draft(self.templates[one.sample], one.noise, lexicons[one.sample]) for one in batch]
        how = {"temperature": self.options.temperature, "top_p": self.options.top_p}
        fill_blanks(autoencoder.backbone, drafts, memory, **how)
        for one, draft in zip(batch, drafts, strict=True):
            one.text = draft.before


def _batches(candidates: Sequence[Candidate], size: int) -> Iterator[Sequence[Candidate]]:
    return (candidates[start : start + size] for start in range(0, len(candidates), size))
