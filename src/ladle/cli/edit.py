"""Verbs that change texts: interpolate, vary, paraphrase, edit."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ladle.checks import MAX_SEED, check_whole
from ladle.cli.app import ColumnNames, File, OutputFile, Whole, app, log, read_and_say, write_and_say
from ladle.cli.sample_options import Options, given
from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.errors import UserError
from ladle.storage.partial_rows import partial_rows
from ladle.storage.writing import check_writable, write_rows

PART = 64  # texts changed between two writes
FIRST_PART = 8  # before the first write to standard output
Report = Annotated[str | None, Parameter(name="--report")]
SamplingArguments = Annotated[Options | None, Parameter(name="*")]


@app.command(sort_key=4)
def interpolate(
    texts: File,
    /,
    *,
    model: str = "base-en",
    steps: Whole = 11,
    path: Literal["prior", "slerp", "linear", "renoise"] = "prior",
    wordings: Whole = 4,
    seed: Whole | None = None,
    output: OutputFile = STDIO,
    report: Report = None,
    scorer: str | None = None,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Write texts on the way from one text to another. Both ends are among them.

    Args:
        texts: File of pairs, in the columns source (from) and text (to), or of plain texts: then the first and the
            second make a pair, the third and the fourth, and so on. - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        steps: Number of texts on each way, from 2.
        path: How the way goes. prior: through the noise of both texts, where the prior finds every point likely. slerp:
            the arc between the latents. linear: the straight line. renoise: the arc, mended by the prior.
        wordings: Number of texts that are drawn for each position. The best is kept.
        seed: Seed of the first pair; seeds count up from it. Default: random.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        report: JSON Lines file for all figures of each text. A picture of them is written beside it (.png).
        scorer: Folder that `ladle fit scorer` wrote, or a causal language model. Adds perplexity to the report.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    check_whole("--steps", steps, least=2)
    rows = read_and_say(texts, model, columns or Columns())
    if all("source" in row for row in rows):
        pairs = [(row["source"], row["text"]) for row in rows]
    elif len(rows) % 2:
        raise UserError(f"{len(rows)} texts make no pairs; give an even number, or the columns source and text")
    else:
        pairs = [(one["text"], other["text"]) for one, other in zip(rows[::2], rows[1::2], strict=True)]

    def change(editor: Any, part: Sequence[Any], first: int, overrides: dict[str, Any]) -> list[Any]:
        ways = editor.interpolate(
            [one for one, _ in part], [other for _, other in part], steps, path=path, candidates=wordings, seed=first,
            scorer=scorer, **overrides,
        )  # fmt: skip
        return [change for way in ways for change in way]

    settings = {"verb": "interpolate", "steps": steps, "path": path, "wordings": wordings}
    _run(model, pairs, 1, seed, output, report, batch_size, options, settings, (texts,), change)


@app.command(sort_key=4)
def vary(
    texts: File,
    /,
    *,
    model: str = "base-en",
    strength: float = 0.5,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    seed: Whole | None = None,
    output: OutputFile = STDIO,
    report: Report = None,
    scorer: str | None = None,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Write variations of texts, from near to free.

    Args:
        texts: File of texts; - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        strength: How free, 0 to 1. 0 draws other words for the same latents. 1 is a free sample.
        num_samples: Number of variations of each text.
        seed: Seed of the first variation; seeds count up from it. Default: random.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        report: JSON Lines file for all figures of each text. A picture of them is written beside it (.png).
        scorer: Folder that `ladle fit scorer` wrote, or a causal language model. Adds perplexity to the report.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    from ladle.editing.vary import check_strength

    check_strength(strength)
    rows = [row["text"] for row in read_and_say(texts, model, columns or Columns())]

    def change(editor: Any, part: Sequence[Any], first: int, overrides: dict[str, Any]) -> list[Any]:
        return list(editor.vary(part, strength, num_samples, seed=first, scorer=scorer, **overrides))

    settings = {"verb": "vary", "strength": strength, "n": num_samples}
    _run(model, rows, num_samples, seed, output, report, batch_size, options, settings, (texts,), change)


@app.command(sort_key=4)
def paraphrase(
    texts: File,
    /,
    *,
    model: str = "base-en",
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    wordings: Whole = 16,
    max_overlap: float = 40.0,
    seed: Whole | None = None,
    output: OutputFile = STDIO,
    report: Report = None,
    scorer: str | None = None,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Say texts in other words: near in meaning, far in words.

    Args:
        texts: File of texts; - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        num_samples: Number of paraphrases of each text.
        wordings: Number of texts that are drawn for each text. The best are kept.
        max_overlap: Sentence BLEU against the text, 0 to 100, above which a wording is taken only if there is no other.
        seed: Seed of the first text; seeds count up from it. Default: random.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        report: JSON Lines file for all figures of each text. A picture of them is written beside it (.png).
        scorer: Folder that `ladle fit scorer` wrote, or a causal language model. Adds perplexity to the report.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    check_whole("--wordings", wordings, least=num_samples)
    rows = [row["text"] for row in read_and_say(texts, model, columns or Columns())]

    def change(editor: Any, part: Sequence[Any], first: int, overrides: dict[str, Any]) -> list[Any]:
        how = {"candidates": wordings, "max_overlap": max_overlap, "seed": first, "scorer": scorer}
        return list(editor.paraphrase(part, num_samples, **how, **overrides))

    settings = {"verb": "paraphrase", "n": num_samples, "wordings": wordings, "max_overlap": max_overlap}
    _run(model, rows, 1, seed, output, report, batch_size, options, settings, (texts,), change)


@app.command(sort_key=4)
def edit(
    texts: File,
    /,
    *,
    model: str = "base-en",
    label: str | None = None,
    direction: Path | None = None,
    strength: float | None = None,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    wordings: Whole = 16,
    confidence: float = 0.8,
    seed: Whole | None = None,
    output: OutputFile = STDIO,
    report: Report = None,
    scorer: str | None = None,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
    options: SamplingArguments = None,
) -> None:
    """Change one attribute of texts: to a label that the model knows, or along a direction.

    Args:
        texts: File of texts; - is standard input. Its labels are not read.
        model: A model folder, a shipped model's name, or a hub id.
        label: The label that the texts shall have.
        direction: Folder that `ladle fit direction` wrote.
        strength: How far. With --label the diffusion time to which a text is noised, 0 to 1 (default 0.5). With
            --direction a factor from -10 to 10 (default 1); negative factors go the other way.
        num_samples: Number of changed texts for each text.
        wordings: Number of texts that are drawn for each changed text. The best is kept.
        confidence: Probability of the label, 0 to 1, from which a text counts as changed.
        seed: Seed of the first text; seeds count up from it. Default: random.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        report: JSON Lines file for all figures of each text. A picture of them is written beside it (.png).
        scorer: Folder that `ladle fit scorer` wrote, or a causal language model. Adds perplexity to the report.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    if (label is None) == (direction is None):
        raise UserError("give --label LABEL or --direction FOLDER, one of them")
    rows = [row["text"] for row in read_and_say(texts, model, columns or Columns())]

    def change(editor: Any, part: Sequence[Any], first: int, overrides: dict[str, Any]) -> list[Any]:
        how = {"strength": strength, "n": num_samples, "candidates": wordings, "confidence": confidence}
        return list(editor.edit(part, label=label, direction=direction, seed=first, scorer=scorer, **how, **overrides))

    settings = {
        "verb": "edit", "label": label, "direction": None if direction is None else str(direction),
        "strength": strength, "n": num_samples, "wordings": wordings, "confidence": confidence,
    }  # fmt: skip
    _run(model, rows, num_samples, seed, output, report, batch_size, options, settings, (texts, direction), change)


