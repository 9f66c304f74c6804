"""Several candidates for each text. One is kept: the soundest, or the first that matches its label and attributes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Request, Sample
from ladle.seeding import SampleNoise


@dataclass
class Candidate:
    """One draw for one sample, possibly unfinished."""

    sample: int
    """Its sample's place in the request."""
    noise: SampleNoise
    """Its own random stream: first for its length, then for its latents, then for its words."""
    length: int = 0
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """[length, D], on the CPU."""
    log_snr: float | None = None
    """Of the latents, if they are noised."""
    text: str = ""
    fits: bool = True
    """Whether the text has as many words as wanted."""


Draw = Callable[[Request, Sequence[int]], list[list[Candidate]]]
"""(request, numbers) -> the candidates of these numbers, [sample][candidate]."""
Score = Callable[[list[str], Request], Sequence[float]]
"""(texts of one sample, the request for it alone) -> a number for each text. The highest is kept."""
Classify = Callable[[list[str], list[int], str], torch.Tensor]
"""(texts, their samples' seeds, the name of a condition) -> probabilities of its values, [N, number of values]."""


@dataclass(frozen=True)
class ConditionCheck:
    """The probability that a text is what was asked for: that it matches its label and its attributes, and what
    controls ask for.

    values: of each condition that can be checked, by name. classify: gives the probabilities of these values. always:
    the conditions by which the choice of the soundest candidate checks too; it looks at controls in any case. avoided:
    conditions that lead away from their value, which a text must not have. ignored: conditions that are not checked.
    controls: texts -> the smallest probability of all that controls ask for; None: there are no controls.
    """

    values: Mapping[str, Sequence[str]]
    classify: Classify
    always: Collection[str] = ()
    avoided: Collection[str] = ()
    ignored: Collection[str] = ()
    controls: Callable[[Sequence[str]], list[float]] | None = None

    def shares(
        self, texts: list[str], wanted: list[dict[str, str]], seeds: list[int], names: Collection[str] | None = None
    ) -> list[float]:
        """A probability for each text: that of the condition or control which it matches least. An empty text has 0. If
        nothing is asked for, every other text has 1.

        wanted: label and attributes of each text, by name. names: of the conditions to check by, beside the controls;
        None: all.
        """
        shares = [1.0 if text.strip() else 0.0 for text in texts]
        checked = self.values.keys() - {*self.ignored}
        for name in sorted(checked if names is None else checked & {*names}):
            if not any(name in own for own in wanted):
                continue
            known = list(self.values[name])
            for i, (row, own) in enumerate(zip(self.classify(texts, seeds, name), wanted, strict=True)):
                if name in own:
                    share = float(row[known.index(own[name])])
                    shares[i] = min(shares[i], 1 - share if name in self.avoided else share)
        return shares if self.controls is None else [*map(min, shares, self.controls(texts))]


def soundest(
    request: Request, options: SamplingOptions, draw: Draw, score: Score, check: ConditionCheck
) -> list[Sample]:
    """Each sample's candidate with the highest score. Only candidates are considered that match the conditions in
    `check.always` and are what the controls ask for."""
    kept = []
    for row, own in enumerate(draw(request, range(options.candidates))):
        right, seed = own, request.seeds[row]
        if (check.always or check.controls) and len(own) > 1:
            wanted = [request.classes(row)] * len(own)
            shares = check.shares([one.text for one in own], wanted, [seed] * len(own), check.always)
            enough = min(options.label_confidence, max(shares))
            right = [one for one, share in zip(own, shares, strict=True) if share >= enough]
        right = [one for one in right if one.fits] or right
        # An empty text is kept only where all are empty.
        right = [one for one in right if one.text.strip()] or right[:1]
        best, value = right[0], None
        if len(right) > 1:
            scores = score([one.text for one in right], request.part([row]))
            value, best = max(zip(scores, right, strict=True), key=lambda pair: pair[0])
        kept.append(request.sample(row, best.text, best.latents, value, best.log_snr))
    return kept


def first_that_matches(request: Request, options: SamplingOptions, draw: Draw, check: ConditionCheck) -> list[Sample]:
    """Each sample's first candidate that matches its label, its attributes and what controls ask for, else the one that
    matches them best. Later candidates are drawn only for samples that still need one."""
    kept: dict[int, tuple[tuple[bool, float], Sample]] = {}
    waiting = list(range(len(request)))
    for number in range(options.candidates):
        part = request.part(waiting)
        drawn = [own[0] for own in draw(part, [number])]
        wanted = [part.classes(row) for row in range(len(part))]
        shares = check.shares([one.text for one in drawn], wanted, part.seeds)
        for row, one, share in zip(waiting, drawn, shares, strict=True):
            value = one.fits, share
            if row not in kept or value > kept[row][0]:
                kept[row] = value, request.sample(row, one.text, one.latents, share, one.log_snr)
        waiting = [row for row in waiting if kept[row][0] < (True, options.label_confidence)]
        if not waiting:
            break
    return [kept[row][1] for row in range(len(request))]


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Seeds of a sample's candidates. The first is the sample's own seed."""
    return [seed] + [(seed + 2_654_435_761 * i) % 2**32 for i in range(1, count)]  # its own as it is: it may be wrong
