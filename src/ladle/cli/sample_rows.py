"""`ladle sample`: from seeds and rows to condition on to rows of drawn texts."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ladle.cli.app import log
from ladle.data.rows import read_rows

if TYPE_CHECKING:
    from ladle.pipeline import LatentDiffusion

TEXTS_AT_ONCE = 1024  # texts drawn between two writes: enough to sort them by length, few enough for the memory


@dataclass(frozen=True)
class Input:
    """A row to condition on; all empty for an unconditional sample."""

    source: str | None = None
    label: str | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draw:
    """One text to be drawn."""

    seed: int
    label: str | None
    input: Input

    def row(self, text: str, digest: str | None) -> dict[str, Any]:
        """The row that is written; what it was not conditioned on is left out."""
        condition = {"label": self.label, "source": self.input.source, "references": list(self.input.references)}
        return {"text": text, "seed": self.seed} | {k: v for k, v in condition.items() if v} | {"model": digest}


def drawn_rows(
    model: "LatentDiffusion", draws: Sequence[Draw], batch_size: int, overrides: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Draw the texts, in the order given, and yield their rows.

    Args:
        model: what they are drawn from.
        draws: seeds and conditions.
        batch_size: texts at once.
        overrides: sampling options, as `LatentDiffusion.generate` takes them.

    Raises:
        UserError: a condition or an option that the model has not.
    """
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
                source=[draw.input.source for draw in part],
                batch_size=batch_size,
                on_step=None if bar.disable else show,
                **overrides,
            )
            bar.n = start + len(part)
            bar.clear()  # rows may go to the same terminal
            yield from (draw.row(text, model.digest) for draw, text in zip(part, texts, strict=True))


def read_inputs(path: str) -> list[Input]:
    """Rows to condition on: the column `source` with `label` and `references` beside it, or one source a line.

    Raises:
        UserError: as `read_rows`, or a row without a source.
    """
    notes: list[str] = []
    rows = read_rows(path, need=("source",), empty="refuse", notes=notes)
    for note in notes:
        log(note)
    return [Input(row["source"], row.get("label"), tuple(row.get("references", ()))) for row in rows]


def progress_bar(total: int) -> Any:
    """A bar of `total` texts on standard error, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=" texts", file=sys.stderr, disable=None, leave=False)
