"""Verb `evaluate`, which measures texts, and verb `fit`, which trains the models that measure them."""

import math
from pathlib import Path
from typing import Literal

from cyclopts import App

from ladle.cli.app import ColumnNames, File, OutputFile, OutputFolder, Whole, app, log
from ladle.data.files import STDIO
from ladle.data.rows import counted
from ladle.errors import UserError


@app.command(sort_key=5)
def evaluate(
    samples: File,
    /,
    *,
    reference: File | None = None,
    train: File | None = None,
    output: OutputFile | None = None,
    mauve_encoder: str | None = None,
    scorer: str | None = None,
    judge: list[Path] | None = None,
    novelty: bool = False,
    rouge: bool = False,
    bertscore_encoder: str | None = None,
    slots: bool = False,
    model: str | None = None,
    plots: Path | None = None,
    columns: ColumnNames = None,
) -> None:
    """Score samples, and score real texts in the same way for comparison. Prints a table; --output writes a report.

    --text, --label, --source and --references name columns of the reference file and of the training file, and of
    samples that have such columns.

    Args:
        samples: File that `ladle sample` wrote; - is standard input.
        reference: File of held-out texts. It is needed for BLEU, lengths, MAUVE and the reference column.
        train: File of the training texts. It is needed to measure memorisation.
        output: JSON file for the whole report; - is standard output, and then no table is printed.
        mauve_encoder: Folder or hub id of the model whose features MAUVE and the Frechet distance compare.
        scorer: Folder that `ladle fit scorer` wrote, or folder or hub id of a causal language model. Adds perplexity.
        judge: Folder that `ladle fit judge` wrote. Adds the share of samples that match their label. At most two.
        novelty: For every sample, find the nearest training text and the longest run of words that both share.
        rouge: Add ROUGE-1, ROUGE-2 and ROUGE-L.
        bertscore_encoder: Folder or hub id of the model for BERTScore. Adds BERTScore.
        slots: Add the share of input slots that the samples mention, and wrong additions. Inputs must be E2E's.
        model: A Ladle model. Adds what it makes of the latents of the reference texts: no sample can be better.
        plots: Folder for plots of lengths, and of quality against diversity and memorisation.
    """
    from ladle.evaluation.evaluate import evaluate as run_evaluation
    from ladle.evaluation.markdown import to_markdown
    from ladle.pipeline import LatentDiffusion

    if model is not None and reference is None:
        raise UserError("--model needs reference texts; give a reference file with --reference")
    report = run_evaluation(
        samples, reference, train, output, mauve_encoder, scorer, [str(path) for path in judge or ()], novelty,
        rouge, bertscore_encoder, slots, None if model is None else LatentDiffusion.from_pretrained(model), plots,
        columns=columns, log=log,
    )  # fmt: skip
    if output != STDIO:
        print(to_markdown(report), end="")


fit = App(
    name="fit",
    help="Train small helpers: a scorer (perplexity), a judge (labels), a control (samples), a direction (edits).",
    sort_key=6,
)
app.command(fit)


@fit.command(name="scorer")
def fit_scorer(
    *,
    data: File,
    output: OutputFolder,
    minutes: float = 10.0,
    seed: Whole = 0,
    columns: ColumnNames = None,
) -> None:
    """Train a small language model on a file of texts, for `ladle evaluate --scorer`.

    Args:
        data: Texts, as for `ladle train`. If possible, use texts that the generator was not trained on.
        output: Folder of the run. Run the same command again to continue after an interruption.
        minutes: Minutes of training.
        seed: Random seed of the training.
    """
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes is {minutes}; it must be greater than 0")
    from ladle.baselines.fitting import fit_scorer as run_fitting

    loss = run_fitting(data, output, minutes=minutes, columns=columns, seed=seed, log=log)
    log(f"perplexity on held-out texts: {math.exp(loss):.2f} per token")
    print(output / "final")


@fit.command(name="judge")
def fit_judge(
    *,
    data: File,
    output: OutputFolder,
    test: File | None = None,
    kind: Literal["bigrams", "encoder"] = "bigrams",
    encoder: str | None = None,
    columns: ColumnNames = None,
) -> None:
    """Train a classifier on labelled texts, for `ladle evaluate --judge`.

    Args:
        data: Rows with text and label. If possible, use rows that the generator was not trained on.
        output: Folder to write.
        test: Rows that measure the judge's own accuracy. Default: a fifth of the data, not trained on.
        kind: What the judge reads: bigrams (words and pairs of words) or encoder (features of a sentence encoder).
        encoder: Folder or hub id of the sentence encoder, for --kind encoder.
    """
    from ladle.evaluation.judge import fit_judge as run_fitting

    real = run_fitting(data, output, kind=kind, encoder=encoder, test=test, columns=columns, log=log).real
    if real:
        low, high = real["interval"]
        log(f"accuracy on {counted(real['n'], 'held-out row')}: {real['value']:.1%} [{low:.1%}, {high:.1%}]")
    print(output)


@fit.command(name="direction")
def fit_direction(
    *,
    data: File,
    output: OutputFolder,
    model: str = "base-en",
    towards: str | None = None,
    away: str | None = None,
    kind: Literal["mean", "probe"] = "mean",
    seed: Whole = 0,
    columns: ColumnNames = None,
) -> None:
    """Learn a direction of a model's latents from labelled texts, for `ladle edit --direction`.

    Args:
        data: Rows with text and label.
        output: Folder to write.
        model: The model whose latents are read: a model folder, a shipped model's name, or a hub id.
        towards: The label to go to. Default: the second of two labels.
        away: The label to go from. Default: all other labels.
        kind: mean is the difference of the means of both sides. probe is the weights of a linear classifier.
        seed: Random seed of the split into training and held-out rows.
    """
    from ladle.editing.directions import fit_direction as run_fitting
    from ladle.pipeline import LatentDiffusion

    parts = LatentDiffusion.from_pretrained(model).parts
    direction = run_fitting(
        parts, data, output, towards=towards, away=away, kind=kind, seed=seed, columns=columns, log=log
    )
    (low, high), share = direction.accuracy["interval"], direction.accuracy["value"]
    log(f"from {direction.away} to {direction.towards}; its probe is right on {share:.1%} [{low:.1%}, {high:.1%}] of "
        f"{counted(direction.accuracy['n'], 'held-out row')}")  # fmt: skip
    print(output)
