"""`samples.jsonl` -> `report.json`: every metric that the given files allow, with the reference rows beside.

A report is a plain dict: `rows` holds one system each (the samples, the reference texts scored as if they had been
generated), a system is metric name -> score. Later kinds of rows only add keys.
"""

import json
import platform
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ladle.errors import UserError
from ladle.evaluation import metrics, text_stats
from ladle.evaluation.mauve import MIN_TEXTS, Featuriser, load_mauve
from ladle.evaluation.metrics import METRICS, Resampling, Score
from ladle.evaluation.novelty import load_rapidfuzz
from ladle.files import STDIO, PathLike, atomic_json, name_of
from ladle.tables import read_table
from ladle.training.data import Row, read_rows

if TYPE_CHECKING:
    from ladle.evaluation.judge import Judge
    from ladle.evaluation.perplexity import Scorer

REPORT_FORMAT = 1
_PACKAGES = ("ladle", "torch", "transformers", "sacrebleu", "mauve-text")


@dataclass(frozen=True)
class Sample:
    """One generated text (it may be empty) and what it was made from."""

    text: str
    source: str | None = None
    label: str | None = None
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Held-out texts by input: `texts[source]`; rows without a source are each their own input."""

    texts: dict[str, list[str]]
    by_source: bool

    def __len__(self) -> int:
        return sum(map(len, self.texts.values()))


@dataclass
class _Report:
    """What is gathered while scoring."""

    rows: dict[str, dict[str, Score]] = field(default_factory=lambda: {"samples": {}, "reference": {}})
    warnings: list[str] = field(default_factory=list)

    def add(self, row: str, *scores: Score) -> None:
        self.rows[row].update({score.metric: score for score in scores})


def evaluate(
    samples_path: PathLike,
    reference_path: PathLike | None = None,
    train_path: PathLike | None = None,
    output: PathLike | None = None,
    mauve_encoder: str | None = None,
    scorer: str | None = None,
    judge: str | None = None,
    novelty: bool = False,
    seeds: int = 3,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the rows of `samples.jsonl` and return the report; written as JSON to `output` (`-`: standard output).

    Args:
        samples_path: rows with `text` and, if conditional, `label` or `source` (several rows of one source are draws
            of it) and `references`. Empty texts are kept and counted.
        reference_path: held-out rows. Gives BLEU where its sources are those of the samples, length distance, MAUVE,
            and the reference rows.
        train_path: training rows. Gives Mem and exact copies.
        mauve_encoder: a folder or hub id of the model whose features MAUVE and the Frechet distance compare;
            None leaves both out.
        scorer: a folder that `ladle fit scorer` wrote, or a folder or hub id of a causal model. Gives perplexity.
        judge: a folder that `ladle fit judge` wrote. Gives the share of samples that are what their label says.
        novelty: compare every sample with every training text: the nearest one, the longest run of words shared.
        seeds: clusterings that MAUVE is averaged over, at least 3.
        num_bootstrap: resamples for intervals; 0 leaves the intervals out.
        seed: of resampling and of every subset drawn.

    Raises:
        UserError: bad input or a missing extra, in one line.
        LadleError: the report could not be written.
    """
    if num_bootstrap < 0:
        raise UserError(f"num_bootstrap is {num_bootstrap}; 0 (no intervals) or more is allowed")
    if mauve_encoder is not None:
        if reference_path is None:
            raise UserError("MAUVE compares with reference texts: give a reference file")
        load_mauve()  # a missing extra is told before the work, not after
    if novelty:
        if train_path is None:
            raise UserError("the novelty audit compares with training texts: give a training file")
        load_rapidfuzz()
    samples = read_samples(samples_path)
    reference = read_reference(reference_path) if reference_path is not None else None
    train = [row["text"] for row in read_rows(train_path)] if train_path is not None else None
    language_model = _load_scorer(scorer) if scorer is not None else None
    classifier = _load_judge(judge, samples) if judge is not None else None

    report = _Report()
    resampling = Resampling(num_bootstrap, seed)
    texts = [sample.text for sample in samples]
    _score_alone(report, "samples", texts, resampling)
    draws = _draws(samples)
    if any(len(row) > 1 for row in draws.values()):
        report.add("samples", metrics.score_div_per_input(list(draws.values()), resampling))
    answers = _references_by_source(samples, reference)
    if answers:
        _score_bleu(report, samples, answers, resampling)
    elif draws and reference is not None:
        report.warnings.append(f"no input of the samples is in {name_of(reference_path or '')}: BLEU is left out")
    beside: list[str] = []
    if reference is not None:
        beside = spread(list(reference.texts.values()), len(texts), random.Random(seed))
        _score_alone(report, "reference", beside, resampling)
        if len(beside) < len(texts):
            report.warnings.append(
                f"{len(beside)} reference texts beside {len(texts)} samples: Div and distinct texts fall with the "
                "number of texts, so these two are not comparable"
            )
        _score_lengths(report, texts, reference, resampling)
    if train is not None:
        _score_memory(report, {"samples": texts, "reference": beside}, train, resampling, novelty)
    if language_model is not None:
        for name, given in (("samples", texts), ("reference", beside)):
            if given:
                report.add(name, metrics.score_perplexity(given, language_model, resampling))
    if classifier is not None:
        labelled = [sample for sample in samples if sample.label is not None]
        labels = [str(sample.label) for sample in labelled]
        report.add("samples", metrics.score_label_true([sample.text for sample in labelled], labels, classifier))
        if classifier.real:  # on real rows kept apart when it was trained
            report.add("reference", metrics.label_true_score(classifier.real, classifier))
    if mauve_encoder is not None and reference is not None:
        _score_mauve(report, samples, reference, answers, Featuriser.load(mauve_encoder), seeds, seed)

    result = {
        "format": REPORT_FORMAT,
        "files": {
            "samples": {
                "path": name_of(samples_path),
                "rows": len(samples),
                "inputs": len(draws) or None,
                "labels": _labels(samples),
            },
            "reference": reference and {"path": name_of(reference_path or ""), "texts": len(reference)},
            "train": train and {"path": name_of(train_path or ""), "rows": len(train)},
        },
        "settings": {"num_bootstrap": num_bootstrap, "seed": seed},
        "rows": {
            name: {metric: row[metric].to_dict() for metric in METRICS if metric in row}
            for name, row in report.rows.items()
            if row
        },
        "warnings": report.warnings,
        "environment": environment(),
    }
    if output is not None and str(output) == STDIO:
        print(json.dumps(result, ensure_ascii=False, indent=2))
    elif output is not None:
        atomic_json(output, result)
    return result


