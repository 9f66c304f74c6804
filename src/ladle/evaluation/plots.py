"""Plots of reports: lengths, and quality against diversity and memorisation. Needs the extra `ladle[plots]`."""

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladle.data.files import PathLike
from ladle.errors import UserError
from ladle.evaluation import text_stats
from ladle.evaluation.extras import load_extra
from ladle.evaluation.metrics import METRICS
from ladle.storage.checks import PICTURE_MARK
from ladle.storage.writing import write_atomically

QUALITY = ("mauve", "perplexity", "bleu")  # the first that is known is the frontier's height
BESIDE = ("div", "copies", "mem")
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#6b5b4c", "#337ea9", "#cb912f")
GREY = "#787774"
CONTROLS = {"reference": "#000000", "shuffled": "#b0afab", "training": GREY, "ceiling": "#55534e"}


@dataclass(frozen=True)
class Point:
    """One system at one setting. spread: standard deviation of x and y over seeds; 0 for a single seed."""

    name: str
    x: float
    y: float
    spread: tuple[float, float] = (0.0, 0.0)


def plot_report(report: Mapping[str, Any], texts: Sequence[str], held_out: Sequence[str], folder: PathLike) -> None:
    """Plot lengths, and quality against the metrics in `BESIDE`, for all rows of the report that have them."""
    target = Path(folder)
    plot_lengths({"samples": texts} | ({"reference": held_out} if held_out else {}), target / "lengths.png")
    quality = next((name for name in QUALITY if name in report["rows"]["samples"]), None)
    for beside in BESIDE if quality else ():
        known = {
            name: [Point("", row[beside]["value"], row[quality]["value"])]
            for name, row in report["rows"].items()
            if beside in row and quality in row
        }
        if known:
            plot_frontier(known, beside, str(quality), target / f"{quality}_{beside}.png")


def plot_lengths(systems: Mapping[str, Sequence[str]], path: PathLike) -> None:
    """Plot the lengths of each system's texts, in words, as shares."""
    lengths = {name: text_stats.lengths(texts) for name, texts in systems.items()}
    longest = max(1, int(max(np.quantile(values, 0.99) if len(values) else 0 for values in lengths.values())))
    edges = np.arange(-0.5, longest + 1.5, max(1, longest // 40))
    with drawing(path, "words", "share of texts", legend_size=None) as axes:
        for (name, values), colour in zip(lengths.items(), _colours(lengths), strict=True):
            shares, _ = np.histogram(values.clip(max=longest), bins=edges)
            label = f"{name} ({len(values):,})"
            axes.stairs(shares / max(len(values), 1), edges, color=colour, linewidth=1.6, label=label)


def plot_frontier(
    systems: Mapping[str, Sequence[Point]], x: str, y: str, path: PathLike, title: str | None = None
) -> None:
    """Plot each system's settings as points, joined by a line from left to right if there are several.

    x, y: names of metrics.
    The control `reference` is drawn as two lines, the target of metrics that are best "as the reference".
    """
    with drawing(path, _says(x), _says(y), size=(6.4, 4.4)) as axes:
        for (name, points), colour in zip(systems.items(), _colours(systems), strict=True):
            if points:
                _draw_system(axes, name, points, colour)
        if y == "perplexity":
            axes.set_yscale("log")
        if title:
            axes.set_title(title, fontsize=10)


def _draw_system(axes: Any, name: str, points: Sequence[Point], colour: str) -> None:
    points = points if name in CONTROLS else sorted(points, key=lambda point: point.x)
    x, y = [point.x for point in points], [point.y for point in points]
    if name not in CONTROLS:
        x_spread, y_spread = zip(*(point.spread for point in points), strict=True)
        axes.errorbar(x, y, xerr=x_spread, yerr=y_spread, color=colour, label=name, marker="o", markersize=4,
                      linewidth=1.4, elinewidth=0.8, capsize=2)  # fmt: skip
        style = {"textcoords": "offset points", "xytext": (5, 4), "fontsize": 7, "color": colour}
        for point in points:
            if point.name:
                axes.annotate(point.name, (point.x, point.y), **style)
        return
    axes.scatter(x, y, marker="D", s=28, color=colour, label=name)
    if name == "reference":
        axes.axvline(x[0], color=GREY, linewidth=0.8, linestyle=":")
        axes.axhline(y[0], color=GREY, linewidth=0.8, linestyle=":")


def plot_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, path: PathLike
) -> None:
    """Lines over a common axis, such as a held-out loss over minutes. The scale is logarithmic if values fall to a
    tenth or less, so that the lowest point can be seen."""
    with drawing(path, x_label, y_label) as axes:
        for (name, points), colour in zip(curves.items(), _colours(curves), strict=True):
            x, y = [p[0] for p in points], [p[1] for p in points]
            axes.plot(x, y, marker="o", markersize=3, color=colour, label=name)
        values = [y for points in curves.values() for _, y in points]
        if values and 0 < 10 * min(values) < max(values):
            axes.set_yscale("log")


def _colours(names: Mapping[str, Any]) -> list[str]:
    own = itertools.cycle(COLOURS)
    return [CONTROLS[name] if name in CONTROLS else next(own) for name in names]


def _says(name: str) -> str:
    return f"{name}: {METRICS[name].says}" if name in METRICS else name


_WRITER = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}  # where a picture says what drew it, by ending


def check_picture(path: PathLike) -> None:
    """Raises UserError: a name that does not end as pictures do, or the extra `plots` is missing."""
    if Path(path).suffix.lower() not in _WRITER:
        raise UserError(f"cannot draw {path}: a picture's name ends in {', '.join(_WRITER)}; give such a name")
    load_extra("matplotlib")


@contextmanager
def new_figure(path: PathLike, size: tuple[float, float]) -> Iterator[Any]:
    """A figure to draw on, of so many inches; what was drawn is written to `path`. Raises as `check_picture`."""
    check_picture(path)
    figure = load_extra("matplotlib.figure").Figure(figsize=size, layout="constrained")
    yield figure
    said = {_WRITER[Path(path).suffix.lower()]: PICTURE_MARK}
    with warnings.catch_warnings():  # (of signs that its fonts do not have: they are drawn as boxes)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, metadata=said))


@contextmanager
def drawing(
    path: PathLike, x_label: str, y_label: str, size: tuple[float, float] = (6, 3.6), legend_size: int | None = 8
) -> Iterator[Any]:
    """Axes to draw on; what was drawn is written to `path`. With names of what is drawn there is a legend."""
    with new_figure(path, size) as figure:
        axes = figure.subplots()
        yield axes
        axes.set(xlabel=x_label, ylabel=y_label)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=legend_size)
        axes.spines[["top", "right"]].set_visible(False)
