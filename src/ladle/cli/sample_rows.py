"""`ladle sample`: from seeds and rows to condition on to rows of drawn texts."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ladle.data.rows import Row

if TYPE_CHECKING:
    from ladle.pipeline import LatentDiffusion

TEXTS_AT_ONCE = 1024  # texts drawn between two writes: enough to sort them by length, few enough for the memory


class Draw(NamedTuple):
    """One text to be drawn. given: the row of its source; empty where there is none."""

    seed: int
    label: str | None
    given: Row

    def row(self, text: str, digest: str | None) -> dict[str, Any]:
        """The row that is written; what it was not conditioned on is left out."""
        given = self.given
        condition = {"label": self.label, "source": given.get("source"), "references": given.get("references")}
        return {"text": text, "seed": self.seed} | {k: v for k, v in condition.items() if v} | {"model": digest}


def drawn_rows(
    model: "LatentDiffusion", draws: Sequence[Draw], batch_size: int, overrides: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Draw the texts, in the order given, and yield their rows. Batches, options and errors are as of
    `LatentDiffusion.generate`."""
    candidates = model.parts.sampling.override(**overrides).candidates
    size = max(batch_size, TEXTS_AT_ONCE // candidates)
    with progress_bar(len(draws)) as bar:
        for start in range(0, len(draws), size):
            part = draws[start : start + size]

            def show(done: int, total: int, start: int = start, count: int = len(part)) -> None:
                # Decoding comes after the last step; another round of candidates must not take the bar back.
                bar.n = max(bar.n, start + count * done // (total + 1))
                bar.refresh()

            texts = model.generate(
                seeds=[draw.seed for draw in part],
                label=[draw.label for draw in part],
                source=[draw.given.get("source") for draw in part],
                batch_size=batch_size,
                on_step=None if bar.disable else show,
                **overrides,
            )
            bar.n = start + len(part)
            bar.clear()  # rows may go to the same terminal
            yield from (draw.row(text, model.digest) for draw, text in zip(part, texts, strict=True))


def progress_bar(total: int) -> Any:
    """A bar of `total` texts on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=" texts", file=sys.stderr, disable=None, leave=False)
