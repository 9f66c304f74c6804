"""Verb `augment`."""

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ladle.checks import check_whole
from ladle.cli.app import ColumnNames, File, OutputFile, Whole, app, log
from ladle.data.files import STDIO
from ladle.data.rows import counted
from ladle.errors import UserError


@app.command(sort_key=5)
def augment(
    *,
    data: File,
    output: OutputFile,
    per_class: Whole = 500,
    minutes: float = 10.0,
    test: File | None = None,
    hold_out: float = 0.0,
    run: Path | None = None,
    report: Path | None = None,
    settings: Annotated[list[str] | None, Parameter(name="--set")] = None,
    seed: Whole = 0,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
) -> None:
    """Make more labelled rows of few: train a model on them, draw texts by label, keep those that are fit.

    A text is kept if classifiers of the real rows give it its label, if it is no copy of a real row or nearly one, and
    if its words go together. With test rows, the gain of classifiers that also learn from the new rows is printed,
    beside that of copies and of edited rows. Run the same command again to continue after an interruption.

    Args:
        data: Labelled rows, as for `ladle train`, or a folder of train and test files.
        output: CSV or JSON Lines file to write: the rows of --data and the new ones, which the column synthetic tells
            apart; - is standard output.
        per_class: Number of new texts of each label.
        minutes: Minutes of training.
        test: Labelled rows that are not trained on, to measure the gain.
        hold_out: Share of the rows that is kept from the training to measure the gain, such as 0.3, instead of --test.
        run: Folder of the training. The model is in its subfolder final. Default: beside the output, ending in .run.
        report: JSON file for the gain and for what became of the candidates.
        settings: KEY=VALUE, replaces a setting of the training, such as training.steps=300. May be repeated.
        seed: Random seed of training and texts.
        batch_size: Number of texts drawn at once. A smaller number needs less memory.
    """
    check_whole("--per-class", per_class)
    check_whole("--batch-size", batch_size)
    check_whole("--seed", seed, 0)
    if not 0 <= hold_out < 1:
        raise UserError(f"--hold-out is {hold_out}; it must be from 0 to below 1, such as 0.3")
    if hold_out and test is not None:
        raise UserError("--hold-out and --test cannot be used together; give one of them")

    from ladle.benchmark.gain import measure_gain, to_markdown
    from ladle.storage.checks import check_writable
    from ladle.storage.writing import atomic_json
    from ladle.training.augment import augment as run_augmentation
    from ladle.training.recipe import load_recipe

    check_writable(report, inputs=(data, test, output))
    flags: dict[str, Any] = {"name": Path(data).name.split(".")[0] or "model", "training.seed": seed}
    flags["training.minutes"] = minutes
    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in flags.items()]
    recipe = load_recipe(sets=[*given, *(settings or [])])
    made = run_augmentation(
        data, output, per_class=per_class, run=run, recipe=recipe, hold_out=hold_out, test=test, columns=columns,
        seed=seed, batch_size=batch_size, log=log,
    )  # fmt: skip
    if output != STDIO:
        count = f"{counted(len(made.real), 'real row')} and {counted(len(made.synthetic), 'synthetic row')}"
        log(f"{count} written to {output}")
    found: dict[str, Any] = {"format": 1, "candidates": made.counts, "judge": made.agreement}
    if made.test:
        gain = measure_gain(made.real, made.synthetic, made.test, lambda texts: made.model.embed(texts).numpy())
        found["gain"] = gain
        for line in to_markdown(gain).splitlines():
            log(line) if output == STDIO else print(line)
    else:
        log("what the new rows are worth is measured with --test FILE, or with --hold-out 0.3")
    if report is not None:
        atomic_json(report, found)
