"""The samples to score, rows of `samples.jsonl`, and the reference: held-out rows by input."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ladle.data.columns import Columns
from ladle.data.in_memory import RowSource
from ladle.data.rows import Row, read_and_tell

Groups = list[list[str]]  # texts by input


@dataclass(frozen=True)
class Sample:
    """One generated text (it may be empty) with its source, label and references."""

    text: str
    source: str | None = None
    label: str | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Held-out texts by input: `texts[source]`. Each row without a source is an input of its own. labels: of the texts
    that have one."""

    texts: dict[str, list[str]]
    by_source: bool
    labels: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.texts.values()))


def read_samples(
    source: RowSource, columns: Columns | None = None, log: Callable[[str], None] = lambda line: None
) -> list[Sample]:
    """The samples of a file of any kind that Ladle reads, or of rows in memory; empty texts are kept. columns: names
    that count if the samples have such columns. log: receives notes. UserError as `read_rows`, or for a row without a
    text."""
    hints = Columns(**(columns or Columns()).given())
    rows = read_and_tell(source, None, log, brief=True, empty="keep", hints=lambda: hints, name="samples")
    return [Sample(row["text"], row.get("source"), row.get("label"), tuple(row.get("references", ()))) for row in rows]


def gather(rows: Sequence[Row]) -> Reference:
    """Rows grouped by source. The texts of an input are its `references`, or the texts of its rows."""
    texts: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    for index, row in enumerate(rows):
        key = row.get("source", f"\0{index}")  # not a source that a file can hold
        known = texts.setdefault(key, [])
        known += [text for text in row.get("references") or [row["text"]] if text not in known]
        if "label" in row:
            labels.setdefault(row["text"], row["label"])
    return Reference(texts, by_source=any("source" in row for row in rows), labels=labels)


def spread(groups: Sequence[Sequence[str]], count: int, generator: random.Random) -> list[str]:
    """Up to `count` texts: one of each group in random order, then a second of each, and so on."""
    order = list(groups)
    generator.shuffle(order)
    deepest = max(map(len, order), default=0)
    return [group[depth] for depth in range(deepest) for group in order if depth < len(group)][:count]


def halves(reference: Reference, *, within: bool, generator: random.Random) -> tuple[Groups, Groups]:
    """Two disjoint halves of the reference texts. `within`: the texts of each input are split (to compare with samples
    of the same inputs); otherwise whole inputs are split. Only the first half may be empty."""
    groups = list(reference.texts.values())
    if within:
        one = [group[: len(group) // 2] for group in groups if len(group) > 1]
        return one, [group[len(group) // 2 :] for group in groups]
    generator.shuffle(groups)
    return groups[: len(groups) // 2], groups[len(groups) // 2 :]


def references_by_source(samples: Iterable[Sample], reference: Reference | None) -> dict[str, list[str]]:
    """The references of each input of the samples, from the reference file, else from the samples' own rows."""
    answers: dict[str, list[str]] = {}
    for sample in samples:
        if sample.source is None:
            continue
        if reference is not None and reference.by_source and sample.source in reference.texts:
            answers[sample.source] = reference.texts[sample.source]
        elif sample.references:
            answers.setdefault(sample.source, list(sample.references))
    return answers


def draws_by_source(samples: Iterable[Sample]) -> dict[str, list[str]]:
    """The texts of each input, in the order of the file."""
    draws: dict[str, list[str]] = {}
    for sample in samples:
        if sample.source is not None:
            draws.setdefault(sample.source, []).append(sample.text)
    return draws


def with_words_shuffled(texts: Sequence[str], generator: random.Random) -> list[str]:
    """The same words in random order. A metric that hardly sees order takes them for real text."""
    rows = [text.split() for text in texts]
    for words in rows:
        generator.shuffle(words)
    return [" ".join(words) for words in rows]
