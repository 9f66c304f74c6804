"""Do synthetic rows help where there are few? A hundred rows a class, five draws of them, a training for each.

    python benchmarks/augmentation.py --data /data -o results --minutes 10
    python benchmarks/augmentation.py --data /data -o try --sets sst2 --seeds 1 --rows 20 --per-class 20 --minutes 0.5

--data is a folder with the folders sst2 and ag_news, each with train.jsonl.gz and test.jsonl.gz. For each set and seed,
--rows rows of each class are drawn from the training rows, `ladle.augment` makes --per-class more of each, and
classifiers are measured on the real test rows (`ladle.benchmark.gain`): without further rows, with copies, with edited
rows (arXiv 1901.11196 without synonyms) and with the synthetic ones, as many of each.

An interval is Student's, over the seeds: it holds the choice of the rows, the training and the draw. Finished seeds are
kept in -o, so the same command goes on after an interruption.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from ladle.benchmark.gain import FEATURES, measure_gain
from ladle.data.files import known_json
from ladle.data.rows import Row, read_rows
from ladle.errors import LadleError, UserError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.markdown import table
from ladle.storage.writing import atomic_json, atomic_text
from ladle.training.augment import augment
from ladle.training.progress import say
from ladle.training.recipe import load_recipe

SETS = ("sst2", "ag_news")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and measure whatever is missing, print the tables, write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=5, help="draws of the real rows, each with a training")
    parser.add_argument("--rows", type=int, default=100, help="real rows of each class")
    parser.add_argument("--per-class", type=int, default=500, help="added rows of each class")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, a setting of the trainings")
    given = parser.parse_args(arguments)

    asked = {name: getattr(given, name) for name in ("rows", "per_class", "minutes", "set")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in given.sets}
    for name in given.sets:
        for seed in range(given.seeds):
            path = given.output / f"{name}-{seed}.json"
            result = known_json(path)
            if result.get("asked") not in (None, asked):
                raise UserError(f"{path} is of another command ({result['asked']}); give another folder")
            if not result:
                result = {"format": 1, "asked": asked} | measured(given, name, seed)
                atomic_json(path, result)
            found[name].append(result)
    page = "\n".join(to_markdown(name, results) for name, results in found.items())
    result = {"asked": asked, "sets": found, "environment": environment()}
    atomic_json(given.output / "results.json", result)
    atomic_text(given.output / "table.md", page)
    print(page, end="")
    return result


def measured(given: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """The figures of one draw of real rows."""
    train, test = (read_rows(given.data / name / f"{part}.jsonl.gz") for part in ("train", "test"))
    few = some_of_each(train, given.rows, seed)
    run = given.output / f"{name}-{seed}.run"
    recipe = load_recipe(sets=[f"training.minutes={given.minutes}", f"training.seed={seed}", *given.set])
    made = augment(few, run=run, per_class=given.per_class, recipe=recipe, seed=seed, log=say)
    gain = measure_gain(made.real, made.synthetic, test, lambda texts: made.model.embed(texts).numpy())
    return {"gain": gain, "candidates": made.counts, "judge": made.agreement}


def some_of_each(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows of each label, text and label alone, chosen at random."""
    generator = np.random.default_rng(seed)
    found: list[Row] = []
    for label in sorted({row["label"] for row in rows}):
        own = [row for row in rows if row["label"] == label]
        order = generator.permutation(len(own))[:count]
        found += [Row(text=own[place]["text"], label=label) for place in order]
    return found


def to_markdown(name: str, results: Sequence[dict[str, Any]]) -> str:
    """A line for each kind of training rows: accuracy and gain, with intervals over the seeds."""
    gains = [result["gain"] for result in results]
    head = [
        f"{name}: trained on",
        *(f"{part}: {what}" for part in FEATURES for what in ("accuracy, %", "gain, points")),
    ]
    lines = []
    for kind in gains[0][FEATURES[0]]:
        cells = [kind if kind == "real rows" else f"real rows + {kind}"]
        for part in FEATURES:
            cells.append(over_seeds([gain[part][kind]["value"] for gain in gains], ""))
            values = [gain[part][kind]["gain"]["value"] for gain in gains] if "gain" in gains[0][part][kind] else []
            cells.append(over_seeds(values, "+") if values else "-")
        lines.append(cells)
    asked, added = results[0]["asked"], [sum(gain["counts"].values()) for gain in gains]
    judge = 100 * np.mean([result["judge"] for result in results])
    note = (
        f"{asked['rows']} real rows a class, {min(added)} to {max(added)} added rows, {asked['minutes']:g} minutes, "
        f"{len(gains)} seeds; n = {gains[0]['n']} test rows. The judges of labels are right on {judge:.1f} % of the "
        "real rows. Intervals: 95 %, over the seeds."
    )
    return "\n".join([*table(head, lines), "", note, ""])


def over_seeds(values: Sequence[float], sign: str) -> str:
    """The mean in percent, with Student's 95 % interval from two values on."""
    mean = 100 * np.mean(values)
    if len(values) < 2:
        return f"{mean:{sign}.1f}"
    half = student.ppf(0.975, len(values) - 1) * 100 * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:{sign}.1f} [{mean - half:{sign}.1f}, {mean + half:{sign}.1f}]"


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