def read_samples(path: PathLike) -> list[Sample]:
    """The rows of a samples file, JSON Lines or any other kind that Ladle reads; empty texts are kept.

    Raises:
        UserError: missing, empty or malformed file (`file:line`), a row without `text`.
    """
    table = read_table(path, frozenset({"text", "source", "label"}))
    samples = []
    for number, record in table.records:
        text = record.get("text")
        if not isinstance(text, str):
            given = "no 'text'" if "text" not in record else f"'text' is {text!r:.40}"
            raise UserError(f"{table.place(number)}: {given}; a sample is a row with a string 'text'")
        references = record.get("references") or ()
        if not isinstance(references, list | tuple) or not all(isinstance(item, str) for item in references):
            raise UserError(f"{table.place(number)}: 'references' is {references!r:.40}, not a list of strings")
        source, label = record.get("source"), record.get("label")
        samples.append(
            Sample(
                text.strip(),
                str(source).strip() if source not in (None, "") else None,
                str(label) if label is not None else None,
                tuple(item for item in references if item.strip()),
            )
        )
    if not samples:
        raise UserError(f"{name_of(path)} has no rows")
    return samples


def read_reference(path: PathLike) -> Reference:
    """Held-out rows, gathered by source: an input's texts are its `references`, or the texts of its rows.

    Raises:
        UserError: as `read_rows`.
    """
    rows: list[Row] = read_rows(path)
    texts: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        key = row.get("source", f"\0{index}")  # not a source that a file can hold
        known = texts.setdefault(key, [])
        known += [text for text in row.get("references") or [row["text"]] if text not in known]
    return Reference(texts, by_source=any("source" in row for row in rows))


def spread(groups: Sequence[Sequence[str]], count: int, generator: random.Random) -> list[str]:
    """Up to `count` texts: one of each group in random order, then a second of each, and so on."""
    order = list(groups)
    generator.shuffle(order)
    deepest = max(map(len, order), default=0)
    return [group[depth] for depth in range(deepest) for group in order if depth < len(group)][:count]


