"""test-BLEU at matched self-BLEU: systems are compared where they are equally varied.

At a low temperature a system repeats itself. Its test-BLEU is high then, and so is its self-BLEU. So one figure of
test-BLEU says little, and the curve over temperature says all (Caccia et al. 2018, arXiv 1811.02549).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

X, Y = "self_bleu", "test_bleu"
Rows = Sequence[Mapping[str, Any]]  # the scores of each seed
Curve = Sequence[tuple[float, float]]  # (self-BLEU, test-BLEU) of each group of settings
Figure = tuple[float, float, int]  # mean, standard deviation over seeds, number of seeds


def interpolated(curve: Curve, at: float) -> float | None:
    """The height of a curve at `at`, on the straight line between the two points beside it (sorted by their first
    value; at one place the highest counts). None where the curve does not reach."""
    points = sorted(curve)
    for place, height in reversed(points):
        if place == at:
            return height
    for (left, low), (right, high) in pairwise(points):
        if left < at < right:
            return low + (high - low) * (at - left) / (right - left)
    return None


def common_middle(curves: Iterable[Curve]) -> float | None:
    """The middle of the range that all curves have in common. Curves of one point have no range and do not count. None
    where nothing is common."""
    ranges = [[place for place, _ in curve] for curve in curves if len(curve) > 1]
    if not ranges:
        return None
    low, high = max(map(min, ranges)), min(map(max, ranges))
    return (low + high) / 2 if low < high else None


def curve_of(settings: Mapping[str, Rows], seed: int | None = None) -> list[tuple[float, float]]:
    """The points of a system's settings: means over seeds, or those of one seed."""
    curve = []
    for rows in settings.values():
        measured = [row for row in rows if X in row and Y in row]
        chosen = measured if seed is None else measured[seed : seed + 1]
        if chosen:
            x, y = (float(np.mean([row[name]["value"] for row in chosen])) for name in (X, Y))
            curve.append((x, y))
    return curve


def at_self_bleu(settings: Mapping[str, Rows], at: float | None) -> Figure | None:
    """A system's test-BLEU at a self-BLEU, with its spread over those seeds that all settings have. The mean is that of
    the curve of means. None where this curve does not reach, or `at` is None."""
    value = None if at is None else interpolated(curve_of(settings), at)
    if value is None or at is None:
        return None
    seeds = range(min((len(rows) for rows in settings.values() if rows), default=0))
    each = [found for seed in seeds if (found := interpolated(curve_of(settings, seed), at)) is not None]
    return value, float(np.std(each, ddof=1)) if len(each) > 1 else 0.0, max(1, len(each))


def places(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Where the systems of a suite are compared: the self-BLEU of real text, and the middle of their common range."""
    real = result["controls"].get("reference", {}).get(X)
    curves = [curve_of(system["settings"]) for system in result["systems"].values()]
    return {"real text": real and real["value"], "the middle": common_middle(curves)}
