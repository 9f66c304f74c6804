"""Verbs with which a model writes texts: demo, sample, reconstruct."""

import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from ladle.checks import MAX_SEED, check_whole
from ladle.cli.app import (
    ColumnNames,
    Decoder,
    File,
    Names,
    OutputFile,
    Whole,
    app,
    log,
    read_and_say,
    say_cut,
    write_and_say,
)
from ladle.cli.sample_options import Options, given, pairs
from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.data.labels import own_label
from ladle.data.rows import Row, counted
from ladle.errors import UserError
from ladle.storage.partial_rows import PartialRows, partial_rows
from ladle.storage.row_tables import check_rows_output

TEXTS_AT_ONCE = 1024  # texts drawn between two writes: enough to sort them by length, few enough for the memory
FIRST_TEXTS = 8  # drawn before the first write to standard output, so that its reader need not wait


class _SourceColumns(Columns):
    """The columns of the file of `--source`, whose options have other names."""

    option = "--{}-column"


@app.command(sort_key=1)
def demo() -> None:
    """Show what the shipped models do: samples, data to text, reconstruction. Under a minute, no network."""
    from ladle.cli.demo import run_demo

    run_demo()


@app.command(sort_key=3)
def sample(
    *,
    model: str,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    seed: Whole | None = None,
    output: OutputFile = STDIO,
    label: Names = None,
    attribute: Names = None,
    source: File | None = None,
    source_column: str | None = None,
    label_column: str | None = None,
    attribute_column: Names = None,
    guidance: Names = None,
    control: Names = None,
    batch_size: Whole = 128,
    options: Annotated[Options | None, Parameter(name="*")] = None,
) -> None:
    """Draw texts from a model. Each row holds the text, its seed, its conditions, and the model's digest.

    The model's own settings are the defaults of --sampler and of all options below it.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        num_samples: Number of texts. With --source, number of texts for each row of the source file.
        seed: Seed of the first text; seeds count up from it. Texts do not depend on --batch-size. Default: random.
        output: File to write: CSV if its name says so, else JSON Lines (.gz compresses). - is standard output.
        label: Class to draw from. Repeat the option to draw from several classes in turn.
        attribute: NAME=VALUE, a value of an attribute. Repeat the option for other attributes, or for several values of
            one, which are drawn from in turn.
        source: File of texts to condition on, one in each row.
        source_column: Column of these texts. Default: as in training, else source, else the one that is clearly text.
        label_column: Column of the classes to draw from; "" uses none. Default: as in training, else label.
        attribute_column: Column of the file of --source with the values of the attribute of that name. May be repeated.
        guidance: NAME=WEIGHT, the guidance of one condition by itself: label, source or the name of an attribute. A
            weight below 0 leads away from the condition. May be repeated.
        control: FOLDER=LABEL or FOLDER=LABEL:SCALE: texts of this label of a control that `ladle fit control` wrote. A
            larger scale steers more strongly, one below 0 away from the label. Default scale: 4. May be repeated.
        batch_size: Number of texts drawn at once. A smaller number needs less memory.
    """
    check_whole("-n (--num-samples)", num_samples)
    check_whole("--batch-size", batch_size)
    overrides = given(options, guidance)
    asked_for = pairs("--attribute", attribute, "food=Italian")
    check_rows_output(output, (source,))
    columns = _SourceColumns(source=source_column, label=label_column)
    if source is None and (columns != _SourceColumns() or attribute_column):
        which = (
            "--attribute-column names a column"
            if attribute_column
            else "--source-column and --label-column name columns"
        )
        raise UserError(f"{which} of a file; give it with --source FILE")
    inputs = [Row()]
    if source is not None:
        taken = tuple(attribute_column or ())
        inputs = read_and_say(source, model, columns, need=("source",), empty="refuse", attributes=taken)
    check_whole("-n (--num-samples)", num_samples, most=(MAX_SEED + 1) // len(inputs))  # as many as there are seeds
    count = num_samples * len(inputs)
    if seed is not None:
        check_whole("--seed", seed, 0, MAX_SEED + 1 - count)
    asks = bool(label or asked_for or control) or any("label" in row or row.get("attributes") for row in inputs)
    if overrides.get("choose") == "label" and not asks:
        what = "a label, an attribute or a control"
        raise UserError(f"--choose label needs {what}; give --label, --attribute or --control, or leave --choose out")

    from ladle.control.steer import Steer
    from ladle.pipeline import LatentDiffusion
    from ladle.sampling.asked import check_single_guidance
    from ladle.sampling.request import fresh_seed
    from ladle.sampling.word_count import missed_line
    from ladle.training.state import digest

    steers = [Steer.parse(text) for text in control or ()]
    loaded = LatentDiffusion.from_pretrained(model)
    if label_column and not loaded.labels:
        raise UserError("this model was not trained with labels; leave --label-column out")
    for name in [*asked_for, *(attribute_column or ())]:
        loaded.conditions.check_attribute(name)
    reader = loaded.parts.reader()
    sources = [row["source"] for row in inputs if "source" in row]
    say_cut(reader.tokenizer, reader.max_tokens, sources, "source texts")
    if loaded.parts.source_encoder is None and (line := loaded.unlearnt(sources)):
        log(line)
    draws: list[dict[str, Any]] = []
    for row in inputs:
        own = own_label(row.get("label"), loaded.labels) if loaded.labels else None
        for _ in range(num_samples):
            asked = own_label(label[len(draws) % len(label)], loaded.labels) if label else own
            draw: dict[str, Any] = {"seed": len(draws), "label": asked}
            draw |= {"source": row.get("source"), "references": row.get("references")}
            attributes = row.get("attributes", {}) | {k: v[len(draws) % len(v)] for k, v in asked_for.items()}
            draw |= {k: own_label(v, loaded.attributes[k]) for k, v in attributes.items()}
            draws.append({name: value for name, value in draw.items() if value is not None})
    how = loaded.parts.sampling.override(**overrides)
    if "guidance_scales" in overrides:
        check_single_guidance(how, loaded.conditions, {name for draw in draws for name in draw})
    # Else rows would not say which of their conditions are those to avoid.
    weights: dict[str, Any] = {"guidance": how.guidance_scales} if how.guidance_scales else {}
    weights |= {"control": [steer.shown for steer in steers]} if steers else {}
    command = digest([loaded.digest, how.model_dump(mode="json"), seed, draws, [one.digest for one in steers]])
    texts_drawn: list[str] = []
    with partial_rows(output, command, fresh_seed(count) if seed is None else seed, log=log) as kept:
        first = kept.remembered
        draws = [draw | {"seed": first + draw["seed"]} for draw in draws]

        def draw_part(part: range, bar: Any) -> list[dict[str, Any]]:
            def show(done: int, total: int) -> None:
                # Decoding comes after the last step; another round of candidates must not take the bar back.
                bar.n = max(bar.n, part.start + len(part) * done // (total + 1))
                bar.refresh()

            asked = draws[part.start : part.stop]
            texts = loaded.generate(
                seeds=[draw["seed"] for draw in asked],
                label=[draw.get("label") for draw in asked],
                source=[draw.get("source") for draw in asked],
                attributes={name: [draw.get(name) for draw in asked] for name in loaded.attributes},
                control=steers,
                batch_size=batch_size,
                on_step=None if bar.disable else show,
                **overrides,
            )
            texts_drawn.extend(texts)
            return [
                {"text": t, **draw, **weights, "model": loaded.digest} for t, draw in zip(texts, asked, strict=True)
            ]

        largest = TEXTS_AT_ONCE // how.candidates
        write_and_say(kept, _rows(kept, count, batch_size, draw_part, largest))
    if line := missed_line(texts_drawn, how):
        log(line)
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
    batch_size: Whole = 128,
    columns: ColumnNames = None,
) -> None:
    """Encode texts and decode them again. Each row holds text and reconstruction. Scores go to standard error.

    Args:
        texts: File of texts; - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        output: File to write: CSV if its name says so, else JSON Lines (.gz compresses). - is standard output.
        decoder: The decoder that turns latents into words. Default: autoregressive.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    check_whole("--batch-size", batch_size)
    check_rows_output(output, (texts,))

    from ladle.evaluation.overlap import CorpusScore
    from ladle.pipeline import LatentDiffusion
    from ladle.training.state import digest

    originals = [row["text"] for row in read_and_say(texts, model, columns or Columns())]
    loaded = LatentDiffusion.from_pretrained(model)
    say_cut(loaded.autoencoder.backbone.tokenizer, loaded.max_tokens, originals, "texts")
    if not loaded.autoencoder.is_plan and (line := loaded.unlearnt(originals)):  # (a wording brings any sign back)
        log(line)
    with partial_rows(output, digest([loaded.digest, decoder, originals]), log=log) as kept:
        decoded = [str(row["reconstruction"]) for row in kept.rows]

        def redraw(part: range, _: Any) -> list[dict[str, Any]]:
            given = originals[part.start : part.stop]
            decoded[part.start :] = loaded.reconstruct(given, decoder=decoder, batch_size=batch_size)
            return [{"text": a, "reconstruction": b} for a, b in zip(given, decoded[part.start :], strict=True)]

        write_and_say(kept, _rows(kept, len(originals), batch_size, redraw, TEXTS_AT_ONCE))
    exact = sum(a == b for a, b in zip(originals, decoded, strict=True)) / len(originals)
    bleu = CorpusScore(decoded, [[text] for text in originals]).score
    log(f"{counted(len(originals), 'text')}: BLEU {bleu:.1f}, {exact:.1%} exactly the same")


def _rows(
    kept: PartialRows, count: int, batch_size: int, draw: Callable[[range, Any], list[dict[str, Any]]], largest: int
) -> Iterator[dict[str, Any]]:
    """The rows that follow those kept, drawn in parts of range(count). Each part is four times as large as the one
    before. Wherever a command goes on, it has the same parts, and so the same texts to the last bit.

    draw: (a part, a progress bar) -> its rows.
    """
    from tqdm import tqdm

    begin, start, size = kept.count, 0, FIRST_TEXTS if kept.output == STDIO else batch_size
    with tqdm(total=count, unit=" texts", file=sys.stderr, disable=None, leave=False) as bar:  # (None: no terminal)
        while start < count:
            part = range(start, min(start + size, count))
            if part.stop > begin:
                rows = draw(part, bar)
                bar.n = part.stop
                bar.clear()  # rows may go to the same terminal
                yield from rows[max(0, begin - start) :]
            start, size = part.stop, max(batch_size, min(4 * size, largest))
