"""`ladle evaluate`: `samples.jsonl` -> `report.json`, a table and plots, with control rows for comparison.

A report is a plain dict. Each of its `rows` is one system (the samples, and the controls of
`ladle.evaluation.measurement`) and maps metric names to scores. Later kinds of rows only add keys.
"""

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from ladle.data.columns import Columns
from ladle.data.files import PathLike, name_of
from ladle.data.in_memory import RowSource
from ladle.data.rows import counted, read_and_tell
from ladle.data.splits import DataConfig, load_splits
from ladle.errors import UserError
from ladle.evaluation.extras import load_extra
from ladle.evaluation.intervals import Resampling
from ladle.evaluation.judge import Judge
from ladle.evaluation.mauve import Featuriser
from ladle.evaluation.measurement import JUDGED, Measurement, as_report
from ladle.evaluation.metrics import package_version
from ladle.evaluation.plots import plot_report
from ladle.evaluation.samples import Reference, Sample, draws_by_source, gather, read_samples, references_by_source
from ladle.evaluation.scorer import Scorer
from ladle.evaluation.slots import parse_mr
from ladle.storage.checks import check_writable
from ladle.storage.writing import atomic_json

Log = Callable[[str], None]

REPORT_FORMAT = 1
MUCH_OVERLAP = 0.2  # of the reference texts among the training texts: short texts come twice by chance, most do not
_PACKAGES = ("ladle", "torch", "transformers", "sacrebleu", "mauve-text", "rouge-score", "bert-score")


class Reconstructor(Protocol):
    """An autoencoder of texts, such as a `LatentDiffusion`."""

    def reconstruct(self, texts: list[str], *, wording: bool) -> Sequence[str]:
        """The texts, encoded and decoded again; without `wording`, plans in the decoder's own words."""


def evaluate(
    samples: RowSource,
    reference: RowSource | None = None,
    train: RowSource | None = None,
    output: PathLike | None = None,
    mauve_encoder: str | None = None,
    scorer: str | None = None,
    judge: str | Sequence[str] | None = None,
    novelty: bool = False,
    rouge: bool = False,
    bertscore_encoder: str | None = None,
    slots: bool = False,
    model: Reconstructor | None = None,
    plots: PathLike | None = None,
    seeds: int = 3,
    num_bootstrap: int = 1000,
    seed: int = 0,
    columns: Columns | None = None,
    log: Log = lambda line: None,
) -> dict[str, Any]:
    """Score samples and return the report, which is also written as JSON to `output` (`-`: standard output).

    Samples, reference and training rows are paths of files, or rows in memory: texts, mappings, a `datasets.Dataset`.

    Args:
        samples: rows with `text` and, if conditional, `label` or `source` (rows with the same source are draws for
            it) and `references`. Empty texts are kept and counted.
        reference: held-out rows. Adds length distance, MAUVE and the rows `reference` and `shuffled`; also BLEU and
            chrF if its sources are those of the samples.
        train: training rows. Adds Mem, exact copies, and the row `training`.
        mauve_encoder: folder or hub id of the model whose features MAUVE and the Frechet distance compare; None skips
            both.
        scorer: a folder that `ladle fit scorer` wrote, or a folder or hub id of a causal model. Adds perplexity.
        judge: one or two folders that `ladle fit judge` wrote. Each adds the share of samples that match their label.
        novelty: compare every sample with every training text: find the nearest one (by edits and, with
            `mauve_encoder`, by features) and the longest run of words that both share.
        rouge: add ROUGE-1, ROUGE-2 and ROUGE-L.
        bertscore_encoder: a folder or hub id. Adds BERTScore.
        slots: the samples' inputs are E2E's meaning representations. Adds slots said and wrong additions.
        model: a `LatentDiffusion`. Adds the row `ceiling`: the reference texts through its latents (plans without
            their wording), the best that the diffusion model could reach.
        plots: a folder for the plots.
        seeds: number of clusterings over which MAUVE is averaged, at least 3.
        num_bootstrap: number of resamples for intervals; 0 gives no intervals.
        seed: random seed of resampling and of every subset.
        columns: column names of the reference and training rows, and of samples that have such columns. Those of the
            training of `model` are tried before the usual ones.
        log: receives messages for the user, such as what was taken for text and label.

    If `reference` and `train` are the same rows, those that `ladle.train` holds out of them are the reference.

    Raises:
        UserError: bad input, a missing extra, or an output that is an input, in one line.
        LadleError: the report could not be written.
    """
    check_writable(output, inputs=(samples, reference, train))
    check_writable(plots, folder=True)
    judges = [judge] if isinstance(judge, str) else list(judge or ())
    if num_bootstrap < 0:
        raise UserError(f"num_bootstrap is {num_bootstrap}; it must be 0 (no intervals) or more")
    if len(judges) > len(JUDGED):
        raise UserError(f"{len(judges)} judges given; give at most {len(JUDGED)}")
    if mauve_encoder is not None and reference is None:
        raise UserError("MAUVE needs reference texts; give a reference file")
    if novelty and train is None:
        raise UserError("the novelty audit needs training texts; give them with --train")
    if model is not None and reference is None:
        raise UserError("the autoencoder's ceiling needs reference texts; give a reference file")
    # A missing extra is reported before the work, not after.
    wanted = {"mauve": mauve_encoder, "rapidfuzz": novelty or None, "rouge_score": rouge or None}
    for package, setting in (wanted | {"bert_score": bertscore_encoder, "matplotlib": plots}).items():
        if setting is not None:
            load_extra(package)
    sampled = read_samples(samples, columns, log)
    if len(sampled) < 2:
        raise UserError(f"{_shown(samples)} has one sample; diversity and distances need two or more")
    for sample in sampled if slots else ():
        if sample.source is None or not parse_mr(sample.source):
            form = "'name[Aromi], food[Italian]'"
            raise UserError(f"slots need inputs such as {form}; this is none: {sample.source!r:.60}")
    hints = Columns.of(getattr(getattr(model, "parts", None), "info", {}))
    held_out, known, warnings = _real_rows(reference, train, columns, hints, log)
    if (rouge or slots or bertscore_encoder) and not references_by_source(sampled, held_out):
        raise UserError("ROUGE, BERTScore and slots need references, but no sample has an input with references")
    measurement = Measurement(
        reference=held_out,
        train=known,
        featuriser=Featuriser.load(mauve_encoder) if mauve_encoder is not None else None,
        scorer=Scorer.load(scorer) if scorer is not None else None,
        judges=_load_judges(judges, sampled),
        bertscore_encoder=bertscore_encoder,
        slots=slots,
        rouge=rouge,
        novelty=novelty,
        seeds=seeds,
        resampling=Resampling(num_bootstrap, seed),
        warnings=warnings,
    )
    through_latents = None if model is None else partial(model.reconstruct, wording=False)
    controls = measurement.controls(sampled, through_latents)
    rows = {"samples": measurement.measure(sampled), **controls}
    labels = Counter(sample.label for sample in sampled if sample.label is not None)
    result = {
        "format": REPORT_FORMAT,
        "files": {
            "samples": {
                "path": _shown(samples),
                "rows": len(sampled),
                "inputs": len(draws_by_source(sampled)) or None,
                "labels": dict(sorted(labels.items())) or None,
            },
            "reference": held_out and {"path": _shown(reference), "texts": len(held_out)},
            "train": known and {"path": _shown(train), "rows": len(known)},
            "model": model and (getattr(model, "digest", None) or type(model).__name__),
        },
        "settings": {"num_bootstrap": num_bootstrap, "seed": seed},
        "rows": as_report(rows),
        "warnings": measurement.warnings,
        "environment": environment(),
    }
    if plots is not None:
        real = [text for group in held_out.texts.values() for text in group] if held_out is not None else []
        plot_report(result, [sample.text for sample in sampled], real, plots)
    if output is not None:
        atomic_json(output, result)
    return result


