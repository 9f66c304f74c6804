"""Judges: does a text match its label? There are two kinds, because each may see what the other misses.

`bigrams` reads which words and pairs of words occur. `encoder` reads the mean state of a named sentence encoder. Both
are logistic regressions of scikit-learn on real rows, and know their own accuracy on held-out real rows: labels of real
data are noisy, and samples cannot be expected to do much better.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ladle.data.columns import Columns
from ladle.data.files import PathLike
from ladle.data.in_memory import RowSource
from ladle.data.labels import own_label
from ladle.data.rows import Row, read_and_tell
from ladle.errors import UserError, first_line
from ladle.evaluation.intervals import wilson_interval
from ladle.evaluation.mauve import Featuriser, shown_name
from ladle.evaluation.text_stats import is_empty, tokenise
from ladle.storage.folders import atomic_folder, check_folder, read_record
from ladle.storage.kinds import JUDGE
from ladle.storage.writing import atomic_json

RECORD, WEIGHTS = "judge.json", "model.safetensors"
FORMAT = 2  # 1 stored the weights of three labels and more in the wrong order; `Judge.load` mends them
Kind = Literal["bigrams", "encoder"]
ENCODER_ROWS = 20_000  # a sentence encoder is slow, and there are a few hundred features to weigh
# For the judge that is trained and stored with a model: its size is this number times the number of labels.
OWN_ROWS, OWN_FEATURES = 20_000, 20_000


@dataclass
class Judge:
    """labels: K names. weight [K, F] and bias [K] of the logistic regression. vocabulary: the F words and pairs
    (`bigrams`). encoder: folder or hub id for the F features (`encoder`). real: accuracy on held-out real rows."""

    kind: Kind
    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    vocabulary: tuple[str, ...] = ()
    encoder: str | None = None
    real: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _featurise(self) -> Any:
        bigrams = self.kind == "bigrams"  # (scikit-learn takes a second, which a judge that is not asked need not cost)
        return _counter(vocabulary=self.vocabulary).transform if bigrams else _encoder(self.encoder)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [self.labels[i] for i in self._scores(texts).argmax(axis=1)]

    def probabilities(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> np.ndarray:
        """Probability of each of `labels` (None: the judge's own) for each text: [N, len(labels)], float32. A label
        that the judge does not know has 0."""
        scores = self._scores(texts)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        columns = {label: shares[:, i] for i, label in enumerate(self.labels)}
        zero = np.zeros(len(texts))
        return np.stack([columns.get(label, zero) for label in labels or self.labels], axis=1).astype(np.float32)

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        """[N, K]: log-probabilities, up to a constant that all labels of a text share."""
        if not texts:
            return np.zeros((0, len(self.labels)))
        return np.asarray(self._featurise(texts) @ self.weight.T + self.bias)

    def check_labels(self, labels: Iterable[str]) -> None:
        """UserError for a label that the judge does not know."""
        if unknown := sorted({str(own_label(label, self.labels)) for label in labels} - {*self.labels}):
            raise UserError(f"the judge does not know the label '{unknown[0]}'; it knows {', '.join(self.labels)}")

    def describe(self) -> dict[str, Any]:
        """What goes into a report beside every figure."""
        features = shown_name(self.encoder) if self.encoder else f"{len(self.vocabulary):,} words and pairs"
        return {"kind": self.kind, "labels": list(self.labels), "features": features}

    def accuracy(self, texts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
        """Share of texts that match their label, in total and by label, with 95 % intervals (Wilson). An empty text
        never matches.

        Raises:
            UserError: a label that the judge does not know.
        """
        self.check_labels(labels)
        labels = [str(own_label(label, self.labels)) for label in labels]
        guesses = self.predict(texts)
        true = [g == label and not is_empty(t) for g, t, label in zip(guesses, texts, labels, strict=True)]
        hits, named = np.array(true, dtype=bool), np.array(labels)
        return _share(hits) | {"by_label": {str(label): _share(hits[named == label]) for label in np.unique(named)}}

    def measure(self, rows: Sequence[Row]) -> None:
        """Set `real` to the accuracy on those `rows` whose label the judge knows. Without such rows nothing changes."""
        known = [row for row in rows if row.get("label") in self.labels]
        if known:
            self.real = self.accuracy([row["text"] for row in known], [row["label"] for row in known])

    def save(self, folder: PathLike) -> None:
        """Write settings (JSON) and weights (safetensors), whole or not at all."""
        from safetensors.numpy import save_file

        with atomic_folder(folder, kind=JUDGE) as new:
            # scikit-learn's weights lie column by column, and safetensors writes the bytes of an array as they lie.
            save_file({"weight": np.ascontiguousarray(self.weight), "bias": self.bias}, new / WEIGHTS)
            record = {name: getattr(self, name) for name in ("kind", "labels", "vocabulary", "encoder", "real")}
            atomic_json(new / RECORD, {"format": FORMAT, **record})

    @classmethod
    def load(cls, folder: PathLike, remedy: str = "make one with `ladle fit judge`") -> "Judge":
        """Read what `save` wrote. UserError for a missing or damaged file; `remedy` is what to do about it."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(folder)
        if not (path / RECORD).is_file():
            raise UserError(f"{path} is not a judge: it has no {RECORD}; {remedy}")
        try:
            record = read_record(path, RECORD, FORMAT)
            weights = load_file(path / WEIGHTS)
            labels, vocabulary = tuple(record["labels"]), tuple(record["vocabulary"])
            settings = {name: record[name] for name in ("kind", "encoder", "real")}
            weight = weights["weight"]
            if record["format"] == 1 and len(labels) > 2:  # (written column by column under the shape of rows)
                weight = weight.ravel().reshape(weight.shape, order="F")
            return cls(labels=labels, vocabulary=vocabulary, weight=weight, bias=weights["bias"], **settings)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"cannot load the judge in {path}: {first_line(error)}; {remedy}") from None


