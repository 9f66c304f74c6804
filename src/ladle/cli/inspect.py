"""Verb `inspect`."""

import math
from pathlib import Path

from ladle.cli.app import OutputFile, app, log
from ladle.data.files import STDIO
from ladle.errors import UserError
from ladle.storage.writing import atomic_json, check_writable


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
        seed: Seed of that training and of the noise.
        output: JSON file for the figures of --health; - is standard output (then without the rest).
    """
    from ladle.storage.description import describe

    if not health:
        if data is not None or output is not None:
            raise UserError("--data and --output are for --health: add it")
        print(describe(model))
        return
    if data is None:
        raise UserError("--health needs texts: give --data FILE")
    if not 0 <= minutes < math.inf:
        raise UserError(f"--minutes is {minutes}: it must be 0 or more")
    check_writable(output)

    from ladle.health.check import check_model_health
    from ladle.health.report import describe_health
    from ladle.training.small_denoiser import fit_small_denoiser

    found = check_model_health(
        model, data, fit_denoiser=fit_small_denoiser, minutes=minutes, text=text, seed=seed, log=log
    )
    if output is not None:
        atomic_json(output, found.as_json())
    if output != STDIO:
        print(describe(model) + "\n\n" + describe_health(found))
