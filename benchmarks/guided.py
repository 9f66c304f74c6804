"""The rival steered by a classifier of prefixes (FUDGE), at several strengths: are its texts of their label, and what
does that cost?

    ladle fit judge --data other.csv --kind bigrams -o judge
    python benchmarks/guided.py RIVAL --data train.jsonl --valid valid.jsonl --classifier guide --minutes 3 \
        --judge judge -n 200 --strengths 0 1 2 4 [--scorer SCORER]

RIVAL is a folder of `ladle.baselines.autoregressive`: of `ladle benchmark`, or of `ladle fit scorer`. Its weights stay.
The classifier is trained in the run folder --classifier, unless it is there already. Texts are drawn for each label at
each strength, the same seeds each time, and strength 0 is the rival alone. "real" are as many held-out texts of
--valid. The judges must know the labels, and should be trained on other rows than the classifier that steers.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ladle.baselines.autoregressive import AutoregressiveModel
from ladle.baselines.guided import CANDIDATES, RECORD, GuidedModel, PrefixClassifier
from ladle.baselines.guided_fitting import classifier_settings, train_prefix_classifier
from ladle.data.rows import read_rows
from ladle.errors import LadleError, UserError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.judge import Judge
from ladle.evaluation.markdown import format_percent, table
from ladle.evaluation.scorer import Scorer, perplexity
from ladle.evaluation.text_stats import diversity, is_copy, tokenise
from ladle.storage.kinds import PREFIX_CLASSIFIER
from ladle.storage.run_folder import run_folder
from ladle.storage.writing import atomic_json


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Train the classifier, draw and score the texts, print the Markdown table, return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival")
    parser.add_argument("--data", required=True, help="training rows with text and label")
    parser.add_argument("--valid", required=True, help="held-out rows with text and label")
    parser.add_argument("--classifier", required=True, help="run folder of the classifier")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the classifier's training")
    parser.add_argument("--judge", required=True, nargs="+", help="folders that `ladle fit judge` wrote")
    parser.add_argument("--scorer", help="a folder that `ladle fit scorer` wrote")
    parser.add_argument("-n", type=int, default=1000, help="texts for each label and strength")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.5, 1, 2, 4, 8])
    parser.add_argument("--labels", nargs="+", help="some of the labels; default: all")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="tokens looked at in each step")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first text of each label")
    parser.add_argument("--shown", type=int, default=0, help="texts of each row to print")
    parser.add_argument("-o", "--output", help="write the figures and texts as JSON")
    given = parser.parse_args(arguments)
    judges = [Judge.load(folder) for folder in given.judge]
    scorer = None if given.scorer is None else Scorer.load(given.scorer)
    train, valid = (read_rows(path, need=("text", "label")) for path in (given.data, given.valid))
    rival = AutoregressiveModel.from_pretrained(given.rival)
    for judge in judges:
        judge.check_labels(given.labels or {row["label"] for row in train})
    model = GuidedModel(rival, classifier_of(rival, train, valid, Path(given.classifier), given.minutes))
    options = {"candidates": given.candidates, "top_p": given.top_p, "temperature": given.temperature}
    training, seeds = [row["text"] for row in train], range(given.seed, given.seed + given.n)
    rows = []
    for label in given.labels or model.classifier.config.labels:
        real = [row["text"] for row in valid if row["label"] == label][: given.n]
        if real:
            rows.append(score(real, label, "real", judges, scorer, training, None))
        for strength in given.strengths:
            start = time.perf_counter()
            texts = model.generate(seeds=seeds, label=[label] * given.n, strength=strength, **options)
            seconds = (time.perf_counter() - start) / given.n
            rows.append(score(texts, label, f"{strength:g}", judges, scorer, training, seconds))
            for text in texts[: given.shown]:
                print(f"{label} {strength:g}: {text}", file=sys.stderr)
    print(to_markdown(rows, model.classifier.info))
    if given.output:
        about = {"classifier": model.classifier.info, "judges": [judge.describe() | judge.real for judge in judges]}
        atomic_json(given.output, {**about, "options": options, "environment": environment(), "rows": rows})
    return rows


def classifier_of(
    rival: AutoregressiveModel, train: Sequence[Any], valid: Sequence[Any], folder: Path, minutes: float
) -> PrefixClassifier:
    """The classifier in `folder`, trained there if it is not there yet."""
    if minutes <= 0:
        raise UserError(f"--minutes is {minutes:g}; it must be greater than 0")
    if not (folder / "final" / RECORD).is_file():
        with run_folder(folder, final=PREFIX_CLASSIFIER):
            train_prefix_classifier(rival, train, valid, folder, classifier_settings(minutes=minutes))
    return PrefixClassifier.from_pretrained(folder / "final")


def score(
    texts: list[str],
    label: str,
    strength: str,
    judges: Sequence[Judge],
    scorer: Scorer | None,
    training: Sequence[str],
    seconds: float | None,
) -> dict[str, Any]:
    """The figures of the texts of one label at one strength. seconds: a text."""
    row: dict[str, Any] = {"label": label, "strength": strength}
    row["obeyed"] = [judge.accuracy(texts, [label] * len(texts)) for judge in judges]
    row |= {"div": diversity([tokenise(text) for text in texts]), "copies": float(is_copy(texts, training).mean())}
    if scorer is not None:
        row["perplexity"] = perplexity(*scorer.score(texts))
    return row | {"seconds": seconds, "texts": texts}


def to_markdown(rows: Sequence[dict[str, Any]], info: dict[str, Any]) -> str:
    """A row for each label and strength. info: how the classifier was trained."""
    number = len(rows[0]["obeyed"])
    head = ["label", "strength", *(f"obeyed, % (judge {i + 1})" for i in range(number))]
    head += [*(["perplexity"] if "perplexity" in rows[0] else []), "Div", "copies, %", "seconds a text"]
    cells = []
    for row in rows:
        own = [row["label"], row["strength"], *map(format_percent, row["obeyed"])]
        own += [f"{row['perplexity']:.1f}"] if "perplexity" in row else []
        own += [f"{row['div']:.3f}", f"{100 * row['copies']:.1f}"]
        cells.append([*own, "-" if row["seconds"] is None else f"{row['seconds']:.3f}"])
    count = max(len(row["texts"]) for row in rows)
    held = info["held_out"]
    known = f"{held['accuracy']:.1%} of whole held-out texts, {held['nll']:.3f} nats per prefix"
    about = f"n = {count} for each row; the same seeds at every strength"
    return "\n".join([*table(head, cells), "", f"{about}. The classifier, after {info['minutes']:g} minutes: {known}."])


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
