"""Several candidates for each text. One is kept: the soundest, or the first that matches its label."""

from collections.abc import Callable, Sequence
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
Score = Callable[[list[str], str | None, str | None, int], Sequence[float]]
"""(texts of one sample, its label, its source, its seed) -> a number for each text. The highest is kept."""
Classify = Callable[[list[str], list[int]], torch.Tensor]
"""(texts, their samples' seeds) -> probabilities of the model's labels, [N, number of labels]."""


@dataclass(frozen=True)
class LabelCheck:
    """The probability that a text is what was asked for: that it matches its label, and what controls ask for.

    names: the model's labels, possibly none. classify: gives the probabilities of labels. always: whether the choice of
    the soundest candidate looks at labels too; it looks at controls in any case. controls: texts -> the smallest
    probability of all that controls ask for; None: there are no controls.
    """

    names: tuple[str, ...]
    classify: Classify
    always: bool = False
    controls: Callable[[Sequence[str]], list[float]] | None = None

    def shares(self, texts: list[str], labels: list[str | None], seeds: list[int]) -> list[float]:
        """A probability for each text, the smallest over its label and the controls. An empty text has 0. If nothing
        is asked for, every other text has 1."""
        shares = [1.0] * len(texts)
        if any(label is not None for label in labels):
            table = self.classify(texts, seeds)
            shares = [
                1.0 if label is None else float(row[self.names.index(label)])
                for row, label in zip(table, labels, strict=True)
            ]
        if self.controls is not None:
            shares = [*map(min, shares, self.controls(texts))]
        return [share if text.strip() else 0.0 for text, share in zip(texts, shares, strict=True)]


def soundest(request: Request, options: SamplingOptions, draw: Draw, score: Score, check: LabelCheck) -> list[Sample]:
    """Each sample's candidate with the highest score. Only candidates are considered that are what the controls ask for
    and, with `check.always`, match the label."""
    kept = []
    for row, own in enumerate(draw(request, range(options.candidates))):
        seed, label, source = request.seeds[row], request.labels[row], request.sources[row]
        right = own
        if (check.always or check.controls) and len(own) > 1:
            asked = label if check.always else None
            shares = check.shares([one.text for one in own], [asked] * len(own), [seed] * len(own))
            enough = min(options.label_confidence, max(shares))
            right = [one for one, share in zip(own, shares, strict=True) if share >= enough]
        right = [one for one in right if one.fits] or right
        # An empty text is kept only where all are empty.
        right = [one for one in right if one.text.strip()] or right[:1]
        best, value = right[0], None
        if len(right) > 1:
            scores = score([one.text for one in right], label, source, seed)
            value, best = max(zip(scores, right, strict=True), key=lambda pair: pair[0])
        kept.append(Sample(best.text, seed, label, source, best.latents, value, best.log_snr))
    return kept


def first_with_label(request: Request, options: SamplingOptions, draw: Draw, check: LabelCheck) -> list[Sample]:
    """Each sample's first candidate that matches its label and what controls ask for, else the one with the highest
    probability of that. Later candidates are drawn only for samples that still need one."""
    kept: dict[int, tuple[tuple[bool, float], Sample]] = {}
    waiting = list(range(len(request)))
    for number in range(options.candidates):
        part = request.part(waiting)
        drawn = [own[0] for own in draw(part, [number])]
        shares = check.shares([one.text for one in drawn], part.labels, part.seeds)
        for row, one, share in zip(waiting, drawn, shares, strict=True):
            value = one.fits, share
            if row not in kept or value > kept[row][0]:
                seed, label, source = request.seeds[row], request.labels[row], request.sources[row]
                kept[row] = value, Sample(one.text, seed, label, source, one.latents, share, one.log_snr)
        waiting = [row for row in waiting if kept[row][0] < (True, options.label_confidence)]
        if not waiting:
            break
    return [kept[row][1] for row in range(len(request))]


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Seeds of a sample's candidates. The first is the sample's own seed."""
    return [seed] + [(seed + 2_654_435_761 * i) % 2**32 for i in range(1, count)]  # its own as it is: it may be wrong