def environment() -> dict[str, str]:
    """What the figures were made with."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}


# ---------------------------------------------------------------------------------------------------- parts


def _score_alone(report: _Report, row: str, texts: Sequence[str], resampling: Resampling) -> None:
    """The metrics that need nothing but the texts."""
    report.add(
        row,
        metrics.score_empty(texts, resampling),
        metrics.score_distinct(texts, resampling),
        metrics.score_div(texts, resampling),
        metrics.score_self_bleu(texts, resampling),
        metrics.score_length(texts, resampling),
    )


def _score_bleu(
    report: _Report, samples: Sequence[Sample], answers: Mapping[str, Sequence[str]], resampling: Resampling
) -> None:
    """BLEU of the samples whose input has references; beside it, each input's first reference against its others,
    and Div of as many references of an input as it has draws."""
    known = [sample for sample in samples if sample.source in answers]
    if len(known) < len(samples):
        missing = len(samples) - len(known)
        report.warnings.append(f"{missing} of {len(samples)} samples have an input without references: not in BLEU")
    keys = [str(sample.source) for sample in known]
    texts = [sample.text for sample in known]
    report.add("samples", metrics.score_bleu(texts, [answers[key] for key in keys], resampling, groups=keys))

    several = [answers[key] for key in dict.fromkeys(keys) if len(answers[key]) > 1]
    if several:
        report.add(
            "reference", metrics.score_bleu([row[0] for row in several], [row[1:] for row in several], resampling)
        )
    draws = max(len(row) for row in _draws(known).values())
    full = [row[:draws] for row in several if len(row) >= draws]
    if draws > 1 and full:
        report.add("reference", metrics.score_div_per_input(full, resampling))


def _score_lengths(report: _Report, texts: Sequence[str], reference: Reference, resampling: Resampling) -> None:
    """Distance of lengths to all reference texts; the reference row is one half of them against the other."""
    everything = [text for group in reference.texts.values() for text in group]
    report.add("samples", metrics.score_length_distance(texts, everything, resampling))
    one, other = halves(reference, within=False, generator=random.Random(resampling.seed))
    if one and other:
        first, second = ([text for group in half for text in group] for half in (one, other))
        report.add("reference", metrics.score_length_distance(first, second, resampling))


def _score_memory(
    report: _Report, systems: Mapping[str, Sequence[str]], train: Sequence[str], resampling: Resampling, audit: bool
) -> None:
    """Mem, exact copies and the novelty audit of the samples and, as if generated, of the held-out texts."""
    training = text_stats.ngram_set(train)
    for row, texts in systems.items():
        if texts:
            report.add(
                row, metrics.score_mem(texts, training, resampling), metrics.score_copies(texts, train, resampling)
            )
            if audit:
                report.add(row, *metrics.scores_of_audit(texts, train, resampling))


def _score_mauve(
    report: _Report,
    samples: Sequence[Sample],
    reference: Reference,
    answers: Mapping[str, Sequence[str]],
    featuriser: Featuriser,
    seeds: int,
    seed: int,
) -> None:
    """Samples, and one half of the reference texts, both against the other half, all three of one size."""
    generator = random.Random(seed)
    one, other = halves(reference, within=bool(answers), generator=generator)
    sizes = [len(samples), *(sum(map(len, half)) for half in (one, other) if half)]
    count = min(sizes)
    against = spread(other, count, generator)
    texts = [sample.text for sample in generator.sample(list(samples), count)]
    rows = {"samples": texts, "reference": spread(one, count, generator) if one else []}
    for name, given in rows.items():
        if given:
            report.add(
                name,
                metrics.score_mauve(given, against, featuriser, seeds=seeds),
                metrics.score_frechet(given, against, featuriser),
            )
    if not one:
        report.warnings.append("too few reference texts to split: MAUVE and frechet have no reference row")
    if count < MIN_TEXTS:
        report.warnings.append(
            f"MAUVE on {count} texts: under {MIN_TEXTS} it is high for any two sets and moves with its seed"
        )


def halves(reference: Reference, *, within: bool, generator: random.Random) -> tuple[list[list[str]], list[list[str]]]:
    """Two disjoint halves of the reference texts. `within`: each input's texts are split between them (like for like
    with samples of the same inputs); else whole inputs are. The first half may be empty, the second is not."""
    groups = list(reference.texts.values())
    if within:
        one = [group[: len(group) // 2] for group in groups if len(group) > 1]
        return one, [group[len(group) // 2 :] for group in groups]
    generator.shuffle(groups)
    return groups[: len(groups) // 2], groups[len(groups) // 2 :]


def _references_by_source(samples: Iterable[Sample], reference: Reference | None) -> dict[str, list[str]]:
    """The references of each input of the samples: the reference file's, else those in the samples' own rows."""
    answers: dict[str, list[str]] = {}
    for sample in samples:
        if sample.source is None:
            continue
        if reference is not None and reference.by_source and sample.source in reference.texts:
            answers[sample.source] = reference.texts[sample.source]
        elif sample.references:
            answers.setdefault(sample.source, list(sample.references))
    return answers


def _draws(samples: Iterable[Sample]) -> dict[str, list[str]]:
    """The texts of each input, in the order of the file."""
    draws: dict[str, list[str]] = {}
    for sample in samples:
        if sample.source is not None:
            draws.setdefault(sample.source, []).append(sample.text)
    return draws


def _load_scorer(name: str) -> "Scorer":
    from ladle.evaluation.perplexity import Scorer

    return Scorer.load(name)


def _load_judge(name: str, samples: Iterable[Sample]) -> "Judge":
    from ladle.evaluation.judge import Judge

    judge = Judge.load(name)
    labels = {sample.label for sample in samples if sample.label is not None}
    if not labels:
        raise UserError("no sample has a label: a judge has nothing to compare its verdict with")
    judge.check_labels(labels)
    return judge


def _labels(samples: Iterable[Sample]) -> dict[str, int] | None:
    counts = Counter(sample.label for sample in samples if sample.label is not None)
    return dict(sorted(counts.items())) or None
