"""Plots of reports: lengths, and quality against diversity and memorisation. Needs the extra `ladle[plots]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ladle.data.files import PathLike
from ladle.errors import from_extra
from ladle.evaluation import text_stats
from ladle.evaluation.metrics import METRICS
from ladle.storage.writing import check_writable, write_atomically

QUALITY = ("mauve", "perplexity", "bleu")  # the first that is known is the frontier's height
BESIDE = ("div", "copies", "mem")
LOGARITHMIC = ("perplexity",)
CONTROLS = ("reference", "shuffled", "training", "ceiling")
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#6b5b4c", "#337ea9", "#cb912f")
GREY = "#787774"


@dataclass(frozen=True)
class Point:
    """One system at one setting. spread: standard deviation over seeds of x and y; 0 where there is one."""

    name: str
    x: float
    y: float
    spread: tuple[float, float] = (0.0, 0.0)


def plot_report(report: Mapping[str, Any], texts: Sequence[str], held_out: Sequence[str], folder: PathLike) -> None:
    """lengths.png; quality against `BESIDE` for every row of the report, as far as they are known."""
    target = Path(folder)
    check_writable(target, folder=True)
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
    """How long the texts of each system are, in words, as shares."""
    plt = load_matplotlib()
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    lengths = {name: text_stats.lengths(texts) for name, texts in systems.items()}
    longest = max(1, int(max(np.quantile(values, 0.99) if len(values) else 0 for values in lengths.values())))
    edges = np.arange(-0.5, longest + 1.5, max(1, longest // 40))
    for (name, values), colour in zip(lengths.items(), _colours(lengths), strict=True):
        shares, _ = np.histogram(values.clip(max=longest), bins=edges)
        axes.stairs(shares / max(len(values), 1), edges, color=colour, linewidth=1.6, label=f"{name} ({len(values):,})")
    axes.set_xlabel("words")
    axes.set_ylabel("share of texts")
    axes.legend(frameon=False)
    _write(figure, axes, path)


def plot_frontier(
    systems: Mapping[str, Sequence[Point]], x: str, y: str, path: PathLike, title: str | None = None
) -> None:
    """Each system's settings in one picture; where there are several, a line from left to right.

    x, y: names of metrics.
    The control `reference` is drawn as two lines: what is aimed at for metrics that are best "as the reference".
    """
    plt = load_matplotlib()
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for (name, points), colour in zip(systems.items(), _colours(systems), strict=True):
        if not points:
            continue
        if name in CONTROLS:
            axes.scatter([p.x for p in points], [p.y for p in points], marker="D", s=28, color=colour, label=name)
            if name == "reference":
                axes.axvline(points[0].x, color=GREY, linewidth=0.8, linestyle=":")
                axes.axhline(points[0].y, color=GREY, linewidth=0.8, linestyle=":")
            continue
        points = sorted(points, key=lambda point: point.x)
        axes.errorbar(
            [p.x for p in points], [p.y for p in points], xerr=[p.spread[0] for p in points],
            yerr=[p.spread[1] for p in points], marker="o", markersize=4, linewidth=1.4, elinewidth=0.8, capsize=2,
            color=colour, label=name,
        )  # fmt: skip
        for point in points:
            if point.name:
                axes.annotate(point.name, (point.x, point.y), textcoords="offset points", xytext=(5, 4), fontsize=7,
                              color=colour)  # fmt: skip
    axes.set_xlabel(_says(x))
    axes.set_ylabel(_says(y))
    if y in LOGARITHMIC:
        axes.set_yscale("log")
    if title:
        axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    _write(figure, axes, path)


def plot_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, path: PathLike
) -> None:
    """Lines over a common axis, such as a held-out loss over minutes; logarithmic where they fall to a tenth and less,
    so that the lowest point can be seen."""
    plt = load_matplotlib()
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, points), colour in zip(curves.items(), _colours(curves), strict=True):
        axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", markersize=3, color=colour, label=name)
    values = [y for points in curves.values() for _, y in points]
    if values and 0 < 10 * min(values) < max(values):
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False, fontsize=8)
    _write(figure, axes, path)


def load_matplotlib() -> Any:
    """matplotlib's pyplot, drawing into files. Raises UserError where the extra is not installed."""
    with from_extra("plots need", "plots", "matplotlib"):
        import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _colours(names: Mapping[str, Any]) -> list[str]:
    own = iter(COLOURS * (1 + len(names) // len(COLOURS)))
    greys = {"reference": "#000000", "shuffled": "#b0afab", "training": GREY, "ceiling": "#55534e"}
    return [greys[name] if name in greys else next(own) for name in names]


def _says(name: str) -> str:
    return f"{name}: {METRICS[name].says}" if name in METRICS else name


def _write(figure: Any, axes: Any, path: PathLike) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    try:
        write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150))
    finally:
        load_matplotlib().close(figure)
