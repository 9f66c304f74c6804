"""Are labelled samples true to their label? Judged by a bag-of-bigrams classifier trained on rows the model never saw.

    ladle sample --model runs/reviews/final -n 500 --label positive --seed 0 -o positive.jsonl    # and negative
    python benchmarks/label_accuracy.py --samples positive.jsonl negative.jsonl --train yelp/train.jsonl.gz \
        --used reviews.csv --test yelp/test.jsonl.gz -o results.json

The classifier (words and pairs of words, logistic regression) is trained on the rows of --train that are not among
--used, compared without case, spaces and punctuation. Its own accuracy on real test rows stands beside: labels of real
data are noisy, and no sample can be expected to do better than that by much. An empty sample is never label-true.
Needs scikit-learn (it comes with the extra `mauve`).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ladle.errors import LadleError, UserError
from ladle.evaluation.evaluate import environment, read_samples
from ladle.evaluation.intervals import wilson_interval
from ladle.evaluation.text_stats import copy_key, is_empty, tokenise
from ladle.files import atomic_json
from ladle.training.data import Row, read_rows


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
    train = [row for row in labelled(given.train) if copy_key(row["text"]) not in used]
    if not train:
        raise UserError(f"every row of {given.train} is in {given.used}: none is left to train the classifier on")
    test = labelled(given.test)
    samples = [(sample.text, sample.label) for path in given.samples for sample in read_samples(path)]
    known = {row["label"] for row in train}
    if unknown := {str(label) for _, label in samples if label not in known}:
        raise UserError(f"samples have a label that the classifier has not: {min(unknown)!r}; it has {sorted(known)}")

    model = fit(train)
    result = {
        "classifier": {"features": "words and pairs of words, present or not", "training_rows": len(train)},
        "real": accuracy(model, [(row["text"], row["label"]) for row in test]),
        "samples": accuracy(model, [(text, str(label)) for text, label in samples]),
        "environment": environment(),
    }
    print(to_markdown(result))
    if given.output:
        atomic_json(given.output, result)
    return result


def labelled(path: str) -> list[Row]:
    """The rows of a file that have a label.

    Raises:
        UserError: there are none.
    """
    rows = [row for row in read_rows(path) if "label" in row]
    if not rows:
        raise UserError(f"{path} has no rows with a label")
    return rows


def fit(rows: Sequence[Row]) -> Any:
    """A pipeline with `predict(texts) -> labels`.

    Raises:
        UserError: scikit-learn is not installed, or the rows have one label only.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise UserError("the classifier needs scikit-learn: pip install scikit-learn") from None
    labels = [row["label"] for row in rows]
    if len(set(labels)) < 2:
        raise UserError(f"the classifier needs rows of two labels or more; all of these are {labels[0]!r}")
    bigrams = CountVectorizer(tokenizer=tokenise, token_pattern=None, ngram_range=(1, 2), min_df=2, binary=True)
    one_label = LogisticRegression(solver="liblinear", C=0.5, random_state=0)
    return make_pipeline(bigrams, OneVsRestClassifier(one_label)).fit([row["text"] for row in rows], labels)


def accuracy(model: Any, rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Share of texts whose predicted label is their own, over all rows and by label."""
    predicted = model.predict([text for text, _ in rows])
    hits = np.array(
        [guess == label and not is_empty(text) for guess, (text, label) in zip(predicted, rows, strict=True)]
    )
    labels = np.array([label for _, label in rows])
    return share(hits) | {"by_label": {str(label): share(hits[labels == label]) for label in np.unique(labels)}}


def share(hits: np.ndarray) -> dict[str, Any]:
    """A share with Wilson's 95 % interval."""
    return {"value": float(hits.mean()), "interval": wilson_interval(int(hits.sum()), len(hits)), "n": len(hits)}


def to_markdown(result: Mapping[str, Any]) -> str:
    """Real rows and samples, over all and by label."""
    labels = sorted(result["real"]["by_label"].keys() | result["samples"]["by_label"].keys())
    lines = ["| label-true, % | all | " + " | ".join(labels) + " |", "|---|---|" + "---|" * len(labels)]
    for name, title in (("real", "real test rows"), ("samples", "samples")):
        row = result[name]
        cells = [percent(row), *(percent(row["by_label"].get(label)) for label in labels)]
        lines.append(f"| {title} (n = {row['n']}) | " + " | ".join(cells) + " |")
    rows = result["classifier"]["training_rows"]
    return "\n".join([*lines, "", f"Classifier: bag of bigrams, trained on {rows:,} rows that the model did not see."])


def percent(figure: Mapping[str, Any] | None) -> str:
    """`95.9 [95.3, 96.4]`."""
    if figure is None:
        return "-"
    low, high = figure["interval"]
    return f"{100 * figure['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
