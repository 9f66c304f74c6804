"""Verbs that let a model write: demo, sample, reconstruct."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ladle.cli.app import Decoder, File, OutputFile, app, check_counts, log, say_cut, say_wrote
from ladle.cli.sample_rows import TEXTS_AT_ONCE, Draw, Input, drawn_rows, progress_bar, read_inputs
from ladle.data.files import STDIO
from ladle.errors import UserError
from ladle.storage.writing import check_writable, write_rows

MAX_SEED = 2**32 - 1


@app.command(sort_key=1)
def demo() -> None:
    """Show the models that come with Ladle: samples, data to text, reconstruction. Under a minute, no network."""
    from ladle.cli.demo import run_demo

    run_demo()


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

    from ladle.data.rows import read_rows
    from ladle.evaluation.overlap import CorpusBleu
    from ladle.pipeline import LatentDiffusion

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
