"""Verb `fit control`: a classifier of a model's latents, by which `ladle sample --control` steers."""

import math

from ladle.cli.app import ColumnNames, File, OutputFolder, Whole, log
from ladle.cli.evaluate import fit
from ladle.errors import UserError


@fit.command(name="control")
def fit_control(
    *,
    data: File,
    model: str,
    output: OutputFolder,
    minutes: float = 1.0,
    seed: Whole = 0,
    columns: ColumnNames = None,
) -> None:
    """Train a small classifier of a model's latents on labelled texts, for `ladle sample --control`.

    The model itself is not trained. It need not know the labels.

    Args:
        data: Rows with text and label. A fifth of them is held out to measure the accuracy.
        model: The model to control: a model folder, a shipped model's name, or a hub id.
        output: Folder to write.
        minutes: Minutes of training at most, after the texts are encoded. It ends early where it no longer helps.
        seed: Random seed of the training.
    """
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes is {minutes}; it must be greater than 0")
    from ladle.control.fitting import describe_held_out
    from ladle.pipeline import LatentDiffusion

    control = LatentDiffusion.from_pretrained(model).fit_control(
        data, output, minutes=minutes, seed=seed, columns=columns, log=log
    )
    log(describe_held_out(control))
    print(output)