def _run(
    model: str,
    items: Sequence[Any],
    each: int,
    seed: int | None,
    output: str,
    report: str | None,
    batch_size: int,
    options: Any,
    settings: dict[str, Any],
    inputs: Sequence[Any],
    change: Callable[[Any, Sequence[Any], int, dict[str, Any]], list[Any]],
) -> None:
    """Change all items in parts and write the rows; a stopped command goes on where it was. each: seeds an item."""
    check_whole("--num-samples", each)
    check_whole("--batch-size", batch_size)
    overrides = given(options)
    count = each * len(items)
    if seed is not None:
        check_whole("--seed", seed, 0, MAX_SEED + 1 - count)
    check_writable(output, inputs=inputs)
    picture = _picture_of(report)
    for path in (report, picture):
        check_writable(path, inputs=inputs)

    from tqdm import tqdm

    from ladle.editing.editor import check_held
    from ladle.editing.pictures import draw_changes
    from ladle.pipeline import LatentDiffusion
    from ladle.sampling.request import fresh_seed
    from ladle.training.state import digest

    loaded = LatentDiffusion.from_pretrained(model)
    flat = [text for item in items for text in ((item,) if isinstance(item, str) else item)]
    check_held(loaded.autoencoder, flat)
    how = loaded.parts.sampling.override(**overrides)
    command = digest([loaded.digest, how.model_dump(mode="json"), seed, settings, items])
    changes: list[Any] = []
    with partial_rows(output, command, fresh_seed(count) if seed is None else seed, log=log) as kept:
        first = kept.remembered

        def rows() -> Iterator[dict[str, Any]]:
            start, size, passed = 0, FIRST_PART if output == STDIO else PART, 0
            with tqdm(total=len(items), unit=" texts", file=sys.stderr, disable=None, leave=False) as bar:
                while start < len(items):
                    part = items[start : start + size]
                    own = change(loaded.editor(batch_size), part, first + start * each, overrides)
                    changes.extend(own)
                    bar.update(len(part))
                    bar.clear()
                    for one in own:
                        if passed >= kept.count:
                            yield _row(one) | {"model": loaded.digest}
                        passed += 1
                    start, size = start + size, PART

        write_and_say(kept, rows())
    if report is not None and picture is not None:
        write_rows(report, (one.as_row() for one in changes))
        draw_changes(changes, Path(picture))
        log(f"figures of each text are in {report}, a picture is in {picture}")
    if seed is None:
        log(f"the first seed was {first}; --seed {first} gives the same texts again")


def _row(change: Any) -> dict[str, Any]:
    row = change.as_row()
    return {name: row[name] for name in ("text", "source", "target", "amount", "seed") if name in row}


def _picture_of(report: str | None) -> str | None:
    """The picture beside a report."""
    if report is None:
        return None
    if report == STDIO:
        raise UserError("a report is a file, because a picture is written beside it; give --report FILE")
    path = Path(report)
    return str(path.with_name(path.name.removesuffix(".gz")).with_suffix(".png"))
