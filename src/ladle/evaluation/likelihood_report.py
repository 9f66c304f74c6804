"""How likely texts are, as a report: of an exact likelihood, or of a bound with its terms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ladle.data.rows import counted
from ladle.evaluation.intervals import DEFAULT, Resampling, ratio_of_sums
from ladle.evaluation.markdown import table

SHOWN = 5  # changed texts that are named


@dataclass(frozen=True)
class Counts:
    """What was scored. tokens: [N], with the end token. words, characters: [N]; words are what spaces separate. cut:
    number of texts that are longer than the model reads, and were scored without their rest. changed: texts that the
    tokens do not give back."""

    tokens: np.ndarray
    words: np.ndarray
    characters: np.ndarray
    cut: int = 0
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokens: Sequence[int], texts: Sequence[str], cut: int = 0, changed: Sequence[str] = ()) -> "Counts":
        """texts: what was scored of each."""
        words, characters = ([count(text) for text in texts] for count in (lambda text: len(text.split()), len))
        return cls(np.array(tokens), np.array(words), np.array(characters), cut, tuple(changed))


@dataclass(frozen=True)
class Nats:
    """What each text costs, in nats, [N] each: latents, number of latents, words. An exact likelihood has words alone.

    log_snr: [N], to which the latents were noised; None: an exact likelihood. error: [N], the standard error that the
    random draws leave in the sum.
    """

    wording: np.ndarray
    latent: np.ndarray | None = None
    length: np.ndarray | None = None
    log_snr: np.ndarray | None = None
    error: np.ndarray | None = None

    @property
    def total(self) -> np.ndarray:
        """[N], the bound of -log p(text), or its value."""
        return sum((term for term in (self.latent, self.length) if term is not None), start=self.wording)

    def figures(self, counts: Counts, resampling: Resampling = DEFAULT) -> dict[str, Any]:
        """The means over all texts, as JSON values. Intervals are over texts."""
        total, tokens = self.total, counts.tokens
        rate = total.sum() / tokens.sum()
        ratio = ratio_of_sums(np.stack([total, tokens], axis=1))
        interval = resampling.bootstrap(ratio, len(total))
        found: dict[str, Any] = {
            "perplexity": {
                "value": float(np.exp(rate)),
                "interval": None if interval is None else [float(np.exp(end)) for end in interval],
                "n": len(total),
            },
            "nats_per_text": float(total.mean()),
            "nats_per_token": float(rate),
            "bits_per_word": _per(total, counts.words),
            "bits_per_character": _per(total, counts.characters),
            "wording": float(self.wording.mean()),
        }
        if self.latent is not None and self.length is not None and self.log_snr is not None and self.error is not None:
            levels = sorted({float(level) for level in self.log_snr})
            found |= {
                "latent": float(self.latent.mean()),
                "length": float(self.length.mean()),
                "error": float(np.sqrt(np.square(self.error).sum()) / len(total)),
                "log_snr": levels,
                "spread": [float(np.exp(-level / 2)) for level in levels],
            }
        return found


def _per(nats: np.ndarray, counts: np.ndarray) -> float | None:
    return float(nats.sum() / np.log(2) / counts.sum()) if counts.sum() else None


@dataclass(frozen=True)
class Level:
    """Where the nats go, at one level and below it: means over the texts by which levels were chosen.

    latent: nats of the latents up to this level. wording: nats of the words at it.
    """

    log_snr: float
    latent: float
    wording: float


@dataclass(frozen=True)
class LikelihoodReport:
    """How likely texts are under a model.

    rows: by name, in the order of the table: "exact", or "best" (the noise level that is best for other texts),
    "sampler" (the one at which the model's sampler stops) and "given" (one that was asked for). levels: of a bound,
    where the nats go, from the noise up.
    """

    model: str
    counts: Counts
    rows: dict[str, Nats]
    levels: tuple[Level, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def is_exact(self) -> bool:
        """Whether the figures are the likelihood itself and no bound."""
        return "exact" in self.rows

    @property
    def nats(self) -> Nats:
        """What each text costs, by the first row."""
        return next(iter(self.rows.values()))

    @property
    def perplexity(self) -> float:
        """For each token, by the first row: an upper bound unless `is_exact`."""
        return float(np.exp(self.nats.total.sum() / self.counts.tokens.sum()))

    def as_json(self) -> dict[str, Any]:
        """All means, as JSON values."""
        counts = self.counts
        sums = {name: int(getattr(counts, name).sum()) for name in ("tokens", "words", "characters")}
        return {
            "model": self.model,
            "kind": "exact" if self.is_exact else "upper bound",
            "texts": len(counts.tokens),
            **sums,
            "cut": counts.cut,
            "changed": len(counts.changed),
            "changed_texts": list(counts.changed[:SHOWN]),
            "rows": {name: nats.figures(counts) for name, nats in self.rows.items()},
            "levels": [vars(level) for level in self.levels],
            "notes": list(self.notes),
        }

    def to_table(self) -> str:
        """The figures as Markdown tables."""
        what = ["", *self.rows]
        figures = [nats.figures(self.counts) for nats in self.rows.values()]
        bound = "" if self.is_exact else " (upper bound)"
        names = {
            "perplexity": f"perplexity a token{bound}",
            "nats_per_text": f"nats a text{bound}",
            "latent": "- of the latents",
            "length": "- of their number",
            "wording": "- of the words",
            "error": "standard error of the draws, nats a text",
            "bits_per_word": "bits a word",
            "bits_per_character": "bits a character",
            "log_snr": "log-SNR of the latents that are read",
            "spread": "- as the deviation of their noise",
        }
        lines = [
            [says, *(_cell(own.get(name)) for own in figures)]
            for name, says in names.items()
            if any(own.get(name) is not None for own in figures) and not (self.is_exact and name == "wording")
        ]
        texts = len(self.counts.tokens)
        counts = f"{counted(texts, 'text')}, {counted(int(self.counts.tokens.sum()), 'token')} with ends"
        text = [*table(what, lines), "", f"{self.model}: {counts}. Interval: 95 %, over texts."]
        if self.levels:
            rows = [[_cell(x) for x in (own.log_snr, own.latent, own.wording, own.latent + own.wording)]
                    for own in self.levels]  # fmt: skip
            text += ["", *table(["log-SNR", "latents up to it", "words at it", "sum, nats a text"], rows)]
        if self.counts.cut:
            text.append(f"{self.counts.cut:,} of {counted(texts, 'text')} were cut: the model reads no longer ones.")
        if changed := self.counts.changed:
            named = ", ".join(repr(own[:60]) for own in changed[:SHOWN]) + ", ..." * (len(changed) > SHOWN)
            text.append(f"{len(changed):,} of {counted(texts, 'text')} do not come back from their tokens: {named}")
        return "\n".join([*text, *self.notes]) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        interval = value["interval"]
        return _number(value["value"]) + ("" if interval is None else " [{}, {}]".format(*map(_number, interval)))
    return ", ".join(map(_number, value)) if isinstance(value, list) else _number(value)


def _number(value: float) -> str:
    """With two digits after the point, or three in all."""
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.2e}"
