"""Pictures of changes: how near texts stay to their source, and the way from one text to another."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ladle.editing.change import Change
from ladle.evaluation.plots import COLOURS, drawing


def draw_changes(changes: Sequence[Change], path: Path) -> None:
    """Write a picture of changes to a PNG file. Of ways between texts: the mean similarity to both ends by position.
    Of other changes: similarity in meaning against words in common, one point a text, in the colours of what an edit
    asked for if it asked for something. Raises UserError: the extra `plots` is missing."""
    if any(change.target is not None for change in changes):
        with drawing(path, "position on the way", "similarity of meaning (cosine)", legend_size=9) as axes:
            _draw_ways(axes, changes)
    else:
        across = "words in common with the source (sentence BLEU)"
        with drawing(path, across, "similarity of meaning (cosine)", legend_size=None) as axes:
            _draw_points(axes, changes)


def _draw_ways(axes: Any, changes: Sequence[Change]) -> None:
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
    if all(share is not None for share in shares):
        points = axes.scatter(x, y, c=shares, vmin=0, vmax=1, cmap="viridis", label="texts")
        axes.figure.colorbar(points, ax=axes, label="probability of what was asked for")
    else:
        axes.scatter(x, y, color=COLOURS[0], label="texts")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
