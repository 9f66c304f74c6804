"""Verbs with which a model writes texts: demo, sample, reconstruct."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ladle.cli.app import Decoder, File, OutputFile, app, check_counts, log, read_and_say, say_cut, write_and_say
from ladle.cli.sample_options import Options, given
from ladle.data.files import STDIO
from ladle.data.rows import Columns, Row, counted
from ladle.errors import UserError
from ladle.storage.writing import check_writable

if TYPE_CHECKING:
    from ladle.pipeline import LatentDiffusion

MAX_SEED = 2**32 - 1
TEXTS_AT_ONCE = 1024  # texts drawn between two writes: enough to sort them by length, few enough for the memory


@app.command(sort_key=1)
def demo() -> None:
    """Show what the shipped models do: samples, data to text, reconstruction. Under a minute, no network."""
    from ladle.cli.demo import run_demo

    run_demo()


@app.command(sort_key=3)
def sample(
    *,
    model: str,
    num_samples: Annotated[int, Parameter(name=("--num-samples", "-n"))] = 1,
    seed: int | None = None,
    output: OutputFile = STDIO,
    label: list[str] | None = None,
    source: File | None = None,
    batch_size: int = 128,
    options: Annotated[Options | None, Parameter(name="*")] = None,
) -> None:
    """Draw texts from a model. Each row holds the text, its seed, its label or source, and the model's digest.

    The model's own settings are the defaults of --sampler and of all options below it.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        num_samples: Number of texts. With --source, number of texts for each row of the source file.
        seed: Seed of the first text; seeds count up from it. Texts do not depend on --batch-size. Default: random.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        label: Class to draw from. Repeat the option to draw from several classes in turn.
        source: File of texts to condition on: in the column 'source', or one text per line.
        batch_size: Number of texts drawn at once. A smaller number needs less memory.
    """
    check_counts({"--num-samples": num_samples, "--batch-size": batch_size})
    overrides = given(options)
    check_writable(output)
    inputs = [Row()] if source is None else read_and_say(source, need=("source",), empty="refuse")
    count = num_samples * len(inputs)
    if seed is not None and not 0 <= seed <= MAX_SEED + 1 - count:
        raise UserError(f"--seed is {seed}; for {counted(count, 'text')} it must be from 0 to {MAX_SEED + 1 - count}")
    if overrides.get("choose") == "label" and not label and not any("label" in row for row in inputs):
        raise UserError("--choose label needs a label; give --label, or leave --choose out")

    from ladle.pipeline import LatentDiffusion
    from ladle.sampling.request import fresh_seed

    loaded = LatentDiffusion.from_pretrained(model)
    reader = loaded.parts.reader()
    sources = [row["source"] for row in inputs if "source" in row]
    say_cut(reader.tokenizer, reader.max_tokens, sources, "source texts")
    if loaded.parts.source_encoder is None and (line := loaded.unlearnt(sources)):
        log(line)
    first = fresh_seed(count) if seed is None else seed
    draws: list[dict[str, Any]] = []
    for row in inputs:
        own = row.get("label") if loaded.labels else None
        for _ in range(num_samples):
            asked = label[len(draws) % len(label)] if label else own
            draw: dict[str, Any] = {"seed": first + len(draws), "label": asked}
            draw |= {"source": row.get("source"), "references": row.get("references")}
            draws.append({name: value for name, value in draw.items() if value is not None})
    write_and_say(output, _drawn_rows(loaded, draws, batch_size, overrides))
    if seed is None:
        seeds = f"seed {first}" if count == 1 else f"seeds {first} to {first + count - 1}"
        log(f"{seeds}; --seed {first} draws the same {'text' if count == 1 else 'texts'} again")


@app.command(sort_key=4)
def reconstruct(
    texts: File,
    /,
    *,
    model: str = "base-en",
    output: OutputFile = STDIO,
    decoder: Decoder | None = None,
    text: str | None = None,
    batch_size: int = 128,
) -> None:
    """Encode texts and decode them again. Each row holds text and reconstruction. Scores go to standard error.

    Args:
        texts: File of texts; - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        output: JSON Lines file to write (.gz compresses); - is standard output.
        decoder: The decoder that turns latents into words. Default: autoregressive.
        text: Column of the texts. Default: text, else target, else the only column that holds text.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    check_counts({"--batch-size": batch_size})
    check_writable(output)

    from ladle.evaluation.overlap import CorpusBleu
    from ladle.pipeline import LatentDiffusion

    originals = [row["text"] for row in read_and_say(texts, columns=Columns(text))]
    loaded = LatentDiffusion.from_pretrained(model)
    say_cut(loaded.autoencoder.backbone.tokenizer, loaded.max_tokens, originals, "texts")
    if line := loaded.unlearnt(originals):
        log(line)
    decoded: list[str] = []

    def rows() -> Iterator[Mapping[str, Any]]:
        with _progress_bar(len(originals)) as bar:
            for start in range(0, len(originals), TEXTS_AT_ONCE):
                part = originals[start : start + TEXTS_AT_ONCE]
                decoded.extend(loaded.reconstruct(part, decoder=decoder, batch_size=batch_size))
                bar.update(len(part))
                bar.clear()
                yield from ({"text": a, "reconstruction": b} for a, b in zip(part, decoded[start:], strict=True))

    write_and_say(output, rows())
    exact = sum(a == b for a, b in zip(originals, decoded, strict=True)) / len(originals)
    bleu = CorpusBleu(decoded, [[text] for text in originals]).score
    log(f"{counted(len(originals), 'text')}: BLEU {bleu:.1f}, {exact:.1%} exactly the same")


def _drawn_rows(
    model: "LatentDiffusion", draws: Sequence[Mapping[str, Any]], batch_size: int, overrides: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Draw texts in the given order and yield their rows. draws: for each text its seed, label and source."""
    size = max(batch_size, TEXTS_AT_ONCE // model.parts.sampling.override(**overrides).candidates)
    with _progress_bar(len(draws)) as bar:
        for start in range(0, len(draws), size):
            part = draws[start : start + size]

            def show(done: int, total: int, start: int = start, count: int = len(part)) -> None:
                # Decoding comes after the last step; another round of candidates must not take the bar back.
                bar.n = max(bar.n, start + count * done // (total + 1))
                bar.refresh()

            texts = model.generate(
                seeds=[draw["seed"] for draw in part],
                label=[draw.get("label") for draw in part],
                source=[draw.get("source") for draw in part],
                batch_size=batch_size,
                on_step=None if bar.disable else show,
                **overrides,
            )
            bar.n = start + len(part)
            bar.clear()  # rows may go to the same terminal
            yield from ({"text": text, **draw, "model": model.digest} for draw, text in zip(part, texts, strict=True))


def _progress_bar(total: int) -> Any:
    """A progress bar of `total` texts on standard error; hidden when that is not a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=" texts", file=sys.stderr, disable=None, leave=False)
