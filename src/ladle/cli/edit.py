"""Verbs that change texts: interpolate, vary, paraphrase, edit."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cyclopts import Parameter

from ladle.checks import MAX_SEED, check_number, check_whole
from ladle.cli.app import ColumnNames, File, OutputFile, Whole, app, log, read_and_say, write_and_say
from ladle.cli.sample_options import EditingOptions, given
from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.data.rows import counted
from ladle.errors import UserError
from ladle.storage.partial_rows import partial_rows
from ladle.storage.row_tables import check_rows_output, write_table

PART = 64  # rows between two writes, about
FIRST_PART = 8  # before the first write to standard output, so that its reader need not wait

SamplingArguments = Annotated[EditingOptions | None, Parameter(name="*")]


@dataclass(frozen=True)
class Common:
    """The arguments that these verbs share.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        seed: Seed of the first text, or of the first pair of texts; seeds count up from it. Default: random.
        output: File to write: CSV if its name says so, else JSON Lines (.gz compresses). - is standard output.
        report: File for all figures of each text, CSV or JSON Lines by its name. A picture is written beside it (.png).
        scorer: Folder that `ladle fit scorer` wrote, or a causal language model. Adds perplexity to the report.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """

    model: str = "base-en"
    seed: Whole | None = None
    output: OutputFile = STDIO
    report: File | None = None
    scorer: str | None = None
    batch_size: Whole = 128


CommonArguments = Annotated[Common | None, Parameter(name="*")]


@app.command(sort_key=4)
def interpolate(
    texts: File,
    /,
    *,
    steps: Whole = 11,
    path: Literal["prior", "slerp", "linear", "renoise"] = "prior",
    wordings: Whole = 4,
    common: CommonArguments = None,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Write texts on the way from one text to another. Both ends are among them.

    Args:
        texts: File of pairs, in the columns source (from) and text (to), or of plain texts: then the first and the
            second make a pair, the third and the fourth, and so on. - is standard input.
        steps: Number of texts on each way, from 2.
        path: How the way goes. prior: through the noise of both texts, where the prior finds every point likely. slerp:
            the arc between the latents. linear: the straight line. renoise: the arc, mended by the prior.
        wordings: Number of texts that are drawn for each position. The best is kept.
    """
    check_whole("--steps", steps, least=2)
    check_whole("--wordings", wordings)
    call = _Call.checked(common, options, inputs=(texts,))
    rows = read_and_say(texts, call.common.model, columns or Columns())
    if all("source" in row for row in rows):
        pairs = [(row["source"], row["text"]) for row in rows]
    elif len(rows) % 2:
        raise UserError(f"{len(rows)} texts make no pairs; give an even number, or the columns source and text")
    else:
        pairs = [(one["text"], other["text"]) for one, other in zip(rows[::2], rows[1::2], strict=True)]

    def change(editor: Any, part: Sequence[Any], how: dict[str, Any]) -> list[Any]:
        firsts, seconds = [one for one, _ in part], [other for _, other in part]
        ways = editor.interpolate(firsts, seconds, steps, path=path, candidates=wordings, **how)
        return [change for way in ways for change in way]

    call.run(_Work(pairs, change, rows=steps, settings=["interpolate", steps, path, wordings]))


