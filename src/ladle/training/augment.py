"""`ladle augment`: from few labelled rows to more. A model learns the rows, draws texts by label, and the fit ones are
kept (`ladle.evaluation.selection`).
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ladle.checks import MAX_SEED, check_whole
from ladle.data.columns import Columns
from ladle.data.files import STDIO, PathLike
from ladle.data.in_memory import RowSource
from ladle.data.rows import Row, counted, read_rows
from ladle.data.splits import DataConfig, Splits, load_splits
from ladle.errors import UserError
from ladle.evaluation.selection import CrossJudge, Selection
from ladle.evaluation.text_stats import copy_key
from ladle.pipeline import LatentDiffusion
from ladle.sampling.request import Request
from ladle.sampling.soundness import SoundnessScore
from ladle.storage.checks import check_writable
from ladle.storage.row_tables import check_table_name, write_table
from ladle.training.progress import Log, say
from ladle.training.recipe import Recipe, parse_recipe
from ladle.training.run import train

LEAST_ROWS = 2  # of a label: one to learn from, and one to judge by
VALID_SHARE = 0.05  # of the rows, on which the training measures itself
ROUND = (16, 256)  # fewest and most candidates of a label that are drawn at once
MOST_DRAWS = 20  # candidates of a label for each text that is wanted, at most
SYNTHETIC = "synthetic"  # the column of the output that tells the model's texts from the real ones


@dataclass(frozen=True)
class Augmented:
    """What `augment` made.

    real, synthetic: rows with text and label. test: rows that were held out, or the test rows of a folder. columns:
    names of the text and label columns. model: the model. counts: how many candidates met each fate. agreement: share
    of the real rows that the classifiers which judged the candidates give their label.
    """

    real: list[Row]
    synthetic: list[Row]
    test: list[Row]
    columns: tuple[str, str]
    model: LatentDiffusion = field(repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    agreement: float = 0.0

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the output: the real ones, then the synthetic ones."""
        text, label = self.columns
        for synthetic, rows in ((False, self.real), (True, self.synthetic)):
            yield from ({text: row["text"], label: row["label"], SYNTHETIC: synthetic} for row in rows)


def augment(
    data: RowSource,
    output: PathLike | None = None,
    *,
    per_class: int = 500,
    run: PathLike | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    hold_out: float = 0.0,
    test: RowSource | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    batch_size: int = 128,
    log: Log = say,
) -> Augmented:
    """Train a model on labelled rows and draw `per_class` new texts of each label. A repeated call continues an
    interrupted training; if that is done, it only draws.

        ladle.augment("few.csv", "more.csv", per_class=500)

    Args:
        data: a file, a folder, or rows in memory, with text and label. Rows without a label are learnt from too.
        output: the file of the real rows and the new ones (CSV or JSON Lines), with a column `synthetic`; None: none is
            written. `-` is standard output.
        per_class: new texts of each label. Fewer come, with a warning, where too few of the candidates are fit.
        run: the run folder of the training; None: beside `output`, with its name and `.run`.
        recipe: as for `ladle.train`; None for the defaults.
        hold_out: share of each label's rows that is neither learnt from nor written, in [0, 1), but returned as `test`.
        test: rows that the result is measured on. They are read and returned, and nothing else.
        columns: the column names.
        seed: of the held-out rows and of the candidates. (That of the training is in the recipe.)
        batch_size: texts drawn at once.
        log: receives messages for the user.

    Returns:
        The rows, with the model.

    Raises:
        UserError: no labels, or one label only; a label with fewer than two rows; per_class or batch_size below 1;
            hold_out out of range, or together with `test`; an output that is an input, or of another kind; no run
            folder; as `ladle.train`.
    """
    per_class, batch_size = check_whole("per_class", per_class), check_whole("batch_size", batch_size)
    seed = check_whole("seed", seed, 0, MAX_SEED)
    if not 0 <= hold_out < 1:
        raise UserError(f"hold_out is {hold_out}; it must be from 0 to below 1, such as 0.3")
    if hold_out and test is not None:
        raise UserError("hold_out and test rows cannot be used together; give one of them")
    folder = _run_folder(output, run)
    if output is not None:
        check_table_name(output)
        check_writable(output, inputs=(data, test))
    splits = load_splits(DataConfig.of(columns).model_copy(update={"valid_fraction": 0.0}), data)
    names = splits.columns.text or "text", splits.columns.label or "label"
    if SYNTHETIC in names:
        raise UserError(f"a column of the rows is called {SYNTHETIC}, as one of the output is; rename it")
    rows, held = _parted(_labelled(splits), hold_out, seed)
    _check_labels(rows, hold_out)
    if not hold_out:
        held = _test_rows(rows, splits.test, test, splits.columns)
    for note in (*splits.taken, *splits.notes):
        log(note)
    unlabelled = [Row(text=row["text"]) for row in splits.train if "label" not in row]
    valid = [_plain(row) for row in splits.valid]

    model = _trained(recipe, [*rows, *unlabelled], valid, folder, log)
    made, selection = _drawn(model, rows, per_class, seed, batch_size, log)
    names = ("text", "label") if any(name.isdecimal() for name in names) else names  # (of a table without a header)
    found = Augmented(rows, made, held, names, model, dict(selection.counts), selection.judge.real)
    if output is not None:
        write_table(output, list(found.rows()))
    return found


