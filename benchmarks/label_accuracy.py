"""Are labelled samples true to their label? Judged by a bag-of-bigrams classifier trained on rows the model never saw.

    ladle sample --model runs/reviews/final -n 500 --label positive --seed 0 -o positive.jsonl    # and negative
    python benchmarks/label_accuracy.py --samples positive.jsonl negative.jsonl --train yelp/train.jsonl.gz \
        --used reviews.csv --test yelp/test.jsonl.gz -o results.json

The classifier (words and pairs of words, logistic regression) is trained on the rows of --train that are not among
--used, compared without case, spaces and punctuation. Its own accuracy on real test rows stands beside: labels of real
data are noisy, and no sample can be expected to do better than that by much. An empty sample is never label-true.
Needs the extra `evaluation` (scikit-learn).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ladle.data.rows import read_rows
from ladle.errors import LadleError, UserError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.judge import fit_rows
from ladle.evaluation.markdown import format_percent
from ladle.evaluation.samples import read_samples
from ladle.evaluation.text_stats import copy_key
from ladle.storage.writing import atomic_json


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train the classifier, score the files, print the Markdown table, write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", nargs="+", required=True, help="rows with text and label")
    parser.add_argument("--train", required=True, help="labelled rows")
    parser.add_argument("--used", help="the rows that the model was trained on: kept from the classifier")
    parser.add_argument("--test", required=True, help="labelled rows for the classifier's own accuracy")
    parser.add_argument("-o", "--output", help="write the figures as JSON")
    given = parser.parse_args(arguments)

    used = {copy_key(row["text"]) for row in read_rows(given.used)} if given.used else set()
    train = [row for row in read_rows(given.train, need=("text", "label")) if copy_key(row["text"]) not in used]
    if not train:
        raise UserError(f"every row of {given.train} is in {given.used}: none is left to train the classifier on")
    judge, test = fit_rows(train), read_rows(given.test, need=("text", "label"))
    samples = [sample for path in given.samples for sample in read_samples(path)]
    result = {
        "classifier": {"features": "words and pairs of words, present or not", "training_rows": len(train)},
        "real": judge.accuracy([row["text"] for row in test], [row["label"] for row in test]),
        "samples": judge.accuracy([sample.text for sample in samples], [str(sample.label) for sample in samples]),
        "environment": environment(),
    }
    print(to_markdown(result))
    if given.output:
        atomic_json(given.output, result)
    return result


def to_markdown(result: Mapping[str, Any]) -> str:
    """Real rows and samples, over all and by label."""
    labels = sorted(result["real"]["by_label"].keys() | result["samples"]["by_label"].keys())
    lines = ["| label-true, % | all | " + " | ".join(labels) + " |", "|---|---|" + "---|" * len(labels)]
    for name, title in (("real", "real test rows"), ("samples", "samples")):
        row = result[name]
        cells = [format_percent(row), *(format_percent(row["by_label"].get(label)) for label in labels)]
        lines.append(f"| {title} (n = {row['n']}) | " + " | ".join(cells) + " |")
    rows = result["classifier"]["training_rows"]
    return "\n".join([*lines, "", f"Classifier: bag of bigrams, trained on {rows:,} rows that the model did not see."])


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
