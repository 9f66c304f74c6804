"""The command line: each verb is one function below.

Data go to standard output, bars and words to standard error. Nothing heavy is imported before a verb needs it.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token

from ladle import __version__, outcome
from ladle.errors import UserError
from ladle.files import STDIO, check_writable, write_json, write_rows
from ladle.memory import keep_freed_memory
from ladle.sample_rows import TEXTS_AT_ONCE, Draw, Input, drawn_rows, progress_bar, read_inputs

MAX_SEED = 2**32 - 1
DASH = "(standard input or output)"  # stands for a lone `-` while cyclopts, which takes that for an option, parses


def _file(_: type, tokens: Sequence[Token]) -> str:
    return tokens[0].value.replace(DASH, STDIO)


File = Annotated[str, Parameter(converter=_file)]
Decoder = Literal["autoregressive", "parallel"]
OutputFile = Annotated[str, Parameter(name=("--output", "-o"), converter=_file)]

app = App(
    name="ladle",
    help="Latent diffusion for text: train it on a file of your own, then sample from it.",
    help_epilogue="With any verb, --debug shows where an error comes from. `-` is standard input or output.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


# ------------------------------------------------------------------------------------------------------- verbs


@app.command(sort_key=1)
def demo() -> None:
    """Show the models that come with Ladle: samples, data to text, reconstruction. Under a minute, no network."""
    from ladle.demo import run_demo

    run_demo()


@app.command(sort_key=2)
def train(
    recipe: Path | None = None,
    /,
    *,
    data: File | None = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    stage: Literal["all", "autoencoder", "diffusion", "joint", "decoder"] = "all",
    settings: Annotated[list[str] | None, Parameter(name="--set")] = None,
    minutes: float | None = None,
    from_scratch: Annotated[bool, Parameter(show_default=False)] = False,
    backbone: str | None = None,
    text: str | None = None,
    label: str | None = None,
    source: str | None = None,
    target: str | None = None,
    seed: int | None = None,
) -> None:
    """Train a model on a file of texts. The same command goes on from where an interrupted one stopped.

    Args:
        recipe: A TOML file of settings; without one, sizes and minutes that fit most files.
        data: Texts to learn from: JSON Lines, CSV, TSV or text, gzipped or not, or a folder of train/valid/test files.
        output: Folder of the run; the model is in final/ in it. Default: runs/NAME.
        stage: Stop after this stage: autoencoder, diffusion, joint or decoder.
        settings: KEY=VALUE in place of the recipe's, such as diffusion.schedule.shift=3. May be repeated.
        minutes: Time for all stages together.
        from_scratch: Train everything from nothing, where the default starts from prior-en.
        backbone: A pre-trained encoder-decoder to build on, such as facebook/bart-base: a folder or a hub id.
        text: Column of the texts. Default: text.
        label: Column of the class labels; "" leaves them out. Default: label, if there is one.
        source: Column of the source texts to condition on; "" leaves them out. Default: source, if there is one.
        target: Column of the texts that belong to the sources. Default: target, if there is one.
        seed: Seed of everything random in the training.
    """
    if recipe is not None:
        from ladle.tables import kind_of

        if kind_of(recipe) is not None:
            raise UserError(f"{recipe} is not a recipe but looks like data: ladle train --data {recipe}")
    if from_scratch and backbone is not None:
        raise UserError("--from-scratch and --backbone exclude each other: give one of them")
    given: dict[str, Any] = {
        "training.minutes": minutes,
        "training.seed": seed,
        "start": "nothing" if from_scratch else None,
        "autoencoder.backbone.pretrained": backbone,
        "data.text": text,
        "data.label": label,
        "data.source": source,
        "data.target": target,
    }
    # JSON writes strings and numbers as TOML reads them.
    flags = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items() if value is not None]
    if output is not None:
        check_writable(output, folder=True)

    from ladle.training.recipe import load_recipe
    from ladle.training.train import train as run_training

    resolved = load_recipe(recipe, data=data, sets=[*flags, *(settings or [])])
    if output is None:
        output = Path("runs") / resolved.name
        check_writable(output, folder=True)
    model = run_training(resolved, output, stage=stage, log=_log)
    _log(f"done; look at it with: ladle sample --model {model} -n 8")
    print(model)


@app.command(sort_key=3)
def sample(
    *,
    model: str,
    num_samples: Annotated[int, Parameter(name=("--num-samples", "-n"))] = 1,
    seed: int = 0,
    output: OutputFile = STDIO,
    label: list[str] | None = None,
    source: File | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    guidance_scale: float | None = None,
    temperature: float | None = None,
    candidates: int | None = None,
    choose: Literal["sound", "label"] | None = None,
    label_confidence: float | None = None,
    decoder: Decoder | None = None,
    decoder_temperature: float | None = None,
    decoder_top_p: float | None = None,
    num_beams: int | None = None,
    batch_size: int = 128,
) -> None:
    """Draw texts from a model. Rows: text, seed, what it was conditioned on, the model's digest.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        num_samples: How many texts; with --source, how many for each of its rows.
        seed: The first text's seed; the next ones count up. A seed gives its text at any batch size.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        label: Class to draw from. Repeated, the texts take the classes in turn.
        source: File of texts to condition on, in the column 'source' or one a line.
        steps: Sampling steps. Default: the model's own.
        sampler: ddpm, ddim, heun, dpmpp_2m or dpmpp_2m_sde. Default: the model's own.
        guidance_scale: How strongly the condition is followed; 1 is off. Default: the model's own.
        temperature: Noise that the stochastic samplers add; below 1 texts are more typical. Default: the model's own.
        candidates: Draw so many for each text and keep the soundest of those that are what the label says, with
            --source also near to the source and to the others. Default: the model's own.
        choose: sound, or label: keep the first candidate that is what its label says, which is quicker. Default: the
            model's own.
        label_confidence: How likely (0 to 1) the model must find the label for that. Default: the model's own.
        decoder: What turns latents into words. Default: the model's own.
        decoder_temperature: How it draws them; 0 takes the likeliest. Default: the model's own.
        decoder_top_p: It draws among the likeliest words that have this probability together. Default: the model's own.
        num_beams: Search for the likeliest text instead, so wide; needs --decoder-temperature 0. Default: the model's
            own.
        batch_size: Texts at once; smaller takes less memory.
    """
    _check_counts({
        "--num-samples": num_samples, "--steps": steps, "--candidates": candidates, "--num-beams": num_beams,
        "--batch-size": batch_size,
    })  # fmt: skip
    if guidance_scale is not None and not 0 <= guidance_scale < math.inf:
        raise UserError(f"--guidance-scale is {guidance_scale}: allowed are numbers from 0; 1 is off")
    if temperature is not None and not 0 <= temperature <= 2:
        raise UserError(f"--temperature is {temperature}: allowed are numbers from 0 to 2; 1 is the model's own noise")
    if decoder_temperature is not None and not 0 <= decoder_temperature <= 2:
        raise UserError(f"--decoder-temperature is {decoder_temperature}: allowed are numbers from 0 to 2")
    if decoder_top_p is not None and not 0 < decoder_top_p <= 1:
        raise UserError(f"--decoder-top-p is {decoder_top_p}: allowed are numbers above 0, to 1")
    if label_confidence is not None and not 0 <= label_confidence <= 1:
        raise UserError(f"--label-confidence is {label_confidence}: allowed are numbers from 0 to 1")
    check_writable(output)
    inputs = [Input()] if source is None else read_inputs(source)
    count = num_samples * len(inputs)
    if not 0 <= seed <= MAX_SEED + 1 - count:
        raise UserError(f"--seed is {seed}: with {count:,} texts, 0 to {MAX_SEED + 1 - count} are allowed")

    from ladle.pipeline import LatentDiffusion

    loaded = LatentDiffusion.from_pretrained(model)
    reader = loaded.parts.reader()
    sources = [item.source for item in inputs if item.source is not None]
    _say_cut(reader.tokenizer, reader.max_tokens, sources, "source texts")
    draws: list[Draw] = []
    for item in inputs:
        for _ in range(num_samples):
            own = item.label if loaded.labels else None
            draws.append(Draw(seed + len(draws), label[len(draws) % len(label)] if label else own, item))
    options = {
        "num_inference_steps": steps, "sampler": sampler, "guidance_scale": guidance_scale,
        "temperature": temperature, "candidates": candidates, "choose": choose, "label_confidence": label_confidence,
        "decoder": decoder, "decoder_temperature": decoder_temperature, "decoder_top_p": decoder_top_p,
        "num_beams": num_beams, "batch_size": batch_size,
    }  # fmt: skip
    write_rows(output, drawn_rows(loaded, draws, options))
    _wrote(output, len(draws))


@app.command(sort_key=4)
def reconstruct(
    texts: File,
    /,
    *,
    model: str = "base-en",
    output: OutputFile = STDIO,
    decoder: Decoder | None = None,
    batch_size: int = 128,
) -> None:
    """Encode texts and decode them again. Rows: text, reconstruction; on standard error, how well that went.

    Args:
        texts: File of texts; - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        decoder: What turns latents into words. Default: autoregressive.
        batch_size: Texts at once; smaller takes less memory.
    """
    _check_counts({"--batch-size": batch_size})
    check_writable(output)

    from ladle.evaluation.overlap import CorpusBleu
    from ladle.pipeline import LatentDiffusion
    from ladle.training.data import read_rows

    notes: list[str] = []
    originals = [row["text"] for row in read_rows(texts, notes=notes)]
    for note in notes:
        _log(note)
    loaded = LatentDiffusion.from_pretrained(model)
    _say_cut(loaded.autoencoder.backbone.tokenizer, loaded.max_tokens, originals, "texts")
    decoded: list[str] = []

    def rows() -> Iterator[Mapping[str, Any]]:
        with progress_bar(len(originals)) as bar:
            for start in range(0, len(originals), TEXTS_AT_ONCE):
                part = originals[start : start + TEXTS_AT_ONCE]
                decoded.extend(loaded.reconstruct(part, decoder=decoder, batch_size=batch_size))
                bar.update(len(part))
                bar.clear()
                yield from ({"text": a, "reconstruction": b} for a, b in zip(part, decoded[start:], strict=True))

    write_rows(output, rows())
    _wrote(output, len(decoded))
    exact = sum(a == b for a, b in zip(originals, decoded, strict=True)) / len(originals)
    bleu = CorpusBleu(decoded, [[text] for text in originals]).score
    _log(f"{len(originals):,} texts: BLEU {bleu:.1f}, {exact:.1%} of them exactly the same")


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
) -> None:
    """Score samples, with real text beside them, scored alike. Prints a table; the whole report is JSON.

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
    if output is not None:
        check_writable(output)
    if plots is not None:
        check_writable(plots, folder=True)

    from ladle.evaluation.evaluate import evaluate as run_evaluation
    from ladle.evaluation.markdown import to_markdown

    report = run_evaluation(
        samples, reference, train, output, mauve_encoder, scorer, [str(path) for path in judge or ()], novelty,
        rouge, bertscore_encoder, slots, model, plots,
    )  # fmt: skip
    if output != STDIO:
        print(to_markdown(report), end="")


