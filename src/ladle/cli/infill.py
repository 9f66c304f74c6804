"""The verb infill: texts from templates with blanks."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from ladle.checks import MAX_SEED, check_whole
from ladle.cli.app import File, Names, OutputFile, Whole, app, log, say_cut, write_and_say
from ladle.cli.sample_options import Options, given
from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.data.labels import own_label
from ladle.data.rows import Row, read_and_tell
from ladle.errors import UserError
from ladle.storage.partial_rows import PartialRows, partial_rows
from ladle.storage.row_tables import check_rows_output

TEXTS_AT_ONCE = 64  # texts drawn between two writes


@app.command(sort_key=4)
def infill(
    *,
    model: str = "base-en",
    template: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    templates: File | None = None,
    num_samples: Annotated[Whole, Parameter(name=("--num-samples", "-n"))] = 1,
    seed: Whole | None = None,
    output: OutputFile = STDIO,
    label: Names = None,
    batch_size: Whole = 128,
    options: Annotated[Options | None, Parameter(name="*")] = None,
) -> None:
    """Fill the blanks of a template: "The ___ served ___ food." What is given stays to the letter.

    A blank is three or more underscores. Each row holds the text, its template, its seed and the model's digest. The
    model's own settings are the defaults of --sampler and of all options below it.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        template: One template. With a blank at its end the model goes on from a beginning.
        templates: File of templates, in the column template or text; - is standard input. If the model takes labels or
            sources, the file's columns label and source are used.
        num_samples: Number of texts for each template.
        seed: Seed of the first text; seeds count up from it. Texts do not depend on --batch-size. Default: random.
        output: File to write: CSV if its name says so, else JSON Lines (.gz compresses). - is standard output.
        label: Class to write. Repeat the option to write several classes in turn.
        batch_size: Number of candidates drawn at once. A smaller number needs less memory.
    """
    check_whole("-n (--num-samples)", num_samples)
    check_whole("--batch-size", batch_size)
    overrides = given(options)
    if (template is None) == (templates is None):
        raise UserError("give --template TEXT or --templates FILE, one of them")
    check_rows_output(output, (templates,))
    rows = [Row(text=template)] if template is not None else _read(templates or STDIO)
    count = num_samples * len(rows)
    check_whole("-n (--num-samples)", num_samples, most=(MAX_SEED + 1) // len(rows))  # as many as there are seeds
    if seed is not None:
        check_whole("--seed", seed, 0, MAX_SEED + 1 - count)

    from ladle.editing.template import Template
    from ladle.pipeline import LatentDiffusion
    from ladle.sampling.request import fresh_seed
    from ladle.sampling.word_count import missed_line
    from ladle.training.state import digest

    for row in rows:  # before a model is loaded
        Template.parse(row["text"])
    loaded = LatentDiffusion.from_pretrained(model)
    for row in rows:
        Template.parse(row["text"]).check_room(loaded.autoencoder.backbone)
    draws: list[dict[str, Any]] = []
    for row in rows:
        own = own_label(row.get("label"), loaded.labels) if loaded.labels else None
        source = row.get("source") if loaded.takes_source else None
        for _ in range(num_samples):
            asked = own_label(label[len(draws) % len(label)], loaded.labels) if label else own
            draw = {"template": row["text"], "seed": len(draws), "label": asked, "source": source}
            draws.append({name: value for name, value in draw.items() if value is not None})
    reader = loaded.parts.reader()
    say_cut(reader.tokenizer, reader.max_tokens, [d["source"] for d in draws if "source" in d], "source texts")
    how = loaded.parts.sampling.override(**overrides)
    command = digest([loaded.digest, how.model_dump(mode="json"), seed, draws])
    filled: list[str] = []
    with partial_rows(output, command, fresh_seed(count) if seed is None else seed, log=log) as kept:
        first = kept.remembered
        draws = [draw | {"seed": first + draw["seed"]} for draw in draws]
        write_and_say(kept, _filled(kept, loaded, draws, batch_size, overrides, filled))
    if line := missed_line(filled, how):
        log(line)
    if seed is None:
        log(f"seed {first}; --seed {first} draws the same {'text' if count == 1 else 'texts'} again")


def _read(path: str) -> list[Row]:
    return read_and_tell(path, Columns(), log, brief=True, empty="refuse", hints=lambda: Columns(text="template"))


def _filled(
    kept: PartialRows,
    loaded: Any,
    draws: list[dict[str, Any]],
    batch_size: int,
    overrides: dict[str, Any],
    filled: list[str],
) -> Iterator[dict[str, Any]]:
    """The rows that follow those kept. filled: gets their texts."""
    from tqdm import tqdm

    size = 1 if kept.output == STDIO else TEXTS_AT_ONCE
    with tqdm(
        total=len(draws), unit=" texts", file=sys.stderr, disable=None, leave=False
    ) as bar:  # (None: no terminal)
        for start in range(kept.count, len(draws), size):
            part = draws[start : start + size]
            texts = loaded.infill(
                [draw["template"] for draw in part],
                seeds=[draw["seed"] for draw in part],
                label=[draw.get("label") for draw in part],
                source=[draw.get("source") for draw in part],
                batch_size=batch_size,
                **overrides,
            )
            filled.extend(texts)
            bar.n = start + len(part)
            bar.clear()  # rows may go to the same terminal
            yield from ({"text": text, **draw, "model": loaded.digest} for text, draw in zip(texts, part, strict=True))