def _real_rows(
    reference: RowSource | None, train: RowSource | None, columns: Columns | None, hints: Columns, log: Log
) -> tuple[Reference | None, list[str] | None, list[str]]:
    """The reference, the training texts, and warnings about the two."""
    warnings = []
    if reference is not None and train is not None and _same(reference, train):
        splits = load_splits(DataConfig.of(columns), train, hints)
        if not splits.valid:
            raise UserError(f"{_shown(train)} is reference and training rows, but none can be held out; give two files")
        for line in (*splits.taken, *splits.notes):
            log(line)
        rows, training = splits.valid, splits.train
        warnings.append(
            f"reference and training rows are the same file: the {counted(len(rows), 'row')} that training holds out "
            f"of it are the reference here, the other {len(training):,} the training rows"
        )
        return gather(rows), [row["text"] for row in training], warnings
    rows, training = (
        [] if data is None else read_and_tell(data, columns, log, hints=lambda: hints, name=name)
        for data, name in ((reference, "reference"), (train, "train"))
    )
    seen = {row["text"] for row in training}
    share = sum(row["text"] in seen for row in rows) / max(1, len(rows))
    if share > MUCH_OVERLAP:
        which = f"{share:.0%} of the reference texts"
        warnings.append(f"{which} are training texts too, so the reference is no measure of new texts")
    return gather(rows) if rows else None, [row["text"] for row in training] or None, warnings


def _same(one: RowSource, other: RowSource) -> bool:
    """Whether these are the same rows: one file, or one object in memory."""
    files = [rows for rows in (one, other) if isinstance(rows, str | os.PathLike)]
    return os.path.samefile(*files) if len(files) == 2 and all(map(os.path.exists, files)) else one is other


def _shown(rows: RowSource | None) -> str:
    return name_of(rows) if isinstance(rows, str | os.PathLike) else "in memory"


def environment() -> dict[str, str]:
    """The versions and the machine that the figures were made with."""
    versions = {package: package_version(package, "not installed") for package in _PACKAGES}
    return {"python": platform.python_version(), "platform": platform.platform(), **versions}


def _load_judges(names: Sequence[str], samples: Iterable[Sample]) -> list[Judge]:
    judges = [Judge.load(name) for name in names]
    labels = {sample.label for sample in samples if sample.label is not None}
    if judges and not labels:
        raise UserError("a judge needs samples with labels, but no sample has a label")
    for judge in judges:
        judge.check_labels(labels)
    return judges
