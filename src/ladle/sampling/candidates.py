"""Several candidates for each text, of which one is kept: the soundest, or the first that is what its label says."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Conditions, Request
from ladle.sampling.soundness import SOURCE_TIME, likeness_to_others, soundness
from ladle.seeding import SampleNoise

if TYPE_CHECKING:
    from ladle.pipeline import LatentDiffusion


class Candidates:
    """The choice among `sampling.candidates`. Each sample's is by itself, so it is the same at any batch size.

    Args:
        model: what judges them.
        sampling: candidates, label_confidence, guidance_scale.
        batch_size: texts at once.
        draw: (request, candidates) -> one text a seed, where so many in a row are of one sample.
    """

    def __init__(
        self,
        model: "LatentDiffusion",
        sampling: SamplingOptions,
        batch_size: int,
        draw: Callable[[Request, int], list[str]],
    ):
        self.model, self.sampling, self.batch_size, self.draw = model, sampling, batch_size, draw

    def soundest(self, request: Request) -> list[str]:
        """Of each sample's candidates the one whose words go together best, among those that are what the label says
        where the model tells labels by words."""
        count = self.sampling.candidates
        every = request.part(
            (row for row in range(len(request)) for _ in range(count)),
            [own for seed in request.seeds for own in candidate_seeds(seed, count)],
        )
        texts = self.draw(every, count)
        if count == 1:
            return texts
        true = [True] * len(texts)
        if self.model.parts.judge is not None:
            shares = self.label_shares(texts, every)
            best = [max(shares[i - i % count : i - i % count + count]) for i in range(len(texts))]
            enough = self.sampling.label_confidence
            true = [share >= min(most, enough) for share, most in zip(shares, best, strict=True)]
        kept = []
        for i, seed in enumerate(request.seeds):
            own = [texts[k] for k in range(i * count, (i + 1) * count) if true[k]]
            kept.append(self.best(own, request.labels[i], request.sources[i], seed))
        return kept

    def first_with_label(self, request: Request) -> list[str]:
        """The first candidate that `LatentDiffusion.classify` takes for its label, or what comes nearest; without a
        label the first that is not empty. Later candidates are drawn for those samples only that still need one."""
        texts, best = [""] * len(request), [-1.0] * len(request)
        for number in range(self.sampling.candidates):
            rows = [row for row, share in enumerate(best) if share < self.sampling.label_confidence]
            if not rows:
                break
            part = request.part(rows)
            drawn = self.draw(request.part(rows, [candidate_seeds(seed, number + 1)[-1] for seed in part.seeds]), 1)
            for row, text, share in zip(rows, drawn, self.label_shares(drawn, part), strict=True):
                if share > best[row]:
                    texts[row], best[row] = text, share
        return texts

    def label_shares(self, texts: list[str], request: Request) -> list[float]:
        """How likely each text is what its label says: an empty one is nothing, without a label all others are it."""
        shares = [1.0] * len(texts)
        if self.model.labels:
            table = self.model.classify(texts, seeds=request.seeds, batch_size=self.batch_size)
            own = enumerate(request.labels)
            shares = [1.0 if label is None else float(table[i, self.model.labels.index(label)]) for i, label in own]
        return [share if text.strip() else 0.0 for text, share in zip(texts, shares, strict=True)]

    def best(self, texts: list[str], label: str | None, source: str | None, seed: int) -> str:
        """Of one sample's candidates the one to keep; an empty one only where all are."""
        written = [text for text in texts if text.strip()]
        if len(written) < 2:
            return (written or texts)[0]
        model, count = self.model, len(written)
        raw = Conditions(model.parts, Request([seed] * count, [label] * count, [source] * count)).batch(
            torch.arange(count)
        )
        tokens = {name: ids.to(model.device) for name, ids in model.autoencoder.backbone.tokenize(written).items()}

        def sound(guidance_scale: float, **at: float) -> torch.Tensor:
            noise = SampleNoise([seed] * count)  # one for all that are compared
            return soundness(model.autoencoder, model.diffusion, tokens, raw, noise, guidance_scale, **at).cpu()

        value = sound(self.sampling.guidance_scale)
        if source is not None:
            # (Weights: benchmarks/LOG.md. More for likelihood reads better and leaves out more facts.)
            value = (value + sound(1.0, time=SOURCE_TIME)) / 2 + torch.tensor(likeness_to_others(written))
        return written[int(value.argmax())]


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Seeds of a sample's candidates; the first is the sample's own."""
    return [seed] + [(seed + 2_654_435_761 * i) % 2**32 for i in range(1, count)]  # its own as it is: it may be wrong
