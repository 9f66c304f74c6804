"""Editing: texts blended, varied, said in other words, changed. One call each, with a report on every text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ladle.autoencoder.autoencoder import TextAutoencoder
from ladle.checks import MAX_SEED, check_number, check_texts, check_whole
from ladle.data.files import PathLike
from ladle.data.stores import count_cut
from ladle.editing import edit as editing
from ladle.editing import interpolate as paths
from ladle.editing.change import Attribute, Change, Fluency, measured
from ladle.editing.directions import Direction, analogy
from ladle.editing.vary import MAX_OVERLAP, paraphrase, vary
from ladle.errors import UserError
from ladle.evaluation.scorer import Scorer, perplexity
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import fresh_seed
from ladle.sampling.words import encode_texts
from ladle.storage.parts import ModelParts

Texts = str | Iterable[str]


@dataclass(frozen=True)
class Editor:
    """Changes texts by one model. `LatentDiffusion.edit` and its neighbours are methods of this class.

    Each method returns `Change`s: a text, what it was made from, and how much of it was kept. Common arguments:

    * seed: of the first text; seeds count up from it. None: a random one, which each `Change` says.
    * scorer: a folder that `ladle fit scorer` wrote, a causal language model, or what `scorer_fluency` made of one. It
      adds the perplexity of each text.
    * batch_size: texts at once. overrides: fields of `ladle.sampling.options.SamplingOptions`.

    All raise UserError for an empty text, a text that is longer than the model holds, or an option out of range.
    """

    parts: ModelParts
    batch_size: int = 128

    def interpolate(
        self,
        first: Texts,
        second: Texts,
        steps: int = 11,
        *,
        path: str = "prior",
        candidates: int = paths.CANDIDATES,
        seed: int | None = None,
        scorer: str | Fluency | None = None,
        **overrides: Any,
    ) -> list[Change] | list[list[Change]]:
        """Texts on the way from one to another, both included: `steps` of them. Two lists give a way for each pair.

        path: `prior`, `slerp`, `linear` or `renoise` (`ladle.editing.interpolate.interpolate`). candidates: wordings
        that are drawn for each position; the best is kept.
        """
        single = isinstance(first, str)
        firsts, seconds = self._texts(first, "first"), self._texts(second, "second")
        if len(firsts) != len(seconds):
            raise UserError(f"{len(firsts)} first texts and {len(seconds)} second ones; give as many of both")
        shares = paths.positions(check_whole("steps", steps))
        found = paths.interpolate(
            self.parts, firsts, seconds, shares, path=path, seed=_first(seed, len(firsts)),
            candidates=check_whole("candidates", candidates), options=self._options(overrides),
            batch_size=self.batch_size,
        )  # fmt: skip
        flat = iter(self._measured([change for row in found for change in row], scorer))
        rows = [[next(flat) for _ in row] for row in found]
        return rows[0] if single else rows

    def blend(
        self,
        texts: Iterable[str],
        weights: Sequence[float] | None = None,
        *,
        path: str = "slerp",
        candidates: int = paths.CANDIDATES,
        seed: int | None = None,
        scorer: str | Fluency | None = None,
        **overrides: Any,
    ) -> Change:
        """One text from several, by the weighted mean of their latents. A negative weight goes away from its text.

        path: `slerp`, `linear`, `prior` or `renoise` (`ladle.editing.interpolate.blend`)."""
        change = paths.blend(
            self.parts, self._texts(texts), weights, path=path, seed=_first(seed, 1),
            candidates=check_whole("candidates", candidates), options=self._options(overrides),
            batch_size=self.batch_size,
        )  # fmt: skip
        return self._measured([change], scorer)[0]

    def vary(
        self,
        texts: Texts,
        strength: float = 0.5,
        n: int = 1,
        *,
        seed: int | None = None,
        scorer: str | Fluency | None = None,
        **overrides: Any,
    ) -> list[Change]:
        """`n` variations of each text. strength: 0 draws other words for the same latents, 1 is a free sample."""
        repeated, seeds = self._repeated(texts, n, seed)
        options = self._options(overrides)
        found = vary(self.parts, repeated, seeds, strength, options, batch_size=self.batch_size)
        return self._measured(found, scorer)

    def paraphrase(
        self,
        texts: Texts,
        n: int = 1,
        *,
        candidates: int = 16,
        max_overlap: float = MAX_OVERLAP,
        seed: int | None = None,
        scorer: str | Fluency | None = None,
        **overrides: Any,
    ) -> list[Change]:
        """`n` paraphrases of each text: near in meaning, far in words. max_overlap: sentence BLEU against the text, 0
        to 100, above which a paraphrase is taken only if there is no other."""
        given = self._texts(texts)
        first = _first(seed, len(given))
        found = paraphrase(
            self.parts, given, range(first, first + len(given)), self._options(overrides),
            count=check_whole("n", n), candidates=check_whole("candidates", candidates), max_overlap=max_overlap,
            batch_size=self.batch_size,
        )  # fmt: skip
        return self._measured([change for own in found for change in own], scorer)

    def edit(
        self,
        texts: Texts,
        *,
        label: str | int | None = None,
        direction: Direction | PathLike | None = None,
        strength: float | None = None,
        n: int = 1,
        candidates: int = editing.CANDIDATES,
        confidence: float = editing.CONFIDENCE,
        seed: int | None = None,
        scorer: str | Fluency | None = None,
        **overrides: Any,
    ) -> list[Change]:
        """Each text with another label, or moved along a direction (`fit_direction`, or its folder).

        strength: with a label 0 to 1, by default 0.5; with a direction -10 to 10, by default 1, which is as far as the
        means of both sides are apart. candidates: texts that are tried. confidence: the probability of the label from
        which a candidate counts as changed.

        Raises UserError: both or none of label and direction; an unknown label; a direction of other latents.
        """
        if (label is None) == (direction is None):
            raise UserError("give a label or a direction, one of them")
        check_number("confidence", confidence, 0, 1)
        repeated, seeds = self._repeated(texts, n, seed)
        options, count = self._options(overrides), check_whole("candidates", candidates)
        if direction is None:
            strength = 0.5 if strength is None else strength
            found = editing.by_label(
                self.parts, repeated, seeds, str(label), strength, options, candidates=count, confidence=confidence,
                batch_size=self.batch_size,
            )  # fmt: skip
            return self._measured(found, scorer, editing.LabelAttribute(self.parts, str(label)))
        own = direction if isinstance(direction, Direction) else Direction.load(direction)
        strength = 1.0 if strength is None else strength
        found = editing.by_direction(
            self.parts, repeated, seeds, own, strength, options, candidates=count, batch_size=self.batch_size
        )
        return self._measured(found, scorer, editing.DirectionAttribute(self.parts, own, self.batch_size))

    def analogy(
        self,
        first: str,
        second: str,
        third: str,
        *,
        candidates: int = editing.CANDIDATES,
        seed: int | None = None,
        scorer: str | Fluency | None = None,
        **overrides: Any,
    ) -> Change:
        """What is to `third` as `second` is to `first`, by adding and subtracting latents."""
        for name, text in (("first", first), ("second", second), ("third", third)):
            if not isinstance(text, str):
                raise UserError(f"{name} is a {type(text).__name__}; give one text")
            self._texts(text, name)
        point = analogy(self.parts, first, second, third, self.batch_size)
        own = encode_texts(self.parts.autoencoder, [third], self.batch_size).rows()
        point = point * (own[0].norm() / point.norm())
        found = editing.at_points(
            self.parts, [third], [_first(seed, 1)], own, [point], self._options(overrides), None,
            check_whole("candidates", candidates), self.batch_size,
        )  # fmt: skip
        return self._measured(found, scorer)[0]

    def _texts(self, texts: Texts, what: str = "texts") -> list[str]:
        """Texts that the model can hold."""
        found = check_texts(texts, what)
        check_held(self.parts.autoencoder, found)
        return found

    def _options(self, overrides: dict[str, Any]) -> SamplingOptions:
        """The model's own options, with some changed. Raises UserError: numbers of words too, which no edit keeps."""
        for name in ("min_words", "max_words"):
            if overrides.get(name) is not None:
                raise UserError(f"{name} is for new texts and blanks alone; leave it out where texts are changed")
        return self.parts.sampling.override(**overrides)

    def _repeated(self, texts: Texts, n: int, seed: int | None) -> tuple[list[str], range]:
        """Each text `n` times, and a seed for each."""
        repeated = [text for text in self._texts(texts) for _ in range(check_whole("n", n))]
        first = _first(seed, len(repeated))
        return repeated, range(first, first + len(repeated))

    def _measured(
        self, changes: Sequence[Change], scorer: str | Fluency | None, attribute: Attribute | None = None
    ) -> list[Change]:
        fluency = scorer if scorer is None or callable(scorer) else scorer_fluency(scorer)
        return measured(self.parts, changes, attribute=attribute, fluency=fluency, batch_size=self.batch_size)


def check_held(autoencoder: TextAutoencoder, texts: Sequence[str]) -> None:
    """Raises UserError: an empty text, or one that is longer than the model holds."""
    backbone = autoencoder.backbone
    for number, text in enumerate(texts, start=1):
        which = f"text {number:,} of {len(texts):,}" if len(texts) > 1 else "the text"
        if not text.strip():
            raise UserError(f"{which} is empty and cannot be changed; give texts with words")
        if count_cut(backbone.tokenizer, [text], backbone.max_tokens):
            what = f"{which} is longer than the {backbone.max_tokens} tokens that the model holds"
            raise UserError(f"{what}: '{text[:40]}...'; give a shorter one")


def scorer_fluency(name: str) -> Fluency:
    """Texts -> the perplexity of each under a scorer."""
    scorer = Scorer.load(name)

    def fluency(texts: list[str]) -> list[float]:
        nll, tokens = scorer.score(texts)
        return [perplexity(nll[i : i + 1], tokens[i : i + 1]) for i in range(len(texts))]

    return fluency


def _first(seed: int | None, count: int) -> int:
    """The first of `count` seeds that count up."""
    return fresh_seed(count) if seed is None else check_whole("seed", seed, 0, MAX_SEED + 1 - count)
