"""Pictures of latents and of changes: ways between texts, a text coming out of noise, a map, what edits kept.

Texts are drawn as they are: a `$` begins no formula. Needs the extra `ladle[plots]`.
"""

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ladle.editing.change import Change
from ladle.editing.trajectory import Reading
from ladle.evaluation.plots import COLOURS, GREY, drawing, new_figure

LINE, LINES = 84, 3  # signs of a text in a line, and lines, at most
LINE_HEIGHT, LETTER, LEFT = 0.17, 0.078, 3.0  # in inches: of a line, of a letter, and the axes beside the texts


def draw_changes(changes: Sequence[Change], path: Path) -> None:
    """Write a picture of changes. Raises as `ladle.evaluation.plots.check_picture`.

    Of one way between two texts: `draw_way`. Of several: the mean similarity to both ends by position. Of other
    changes: similarity in meaning against words in common, one point a text, in the colours of what an edit asked for.
    """
    if len({(change.source, change.target) for change in changes if change.target is not None}) == 1:
        draw_way(changes, path)
    elif any(change.target is not None for change in changes):
        with drawing(path, "position on the way", "similarity of meaning (cosine)", legend_size=9) as axes:
            _draw_means(axes, changes)
    else:
        across = "words in common with the source (sentence BLEU)"
        with drawing(path, across, "similarity of meaning (cosine)", size=(6.4, 4.4)) as axes:
            _draw_points(axes, changes)


def draw_way(changes: Sequence[Change], path: Path) -> None:
    """One way between two texts, from the top to the bottom: the similarity to both ends, and the text at each
    position. Raises as `ladle.evaluation.plots.check_picture`."""
    places = [change.amount or 0.0 for change in changes]
    heights = [*range(len(changes))]
    with _beside_texts(path, [change.text for change in changes], [f"{place:.2f}" for place in places]) as axes:
        style = {"markersize": 4, "linewidth": 1.4}
        first, second = [c.similarity for c in changes], [c.target_similarity or 0.0 for c in changes]
        axes.plot(first, heights, marker="o", color=COLOURS[0], label="to the first text", **style)
        axes.plot(second, heights, marker="s", color=COLOURS[1], label="to the second text", **style)
        axes.set(xlabel="similarity of meaning (cosine)", ylabel="position on the way")
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)


def draw_trajectory(readings: Sequence[Reading], path: Path) -> None:
    """A text coming out of noise, from the top to the bottom: the share of noise at each level, and what the decoder
    reads there. Raises as `ladle.evaluation.plots.check_picture`."""
    with _beside_texts(path, [one.text for one in readings], [f"{one.time:.2f}" for one in readings]) as axes:
        heights = [*range(len(readings))]
        axes.barh(heights, [1.0] * len(readings), height=0.5, color=COLOURS[0], label="text")
        axes.barh(heights, [one.noise for one in readings], height=0.5, color="#dcdbd8", label="noise")
        axes.set(xlabel="share of the latents' variance", ylabel="diffusion time", xlim=(0, 1))
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def draw_map(points: Tensor, shares: tuple[float, float], labels: Sequence[str | None], path: Path) -> None:
    """Points [N, 2], one a text, in the colours of their labels, if there are any. The commonest labels have colours of
    their own, all others are grey. shares: of the variance on each axis. Raises as
    `ladle.evaluation.plots.check_picture`."""
    named = [name for name, _ in Counter(label for label in labels if label is not None).most_common(len(COLOURS))]
    colours: dict[str | None, str] = {None: GREY if named else COLOURS[0], **dict(zip(named, COLOURS, strict=False))}
    size = max(5.0, min(24.0, 8000 / max(1, len(labels))))
    with new_figure(path, (7.2, 4.8)) as figure:
        axes = figure.subplots()
        for name, colour in colours.items():
            rows = [row for row, label in enumerate(labels) if (label if label in named else None) == name]
            said = f"{_short(name or 'others', 30)} ({len(rows):,})"
            if rows:
                axes.scatter(*points[rows].T.tolist(), s=size, color=colour, alpha=0.6, linewidths=0, label=said)
        first, second = (f"component {n} ({share:.1%} of the variance)" for n, share in enumerate(shares, start=1))
        axes.set(xlabel=first, ylabel=second)
        axes.spines[["top", "right"]].set_visible(False)
        if named:
            legend = axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.5)
            for text in legend.get_texts():
                text.set_parse_math(False)


@contextmanager
def _beside_texts(path: Path, texts: Sequence[str], ticks: Sequence[str]) -> Iterator[Any]:
    """Axes to draw on, whose rows run from the top to the bottom, with a text at the right of each. ticks: names of the
    rows."""
    written = [_wrapped(text) for text in texts]
    lines = [text.split("\n") for text in written]
    row = LINE_HEIGHT * max(map(len, lines)) + 0.16
    right = max(2.0, LETTER * max(len(line) for own in lines for line in own))
    with new_figure(path, (LEFT + right, row * len(texts) + 1.0)) as figure:
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=[LEFT, right])
        yield axes
        for height, text in enumerate(written):
            beside.text(0, height, text, va="center", fontsize=9, parse_math=False)
        axes.set(yticks=range(len(texts)), yticklabels=ticks, ylim=(len(texts) - 0.5, -0.5))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        beside.axis("off")


def _wrapped(text: str) -> str:
    """A text in a few lines."""
    return "\n".join(textwrap.wrap(text, LINE, max_lines=LINES, placeholder=" ...")) or "(an empty text)"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _draw_means(axes: Any, changes: Sequence[Change]) -> None:
    places: dict[float, list[Change]] = defaultdict(list)
    for change in changes:
        places[change.amount or 0.0].append(change)
    shares = sorted(places)
    first = [_mean([change.similarity for change in places[share]]) for share in shares]
    second = [_mean([change.target_similarity or 0.0 for change in places[share]]) for share in shares]
    axes.plot(shares, first, marker="o", color=COLOURS[0], label="to the first text")
    axes.plot(shares, second, marker="s", color=COLOURS[1], label="to the second text")


def _draw_points(axes: Any, changes: Sequence[Change]) -> None:
    shares = [change.attribute_after for change in changes]
    x, y = [change.bleu for change in changes], [change.similarity for change in changes]
    style = {"s": 22, "alpha": 0.8, "linewidths": 0}
    if all(share is not None for share in shares):
        points = axes.scatter(x, y, c=shares, vmin=0, vmax=1, cmap="viridis", **style)
        axes.figure.colorbar(points, ax=axes, label="probability of what was asked for")
    else:
        axes.scatter(x, y, color=COLOURS[0], **style)
    axes.set_xlim(-3, 103)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
