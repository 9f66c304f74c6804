"""Verbs that measure texts, and that train what they are measured by: evaluate, fit."""

import math
from pathlib import Path
from typing import Literal

from cyclopts import App

from ladle.cli.app import ColumnNames, File, OutputFile, OutputFolder, app, log
from ladle.data.files import STDIO
from ladle.errors import UserError
from ladle.storage.writing import check_writable


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
    """Score samples, with real text beside them, scored alike. Prints a table; the whole report is JSON.

    --text, --label and --source are columns of the reference and of the training texts.

    Args:
        samples: What `ladle sample` wrote; - is standard input.
        reference: Held-out texts, for BLEU, lengths, MAUVE, and the reference column.
        train: Training texts, for what was memorised.
        output: JSON file to write; - is standard output (then without the table).
        mauve_encoder: Folder or hub id of the model whose features MAUVE and the Frechet distance compare.
        scorer: What `ladle fit scorer` wrote, or a folder or hub id of a causal language model: gives perplexity.
        judge: What `ladle fit judge` wrote: gives the share of samples that are what their label says. Twice: two.
        novelty: Find for every sample the training text nearest to it and the longest run of words they share.
        rouge: ROUGE-1, -2 and -L beside BLEU.
        bertscore_encoder: Folder or hub id of the model for BERTScore, beside BLEU.
        slots: The inputs are E2E's: gives the share of slots said, and wrong additions.
        model: A Ladle model: its autoencoder's reconstructions of the reference texts stand beside, as the ceiling.
        plots: Folder to draw into: lengths, quality against diversity and memorisation.
    """
    check_writable(output)
    check_writable(plots, folder=True)

    from ladle.evaluation.evaluate import evaluate as run_evaluation
    from ladle.evaluation.markdown import to_markdown
    from ladle.pipeline import LatentDiffusion

    if model is not None and reference is None:
        raise UserError("--model makes its ceiling from reference texts: give a reference file, by --reference")
    report = run_evaluation(
        samples, reference, train, output, mauve_encoder, scorer, [str(path) for path in judge or ()], novelty,
        rouge, bertscore_encoder, slots, None if model is None else LatentDiffusion.from_pretrained(model), plots,
        columns=columns,
    )  # fmt: skip
    if output != STDIO:
        print(to_markdown(report), end="")


fit = App(name="fit", help="Train what samples are measured by: a scorer (perplexity), a judge (labels).", sort_key=6)
app.command(fit)


@fit.command(name="scorer")
def fit_scorer(
    *,
    data: File,
    output: OutputFolder,
    minutes: float = 10.0,
    text: str | None = None,
    seed: int = 0,
) -> None:
    """Train a small language model on a file of texts, for `ladle evaluate --scorer`.

    Args:
        data: Texts, as for `ladle train`. Give it text that the generator was not trained on where you can.
        output: Folder of the run; the same command goes on from where it stopped.
        minutes: Time.
        text: Column of the texts. Default: text.
        seed: Seed of everything random in the training.
    """
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes is {minutes}: it must be greater than 0")
    check_writable(output, folder=True)

    from ladle.baselines.fitting import fit_scorer as run_fitting

    loss = run_fitting(data, output, minutes=minutes, text=text, seed=seed, log=log)
    log(f"perplexity on held-out texts {math.exp(loss):.2f} a token")
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
        data: Rows with text and label, best ones that the generator was not trained on.
        output: Folder to write.
        test: Rows for the judge's own accuracy. Default: a fifth of the data, kept apart.
        kind: What it looks at: bigrams (words and pairs of words) or encoder (features of a sentence encoder).
        encoder: Folder or hub id of the sentence encoder.
    """
    check_writable(output, folder=True)

    from ladle.evaluation.judge import fit_judge as run_fitting

    real = run_fitting(data, output, kind=kind, encoder=encoder, test=test, columns=columns).real
    if real:
        low, high = real["interval"]
        log(f"accuracy on {real['n']:,} real rows kept apart: {real['value']:.1%} [{low:.1%}, {high:.1%}]")
    print(output)