def fit_judge(
    data: RowSource,
    output: PathLike,
    *,
    kind: Kind = "bigrams",
    encoder: str | None = None,
    test: RowSource | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Judge:
    """Train a judge on labelled rows and write it to a folder.

    Args:
        data: rows with text and label, in a file or in memory.
        output: the folder.
        kind: `bigrams` or `encoder`.
        encoder: folder or hub id, for `encoder`.
        test: rows that measure the judge's own accuracy; None holds out a fifth of `data`.
        columns: column names of both.
        log: receives messages for the user, such as what was taken for text and label.

    Raises:
        UserError: bad input, fewer than two labels, a missing encoder, a folder that holds other things of these names.
    """
    if kind not in get_args(Kind):
        raise UserError(f"unknown kind of judge '{kind}'; allowed are {', '.join(get_args(Kind))}")
    if (kind == "encoder") != (encoder is not None):
        raise UserError("a judge of kind 'encoder' needs --encoder FOLDER; a judge of kind 'bigrams' takes none")
    check_folder(output, JUDGE, (data, test))
    columns = replace(columns or Columns(), source="")  # a judge reads no sources
    told: list[str] = []  # until a judge is there: rows that make none are refused in one line
    rows = read_and_tell(data, columns, told.append, need=("text", "label"))
    if test is None:
        order = np.random.default_rng(seed).permutation(len(rows))
        cut = max(1, len(rows) // 5)
        held, rows = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    else:
        held = read_and_tell(test, columns, told.append, need=("text", "label"))
    judge = fit_rows(rows, kind, encoder)
    for line in told:
        log(line)
    judge.measure(held)
    judge.save(output)
    return judge


def fit_own(rows: Sequence[Row], held_out: Sequence[Row], attribute: str | None = None) -> Judge | None:
    """A model's own judge of its labels: a judge of words, of bounded size, trained on the model's training rows. Its
    accuracy is measured on `held_out`. None if the rows have fewer than two labels or no words in common.

    attribute: the attribute whose values are told in place of labels.
    """
    if attribute is not None:
        rows, held_out = _labelled_by(attribute, rows), _labelled_by(attribute, held_out)
    try:
        judge = fit_rows(_some([row for row in rows if "label" in row], OWN_ROWS), max_features=OWN_FEATURES)
    except UserError:  # (a training of hours does not end in it)
        return None
    judge.measure(held_out)
    return judge


def _labelled_by(attribute: str, rows: Sequence[Row]) -> list[Row]:
    """The texts of the rows that have the attribute, with its value as their label."""
    values = [row.get("attributes", {}).get(attribute) for row in rows]
    return [Row(text=row["text"], label=own) for row, own in zip(rows, values, strict=True) if own is not None]


def fit_rows(
    rows: Sequence[Row], kind: Kind = "bigrams", encoder: str | None = None, max_features: int | None = None
) -> Judge:
    """A judge trained on labelled rows, without its own accuracy. `encoder` learns from at most `ENCODER_ROWS` rows,
    chosen at random. `bigrams` uses the `max_features` most frequent words and pairs.

    Raises:
        UserError: fewer than two labels, a missing encoder.
    """
    from sklearn.linear_model import LogisticRegression

    rows = _some(rows, ENCODER_ROWS) if kind == "encoder" else rows
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    if len(set(labels)) < 2:
        found = f"all rows have the label '{labels[0]}'" if labels else "no rows are left besides the test rows"
        raise UserError(f"a judge needs rows with two labels or more; {found}")
    vocabulary: tuple[str, ...] = ()
    if kind == "bigrams":
        counter = _counter(min_df=2, max_features=max_features)
        try:
            features = counter.fit_transform(texts)
        except ValueError:  # scikit-learn's word for no vocabulary at all
            raise UserError("a judge cannot learn from these texts: no word occurs in two of them") from None
        vocabulary = tuple(counter.get_feature_names_out().tolist())
    else:
        features = _encoder(encoder)(texts)
    model = LogisticRegression(C=0.5 if kind == "bigrams" else 10.0, max_iter=1000).fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's score only
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    names = tuple(str(label) for label in model.classes_)
    return Judge(kind, names, weight.astype(np.float32), bias.astype(np.float32), vocabulary, encoder)


def _some(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """All rows, or `count` of them at random."""
    if len(rows) <= count:
        return rows
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:count]]


def _counter(**options: Any) -> Any:
    """texts -> which words and pairs of words occur, by scikit-learn."""
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(tokenizer=tokenise, token_pattern=None, ngram_range=(1, 2), binary=True, **options)


def _encoder(name: str | None) -> Any:
    """texts -> features of unit length, by a sentence encoder."""
    featuriser = Featuriser.load(str(name))

    def featurise(texts: Sequence[str]) -> np.ndarray:
        features = featuriser.features(texts)
        return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-8)

    return featurise


def _share(hits: np.ndarray) -> dict[str, Any]:
    interval = wilson_interval(int(hits.sum()), len(hits))
    return {"value": float(hits.mean()) if len(hits) else 0.0, "interval": interval and list(interval), "n": len(hits)}