fit = App(name="fit", help="Train what samples are measured by: a scorer (perplexity), a judge (labels).", sort_key=6)
app.command(fit)


@fit.command(name="scorer")
def fit_scorer(
    *,
    data: File,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
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

    loss = run_fitting(data, output, minutes=minutes, text=text, seed=seed, log=_log)
    _log(f"perplexity on held-out texts {math.exp(loss):.2f} a token")
    print(output / "final")


@fit.command(name="judge")
def fit_judge(
    *,
    data: File,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    test: File | None = None,
    kind: Literal["bigrams", "encoder"] = "bigrams",
    encoder: str | None = None,
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

    judge = run_fitting(data, output, kind=kind, encoder=encoder, test=test)
    real = judge.real
    if real:
        low, high = real["interval"]
        _log(f"accuracy on {real['n']:,} real rows kept apart: {real['value']:.1%} [{low:.1%}, {high:.1%}]")
    print(output)


convert = App(name="convert", help="Take over models of other code.", sort_key=10)
app.command(convert)


@convert.command(name="ld4lg")
def convert_ld4lg(
    folder: Path,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    autoencoder: Path | None = None,
    backbone: str | None = None,
    label: list[str] | None = None,
) -> None:
    """Turn a checkpoint of the paper's code (arXiv 2212.09462) into a Ladle model.

    Args:
        folder: The diffusion model's folder, with args.json and model.pt.
        output: Model folder to write.
        autoencoder: Folder of its autoencoder, with the same two files. Default: what args.json names.
        backbone: Folder or hub id of the encoder-decoder (its config and tokenizer). Default: what args.json names.
        label: Name of a class; once for each, in their order. Default: their numbers.
    """
    check_writable(output, folder=True)

    from ladle.conversion import convert_ld4lg as run_conversion

    print(run_conversion(folder, output, autoencoder=autoencoder, backbone=backbone, labels=label or ()))


@app.command(sort_key=7)
def benchmark(
    suite: Path,
    /,
    *,
    budget: float | None = None,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("results"),
    data: File | None = None,
) -> None:
    """Train several systems on the same rows, sample and score them alike: one table, and plots.

    The same command goes on from where an interrupted one stopped, and does nothing twice.

    Args:
        suite: A TOML file: the data, the systems, what they are measured by. See benchmarks/suites.
        budget: Minutes of training for each system, all its stages together. Default: the suite's.
        output: Folder for the results, in a folder of the suite's name.
        data: Folder of train, valid and test files in place of the suite's data.
    """
    from ladle.benchmark.run import run_benchmark

    print(run_benchmark(suite, output, budget, data, log=_log))


@app.command(sort_key=8)
def inspect(
    *,
    model: str,
    health: bool = False,
    data: Path | None = None,
    minutes: float = 2.0,
    text: str | None = None,
    seed: int = 0,
    output: OutputFile | None = None,
) -> None:
    """Show a model's parts, sizes, training data and latent statistics; with --health, what its latents stand.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        health: Noise the latents of --data, see how much of the texts comes back, and advise settings for a training.
        data: A file of texts, or a folder with train and valid files, for --health.
        minutes: Training of the denoiser that --health tries; 0 leaves it out.
        text: The column of --data with the text.
        seed: Of that training, the noise and the held-out rows.
        output: JSON file for the figures of --health; - is standard output (then without the rest).
    """
    from ladle.inspection import describe

    if not health:
        if data is not None or output is not None:
            raise UserError("--data and --output are for --health: add it")
        print(describe(model))
        return
    if data is None:
        raise UserError("--health needs texts: give --data FILE")
    if not 0 <= minutes < math.inf:
        raise UserError(f"--minutes is {minutes}: it must be 0 or more")
    if output is not None:
        check_writable(output)

    from ladle.health.check import check_model_health
    from ladle.health.report import describe_health

    found = check_model_health(model, data, minutes=minutes, text=text, seed=seed, log=_log)
    if output is not None:
        write_json(output, found.as_json())
    if output != STDIO:
        print(describe(model) + "\n\n" + describe_health(found))


# -------------------------------------------------------------------------------------------------- what verbs do


def _check_counts(counts: Mapping[str, int | None]) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")


def _say_cut(tokenizer: Any, limit: int, texts: Sequence[str], what: str) -> None:
    from ladle.training.cache import count_cut

    cut = count_cut(tokenizer, list(texts), limit)
    if cut:
        _log(f"{cut:,} of {len(texts):,} {what} are longer than the model's {limit} tokens and were cut")


def _wrote(output: str, count: int) -> None:
    if output != STDIO:
        _log(f"{count:,} rows written to {output}")


def _log(line: str) -> None:
    from ladle.training.progress import say

    say(line)


# -------------------------------------------------------------------------------------------------------- start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (those of the process when None) and return the exit code."""
    keep_freed_memory()
    given = sys.argv[1:] if arguments is None else arguments
    words = [DASH if word == STDIO else word for word in given if word != "--debug"]
    return outcome.run(_call, words, debug="--debug" in given)


def _call(words: Sequence[str]) -> None:
    app(list(words), exit_on_error=False, print_error=False, result_action="return_value")


if __name__ == "__main__":
    sys.exit(main())