@app.command(sort_key=4)
def vary(
    texts: File,
    /,
    *,
    strength: float = 0.5,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    common: CommonArguments = None,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Write variations of texts, from near to free.

    Args:
        texts: File of texts; - is standard input.
        strength: How free, 0 to 1. 0 draws other words for the same latents. 1 is a free sample.
        num_samples: Number of variations of each text.
    """
    check_number("--strength", strength, 0, 1)
    check_whole("-n (--num-samples)", num_samples)
    call = _Call.checked(common, options, inputs=(texts,))
    rows = [row["text"] for row in read_and_say(texts, call.common.model, columns or Columns())]

    def change(editor: Any, part: Sequence[Any], how: dict[str, Any]) -> list[Any]:
        return list(editor.vary(part, strength, num_samples, **how))

    call.run(_Work(rows, change, rows=num_samples, seeds=num_samples, settings=["vary", strength, num_samples]))


@app.command(sort_key=4)
def paraphrase(
    texts: File,
    /,
    *,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    wordings: Whole = 16,
    max_overlap: float = 40.0,
    common: CommonArguments = None,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Say texts in other words: near in meaning, far in words.

    Args:
        texts: File of texts; - is standard input.
        num_samples: Number of paraphrases of each text.
        wordings: Number of texts that are drawn for each text. The best are kept.
        max_overlap: Sentence BLEU against the text, 0 to 100, above which a wording is taken only if there is no other.
    """
    check_whole("-n (--num-samples)", num_samples)
    check_whole("--wordings", wordings, least=num_samples)
    check_number("--max-overlap", max_overlap, 0, 100)
    call = _Call.checked(common, options, inputs=(texts,))
    rows = [row["text"] for row in read_and_say(texts, call.common.model, columns or Columns())]

    def change(editor: Any, part: Sequence[Any], how: dict[str, Any]) -> list[Any]:
        return list(editor.paraphrase(part, num_samples, candidates=wordings, max_overlap=max_overlap, **how))

    call.run(_Work(rows, change, rows=num_samples, settings=["paraphrase", num_samples, wordings, max_overlap]))


@app.command(sort_key=4)
def edit(
    texts: File,
    /,
    *,
    label: str | None = None,
    direction: Path | None = None,
    strength: float | None = None,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    wordings: Whole = 16,
    confidence: float = 0.8,
    common: CommonArguments = None,
    text: str | None = None,
    options: SamplingArguments = None,
) -> None:
    """Change one attribute of texts: to a label that the model knows, or along a direction.

    Args:
        texts: File of texts; - is standard input. Its labels are not read.
        label: The label that the texts shall have.
        direction: Folder that `ladle fit direction` wrote.
        strength: How far. With --label 0 to 1 (default 0.5). With --direction a factor from -10 to 10 (default 1);
            negative factors go the other way.
        num_samples: Number of changed texts for each text.
        wordings: Number of texts that are tried for each changed text. The best is kept.
        confidence: Probability of the label, 0 to 1, from which a text counts as changed.
        text: Column of the texts. Default: text, else target, else the only column that is clearly text.
    """
    if (label is None) == (direction is None):
        raise UserError("give --label LABEL or --direction FOLDER, one of them")
    check_whole("-n (--num-samples)", num_samples)
    check_whole("--wordings", wordings)
    check_number("--confidence", confidence, 0, 1)
    if strength is not None:
        check_number("--strength", strength, *((0, 1) if direction is None else (-10, 10)))
    call = _Call.checked(common, options, inputs=(texts, direction))
    way: Any = None
    settings: list[Any] = ["edit", label, strength, num_samples, wordings, confidence]
    if direction is not None:
        from ladle.editing.directions import Direction

        way = Direction.load(direction)  # before the model
        settings += [way.towards, way.away, way.kind, way.space, float(way.values.abs().sum())]
    rows = [row["text"] for row in read_and_say(texts, call.common.model, Columns(text, "", "", ""))]

    def change(editor: Any, part: Sequence[Any], how: dict[str, Any]) -> list[Any]:
        own = {"n": num_samples, "candidates": wordings, "confidence": confidence}
        changes = list(editor.edit(part, label=label, direction=way, strength=strength, **own, **how))
        reached.extend(one.attribute_after >= confidence for one in changes)
        return changes

    reached: list[bool] = []
    call.run(_Work(rows, change, rows=num_samples, seeds=num_samples, settings=settings))
    if label is not None and reached:
        sure = (
            f"{'has' if len(reached) == 1 else 'have'} the label '{label}' with a probability of {confidence:g} or more"
        )
        log(f"by the model's own judge {sum(reached):,} of {counted(len(reached), 'text')} {sure}")


@dataclass(frozen=True)
class _Work:
    """What a verb does.

    items: texts or pairs. change: (editor, some items, arguments of the editor) -> their changes. rows, seeds: of each
    item. settings: all that the changes depend on, beside the items and the sampling options.
    """

    items: Sequence[Any]
    change: Callable[[Any, Sequence[Any], dict[str, Any]], list[Any]]
    settings: list[Any]
    rows: int = 1
    seeds: int = 1


@dataclass(frozen=True)
class _Call:
    """What the verbs have in common. overrides: sampling options. picture: beside the report."""

    common: Common
    picture: str | None
    overrides: dict[str, Any]

    @classmethod
    def checked(cls, common: Common | None, options: Any, inputs: Sequence[Any]) -> Self:
        """Raises UserError, before anything is read, for what is wrong."""
        common = common or Common()
        check_whole("--batch-size", common.batch_size)
        if common.seed is not None:
            check_whole("--seed", common.seed, 0, MAX_SEED)
        overrides = given(options)
        check_rows_output(common.output, inputs)
        return cls(common, _picture_of(common, inputs), overrides)

    def run(self, work: _Work) -> None:
        """Change all items and write the rows; a stopped command goes on where it was. (With a report it begins anew,
        and keeps the rows that are written.)"""
        count = work.seeds * len(work.items)
        most = (MAX_SEED + 1) // len(work.items)  # as many as there are seeds
        check_whole("-n (--num-samples)", work.rows, most=most)
        if self.common.seed is not None:
            check_whole("--seed", self.common.seed, 0, MAX_SEED + 1 - count)

        from ladle.editing.editor import check_held, scorer_fluency
        from ladle.editing.pictures import draw_changes
        from ladle.pipeline import LatentDiffusion
        from ladle.sampling.request import fresh_seed
        from ladle.training.state import digest

        loaded = LatentDiffusion.from_pretrained(self.common.model)
        texts = [text for item in work.items for text in ((item,) if _is_text(item) else item)]
        check_held(loaded.autoencoder, texts)
        if line := loaded.unlearnt(texts):
            log(line)
        fluency = None if self.common.scorer is None else scorer_fluency(self.common.scorer)
        how = loaded.parts.sampling.override(**self.overrides)
        command = digest([loaded.digest, how.model_dump(mode="json"), self.common.seed, work.settings, work.items])
        changes: list[Any] = []
        drawn = fresh_seed(count) if self.common.seed is None else self.common.seed
        with partial_rows(self.common.output, command, drawn, log=log) as kept:
            first = kept.remembered
            known = 0 if self.common.report else kept.count  # rows that are not needed any more

            def parts() -> Iterator[tuple[int, list[Any]]]:
                """The changes of some items at a time, with the number of the first."""
                for part in _parts(len(work.items), work.rows, self.common.output):
                    if part.stop * work.rows > known:
                        arguments = self.overrides | {"seed": first + part.start * work.seeds, "scorer": fluency}
                        items = [work.items[number] for number in part]
                        yield (
                            part.start * work.rows,
                            work.change(loaded.editor(self.common.batch_size), items, arguments),
                        )

            def rows() -> Iterator[dict[str, Any]]:
                with _bar(len(work.items) * work.rows) as bar:
                    for start, own in parts():
                        if self.common.report:
                            changes.extend(own)
                        bar.n = start + len(own)
                        bar.clear()  # rows may go to the same terminal
                        yield from (_row(one) | {"model": loaded.digest} for one in own[max(0, kept.count - start) :])

            write_and_say(kept, rows())
        if self.common.report and self.picture:
            write_table(self.common.report, [one.as_row() for one in changes])
            draw_changes(changes, Path(self.picture))
            log(f"figures of each text are in {self.common.report}, a picture is in {self.picture}")
        if self.common.seed is None:
            log(f"the first seed was {first}; --seed {first} gives the same texts again")


def _parts(count: int, rows: int, output: str) -> Iterator[range]:
    """The items in parts, each of a few rows at first and then of many. A command that goes on has the same parts."""
    start, size = 0, FIRST_PART if output == STDIO else PART
    while start < count:
        part = range(start, min(start + max(1, size // rows), count))
        yield part
        start, size = part.stop, PART


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit=" texts", file=sys.stderr, disable=None, leave=False)  # (None: no terminal)


def _is_text(item: Any) -> bool:
    return isinstance(item, str)


def _row(change: Any) -> dict[str, Any]:
    row = change.as_row()
    return {name: row[name] for name in ("text", "source", "target", "amount", "seed") if name in row}


def _picture_of(common: Common, inputs: Sequence[Any]) -> str | None:
    """The picture beside a report, if there is one. Raises UserError: one of both cannot be written."""
    report = common.report
    if report is None:
        if common.scorer is not None:
            raise UserError("--scorer adds perplexity to the report; give --report FILE too")
        return None
    if report == STDIO:
        raise UserError("a report is a file, because a picture is written beside it; give --report FILE")
    path = Path(report.removesuffix(".gz"))
    picture = str(path.with_suffix(".png"))
    if picture == report or os.path.realpath(common.output) in (os.path.realpath(report), os.path.realpath(picture)):
        raise UserError(f"--report {report}: the report, its picture {picture} and the output need names of their own")
    from ladle.evaluation.plots import check_picture

    check_picture(picture)
    for file in (report, picture):
        check_rows_output(file, inputs)
    return picture
