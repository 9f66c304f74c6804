"""Verb `embed`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ladle.checks import check_whole
from ladle.cli.app import ColumnNames, File, OutputFile, Whole, app, log, read_and_say, say_cut, write_and_say
from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.data.rows import counted
from ladle.errors import UserError
from ladle.storage.checks import check_writable
from ladle.storage.partial_rows import partial_rows
from ladle.storage.writing import write_atomically

ROWS_AT_ONCE = 1024  # embedded between two writes
DIGITS = 7  # of an embedding's numbers after the point: as many as float32 holds
_OTHERS = (".npz", ".csv", ".tsv", ".txt", ".parquet", ".pt", ".safetensors", ".npy.gz")


@app.command(sort_key=5)
def embed(
    texts: File,
    /,
    *,
    model: str = "base-en",
    output: OutputFile = STDIO,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
) -> None:
    """Turn each text into a vector of norm 1 that stands for its meaning: for search, clustering, classifiers.

    Texts that say similar things have a cosine near 1. Each row holds text and embedding.

    Args:
        texts: File of texts; - is standard input.
        model: A model folder, a shipped model's name, or a hub id.
        output: JSON Lines file to write (.gz compresses), or an array of NumPy (.npy) with a row for each text; - is
            standard output.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    check_whole("--batch-size", batch_size)
    if output.lower().endswith(_OTHERS):
        raise UserError(f"--output {output}: embeddings are written as .jsonl, .jsonl.gz or .npy; give such a name")
    as_array = output.lower().endswith(".npy")
    if as_array and Path(output).exists():  # (nothing in such a file says who wrote it)
        raise UserError(f"{output} exists; delete it, or give another name")
    check_writable(output, inputs=(texts,))

    import numpy as np

    from ladle.autoencoder.embedding import reading_limit
    from ladle.pipeline import LatentDiffusion
    from ladle.training.state import digest

    rows = [row["text"] for row in read_and_say(texts, model, columns or Columns())]
    loaded = LatentDiffusion.from_pretrained(model)
    tokenizer, limit = reading_limit(loaded.autoencoder)
    say_cut(tokenizer, limit, rows, "texts")
    if as_array:

        def write(place: Path) -> None:
            with open(place, "wb") as file:
                np.save(file, loaded.embed(rows, batch_size).numpy())

        write_atomically(output, write)
        log(f"{counted(len(rows), 'embedding')} written to {output}")
        return
    with partial_rows(output, digest([loaded.digest, rows]), log=log) as kept:

        def embedded() -> Iterator[dict[str, Any]]:
            for start in range(kept.count, len(rows), ROWS_AT_ONCE):
                part = rows[start : start + ROWS_AT_ONCE]
                for text, vector in zip(part, loaded.embed(part, batch_size).tolist(), strict=True):
                    yield {"text": text, "embedding": [round(number, DIGITS) for number in vector]}

        write_and_say(kept, embedded())