def _run_folder(output: PathLike | None, run: PathLike | None) -> Path:
    if run is not None:
        return Path(run)
    if output is None or os.fspath(output) == STDIO:
        raise UserError("the model needs a folder; give --run FOLDER (in Python run=FOLDER)")
    name = Path(output).name
    return Path(output).with_name(f"{name.split('.')[0] or name}.run")


def _plain(row: Row) -> Row:
    """Text and label alone."""
    return Row(text=row["text"], label=row["label"]) if "label" in row else Row(text=row["text"])


def _test_rows(rows: list[Row], own: list[Row], test: RowSource | None, hints: Columns) -> list[Row]:
    """The test rows of `test`, else those of the data's folder, that have a label. hints: the columns of the data.

    Raises UserError: no test row has a label that the rows have.
    """
    if test is None:
        return [row for row in own if "label" in row]
    found = read_rows(test, need=("text", "label"), hints=lambda: hints, name="test")
    known = {row["label"] for row in rows}
    if not any(row["label"] in known for row in found):
        what = f"the test rows have the labels {_listed(row['label'] for row in found)}, none of which is a label"
        raise UserError(f"{what} of the data ({_listed(known)}); give test rows with the same labels")
    return found


def _listed(labels: Iterable[str]) -> str:
    names = sorted(set(labels))
    return ", ".join(names[:4] + ["..."] * (len(names) > 4))


def _labelled(splits: Splits) -> list[Row]:
    """The training rows that have a label, text and label alone. Raises UserError: there is none."""
    rows = [_plain(row) for row in splits.train if "label" in row]
    if not rows:
        found = next((line for line in splits.taken if "no labels" in line), "no row has a label")
        raise UserError(f"{found}; texts are drawn by label, so name the column of the labels with --label COLUMN")
    return rows


def _check_labels(rows: Sequence[Row], hold_out: float) -> None:
    """Raises UserError: one label, or a label with too few rows."""
    counts = Counter(row["label"] for row in rows)
    besides = " besides those held out" if hold_out else ""
    if len(counts) < 2:
        raise UserError(f"all rows{besides} have the label '{next(iter(counts))}'; give rows of two labels or more")
    label, fewest = min(counts.items(), key=lambda pair: pair[1])
    if fewest < LEAST_ROWS:
        what = f"the label '{label}' has {counted(fewest, 'row')}{besides}"
        raise UserError(f"{what}; each label needs {LEAST_ROWS} at least: give more rows of it, or leave it out")


