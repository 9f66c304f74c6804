"""Verb `train`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ladle.cli.app import ColumnNames, File, Names, OutputFolder, Whole, app, log, pasted
from ladle.data.columns import Columns
from ladle.data.tables import kind_of
from ladle.errors import UserError


@app.command(sort_key=2)
def train(
    recipe: Path | None = None,
    /,
    *,
    data: File | None = None,
    output: OutputFolder | None = None,
    stage: Literal["all", "autoencoder", "diffusion", "joint", "decoder"] = "all",
    settings: Annotated[list[str] | None, Parameter(name="--set")] = None,
    minutes: float | None = None,
    from_scratch: Annotated[bool, Parameter(show_default=False)] = False,
    backbone: str | None = None,
    seed: Whole | None = None,
    attribute: Names = None,
    columns: ColumnNames = None,
) -> None:
    """Train a model on a file of texts. Run the same command again to continue after an interruption.

    Args:
        recipe: A TOML file of settings. Default: sizes and minutes that fit most files.
        data: Training texts: JSON Lines, CSV, TSV, text (gzipped or not) or Parquet, or a folder of train, valid and
            test files.
        output: Folder of the run. The model is written to its subfolder final. Default: runs/NAME.
        stage: Stop after this stage: autoencoder, diffusion, joint or decoder.
        settings: KEY=VALUE, replaces a setting of the recipe, such as diffusion.schedule.shift=3. May be repeated.
        minutes: Minutes of training, all stages together.
        from_scratch: Train all weights from random ones. By default training starts from the model base-en.
        backbone: A pre-trained encoder-decoder to build on, such as facebook/bart-base: a folder or a hub id.
        seed: Random seed of the training.
        attribute: Column of a further condition with few values, beside label and source. May be repeated.
    """
    if recipe is not None and kind_of(recipe) is not None:
        raise UserError(f"{recipe} is a data file, not a recipe; use: ladle train --data {pasted(recipe)}")
    if from_scratch and backbone is not None:
        raise UserError("--from-scratch and --backbone cannot be used together; give one of them")
    given: dict[str, Any] = {
        "training.minutes": minutes,
        "training.seed": seed,
        "start": "nothing" if from_scratch else None,
        "autoencoder.backbone.pretrained": backbone,
        "data.attributes": attribute,
        **{f"data.{name}": column for name, column in vars(columns or Columns()).items()},
    }
    # JSON writes strings and numbers as TOML reads them.
    flags = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items() if value is not None]

    from ladle.training.processes import is_main
    from ladle.training.recipe import load_recipe
    from ladle.training.run import train as run_training

    resolved = load_recipe(recipe, data=data, sets=[*flags, *(settings or [])])
    if output is None:
        output = Path("runs") / resolved.name
    model = run_training(resolved, output, stage=stage, log=log)
    if is_main():
        then = "draw texts with: ladle sample -n 8"
        if stage == "autoencoder":  # it has nothing to sample with
            path = resolved.data.path
            texts = pasted(path) if path and Path(path).is_file() else "FILE"
            then = f"see how it writes texts back with: ladle reconstruct {texts}"
        log(f"done; {then} --model {pasted(model)}")
        print(model)
