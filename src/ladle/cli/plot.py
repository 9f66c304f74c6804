"""Verb `plot`: pictures of what a model's latents hold. The data of a picture go to standard output."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ladle.checks import MAX_SEED, check_whole
from ladle.cli.app import ColumnNames, File, Whole, app, log, read_and_say
from ladle.cli.sample_options import EditingOptions, given
from ladle.data.columns import Columns
from ladle.data.files import STDIO

Picture = Annotated[Path, Parameter(name=("--output", "-o"))]
Options = Annotated[EditingOptions | None, Parameter(name="*")]

plot = App(name="plot", help="Draw pictures of latents: a trajectory, an interpolation, a map.", sort_key=8)
app.command(plot)


@plot.command
def trajectory(
    *,
    output: Picture,
    model: str = "base-en",
    seed: Whole | None = None,
    label: str | None = None,
    levels: Whole = 9,
    options: Options = None,
) -> None:
    """Draw a text coming out of noise: what the decoder reads out of the latents at levels of the sampler.

    The last text is the one that `ladle sample` draws by the same seed, with one candidate. Each level is also written
    to standard output, as a row with text, time and share of noise.

    Args:
        output: Picture to write, .png, .svg or .pdf.
        model: A model folder, a shipped model's name, or a hub id.
        seed: Seed of the text. Default: random.
        label: Class to draw from.
        levels: Number of levels, from 2, evenly chosen among those that the sampler visits.
    """
    check_whole("--levels", levels, least=2)
    overrides = given(options)
    if seed is not None:
        check_whole("--seed", seed, 0, MAX_SEED)
    _check_picture(output)

    from ladle.editing.pictures import draw_trajectory
    from ladle.editing.trajectory import trajectory as read_trajectory
    from ladle.sampling.request import fresh_seed
    from ladle.storage.writing import write_rows

    loaded = _load(model)
    first = fresh_seed(1) if seed is None else seed
    how = loaded.parts.sampling.override(**overrides)
    readings = read_trajectory(loaded.parts, first, levels, label=label, options=how)
    draw_trajectory(readings, output)
    log(f"a picture is in {output}")
    rows = ({k: v for k, v in vars(one).items() if v is not None} | {"model": loaded.digest} for one in readings)
    write_rows(STDIO, rows)
    if seed is None:
        log(f"seed {first}; --seed {first} draws the same text again")


@plot.command
def interpolation(
    first: str,
    second: str,
    /,
    *,
    output: Picture,
    model: str = "base-en",
    steps: Whole = 9,
    path: Literal["prior", "slerp", "linear", "renoise"] = "prior",
    wordings: Whole = 4,
    seed: Whole | None = None,
    options: Options = None,
) -> None:
    """Draw the way from one text to another, with the texts beside it. Its rows go to standard output.

    Args:
        first: The text that the way begins with.
        second: The text that it ends with.
        output: Picture to write, .png, .svg or .pdf.
        model: A model folder, a shipped model's name, or a hub id.
        steps: Number of texts on the way, from 2.
        path: How the way goes, as in `ladle interpolate`.
        wordings: Number of texts that are drawn for each position. The best is kept.
        seed: Seed of the words. Default: random.
    """
    check_whole("--steps", steps, least=2)
    check_whole("--wordings", wordings)
    overrides = given(options)
    if seed is not None:
        check_whole("--seed", seed, 0, MAX_SEED)
    _check_picture(output)

    from ladle.editing.pictures import draw_way
    from ladle.storage.writing import write_rows

    loaded = _load(model)
    changes = loaded.interpolate(first, second, steps, path=path, candidates=wordings, seed=seed, **overrides)
    draw_way(changes, output)
    log(f"a picture is in {output}")
    write_rows(STDIO, (change.as_row() | {"model": loaded.digest} for change in changes))
    if seed is None:
        log(f"the seed was {changes[0].seed}; --seed {changes[0].seed} gives the same texts again")


@plot.command(name="map")
def draw_a_map(
    data: File,
    /,
    *,
    output: Picture,
    model: str = "base-en",
    rows: Whole = 2000,
    seed: Whole = 0,
    batch_size: Whole = 128,
    columns: ColumnNames = None,
) -> None:
    """Draw the texts of a file as points: their embeddings on the two axes along which they vary most (PCA).

    With a column of labels the points have their colours.

    Args:
        data: File of texts, with labels or without; - is standard input.
        output: Picture to write, .png, .svg or .pdf.
        model: A model folder, a shipped model's name, or a hub id.
        rows: Number of rows that are drawn at most, chosen at random.
        seed: Seed of this choice.
        batch_size: Number of texts processed at once. A smaller number needs less memory.
    """
    check_whole("--rows", rows, least=3)
    check_whole("--seed", seed, 0, MAX_SEED)
    check_whole("--batch-size", batch_size)
    _check_picture(output, data)
    given_rows = read_and_say(data, model, columns or Columns())

    import numpy as np

    from ladle.editing.pictures import draw_map
    from ladle.editing.plane import plane_of

    chosen = np.sort(np.random.default_rng(seed).permutation(len(given_rows))[:rows])
    drawn = [given_rows[number] for number in chosen]
    plane = plane_of(_load(model).parts, [row["text"] for row in drawn], batch_size)
    draw_map(plane.points, plane.shares, [row.get("label") for row in drawn], output)
    of = "" if len(drawn) == len(given_rows) else f" of {len(given_rows):,}"
    log(f"{len(drawn):,}{of} texts are in {output}; its axes hold {sum(plane.shares):.1%} of their variance")


def _check_picture(output: Path, *inputs: str) -> None:
    """Raises UserError, before the work begins: the picture cannot be drawn or written."""
    from ladle.evaluation.plots import check_picture
    from ladle.storage.checks import check_writable

    check_picture(output)
    check_writable(output, inputs=inputs)


def _load(model: str) -> Any:
    from ladle.pipeline import LatentDiffusion

    return LatentDiffusion.from_pretrained(model)
