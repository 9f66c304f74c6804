"""Verb `inspect`."""

import math
from pathlib import Path

from ladle.cli.app import ColumnNames, OutputFile, Whole, app, log
from ladle.data.files import STDIO
from ladle.errors import UserError
from ladle.storage.checks import check_writable
from ladle.storage.writing import atomic_json


@app.command(sort_key=8)
def inspect(
    *,
    model: str,
    health: bool = False,
    data: Path | None = None,
    minutes: float = 2.0,
    seed: Whole = 0,
    output: OutputFile | None = None,
    columns: ColumnNames = None,
) -> None:
    """Show a model's parts, sizes, training data and latent statistics. --health adds a test of its latents.

    Args:
        model: A model folder, a shipped model's name, or a hub id.
        health: Add noise to the latents of --data, measure how much of the text survives, and advise on settings.
        data: A file of texts, or a folder with train and valid files, for --health.
        minutes: Minutes of training for a small denoiser that --health tries. 0 trains none.
        seed: Random seed of that training and of the noise.
        output: JSON file for the results of --health; - is standard output, and then nothing else is printed.
    """
    from ladle.storage.description import describe

    if not health:
        if data is not None or output is not None:
            raise UserError("--data and --output need --health; add --health")
        print(describe(model))
        return
    if data is None:
        raise UserError("--health needs texts; give --data FILE")
    if not 0 <= minutes < math.inf:
        raise UserError(f"--minutes is {minutes}; it must be 0 or more")
    check_writable(output, inputs=(data,))

    from ladle.health.check import check_model_health
    from ladle.health.report import describe_health
    from ladle.training.small_denoiser import fit_small_denoiser

    found = check_model_health(
        model, data, fit_denoiser=fit_small_denoiser, minutes=minutes, columns=columns, seed=seed, log=log
    )
    if output is not None:
        atomic_json(output, found.as_json())
    if output != STDIO:
        print(describe(model) + "\n\n" + describe_health(found))
