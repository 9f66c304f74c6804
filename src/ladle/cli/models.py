"""Verbs that make models and let them write: demo, train, sample, reconstruct, convert."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ladle.cli.app import Decoder, File, OutputFile, app, check_counts, log, say_cut, say_wrote
from ladle.errors import UserError
from ladle.files import STDIO, check_writable, write_rows
from ladle.sample_rows import TEXTS_AT_ONCE, Draw, Input, drawn_rows, progress_bar, read_inputs

MAX_SEED = 2**32 - 1


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

    from ladle.training.processes import is_main
    from ladle.training.recipe import load_recipe
    from ladle.training.train import train as run_training

    resolved = load_recipe(recipe, data=data, sets=[*flags, *(settings or [])])
    if output is None:
        output = Path("runs") / resolved.name
        check_writable(output, folder=True)
    model = run_training(resolved, output, stage=stage, log=log)
    if is_main():
        log(f"done; look at it with: ladle sample --model {model} -n 8")
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
    check_counts({
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
    say_cut(reader.tokenizer, reader.max_tokens, sources, "source texts")
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
    say_wrote(output, len(draws))


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
    check_counts({"--batch-size": batch_size})
    check_writable(output)

    from ladle.evaluation.overlap import CorpusBleu
    from ladle.pipeline import LatentDiffusion
    from ladle.rows import read_rows

    notes: list[str] = []
    originals = [row["text"] for row in read_rows(texts, notes=notes)]
    for note in notes:
        log(note)
    loaded = LatentDiffusion.from_pretrained(model)
    say_cut(loaded.autoencoder.backbone.tokenizer, loaded.max_tokens, originals, "texts")
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
    say_wrote(output, len(decoded))
    exact = sum(a == b for a, b in zip(originals, decoded, strict=True)) / len(originals)
    bleu = CorpusBleu(decoded, [[text] for text in originals]).score
    log(f"{len(originals):,} texts: BLEU {bleu:.1f}, {exact:.1%} of them exactly the same")


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