def _parted(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows that stay, rows held out): `share` of each label's texts, at random. Rows with one text go together."""
    if not share:
        return rows, []
    held: set[str] = set()
    for label in sorted({row["label"] for row in rows}):
        keys = list(dict.fromkeys(copy_key(row["text"]) for row in rows if row["label"] == label))
        order = np.random.default_rng(seed).permutation(len(keys))
        held |= {keys[place] for place in order[: round(share * len(keys))]}
    stay, out = ([row for row in rows if (copy_key(row["text"]) in held) == gone] for gone in (False, True))
    if not stay or not out:
        raise UserError(
            f"holding out {share:.0%} of {counted(len(rows), 'row')} leaves none on one side; give more rows"
        )
    return stay, out


def _trained(
    recipe: Recipe | Mapping[str, Any] | None, rows: list[Row], valid: list[Row], folder: Path, log: Log
) -> LatentDiffusion:
    """A model of the rows, which knows all their labels."""
    recipe = recipe if isinstance(recipe, Recipe) else parse_recipe(recipe or {})
    if not valid:
        rows, valid = _validated(rows)
    data = {"train": rows} | ({"valid": valid} if valid else {})

    def news(line: str) -> None:
        if not line.startswith("data ("):  # the columns of the file, again, under the names that they have here
            log(line)

    folder = train(recipe.model_copy(update={"data": DataConfig(valid_fraction=0.0)}), folder, log=news, data=data)
    return LatentDiffusion.from_pretrained(folder)


def _validated(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(rows to learn from, rows on which the training measures itself). No label loses more than its share: else a
    label of two rows might lose both, and the model would not know it."""
    counts = Counter(row.get("label") for row in rows)
    taken: Counter[str | None] = Counter()
    held: set[int] = set()
    for place in np.random.default_rng(0).permutation(len(rows)).tolist():
        label = rows[place].get("label")
        if len(held) < VALID_SHARE * len(rows) and taken[label] + 1 <= counts[label] // 4:
            taken[label] += 1
            held.add(place)
    return [row for i, row in enumerate(rows) if i not in held], [rows[i] for i in sorted(held)]


def _drawn(
    model: LatentDiffusion, rows: list[Row], per_class: int, seed: int, batch_size: int, log: Log
) -> tuple[list[Row], Selection]:
    """New rows, label by label, and the selection that they passed."""
    judge = CrossJudge.fit(rows, lambda texts: model.embed(texts).numpy())
    log(f"the judges of labels are right on {judge.real:.1%} of the real rows that they do not know")
    reader = model.parts.reader()
    score = SoundnessScore(model.autoencoder, model.diffusion, reader, model.parts.sampling.guidance_scale)

    def sound(texts: list[str], label: str) -> list[float]:
        parts = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
        return [value for part in parts for value in score(part, Request([seed], [label], [None]))]

    selection, found = Selection(rows, judge, sound), []
    draws = 0  # of all labels together: no two candidates have the same seed
    for label in judge.labels:
        kept: list[str] = []
        own = 0
        while len(kept) < per_class and own < MOST_DRAWS * per_class:
            count = min(max(ROUND[0], 2 * (per_class - len(kept))), ROUND[1], MOST_DRAWS * per_class - own)
            seeds = [(seed + draws + i) % (MAX_SEED + 1) for i in range(count)]
            texts = model.generate(seeds=seeds, label=label, batch_size=batch_size, candidates=1)
            kept += selection.choose(texts, label)
            own, draws = own + count, draws + count
            log(f"{label}: {min(len(kept), per_class):,} of {per_class:,} texts, from {counted(own, 'candidate')}")
        if len(kept) < per_class:
            why = f"warning: of the label '{label}' only {counted(len(kept), 'text')} passed; more rows would help"
            log(f"{why}, or a longer training")
        found += [Row(text=text, label=label) for text in kept[:per_class]]
    fates = ", ".join(f"{fate} {count:,}" for fate, count in selection.counts.items() if count)
    log(f"{counted(draws, 'candidate')}: {fates}")
    return found, selection
