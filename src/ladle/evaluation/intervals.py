"""Intervals for a metric, by resampling rows or in closed form. The right method depends on the metric.

The bootstrap draws rows with replacement. It fits means over rows and corpus BLEU. But a row drawn twice is a
repetition that the data do not have, so it does not fit counts of *different* things (Div, distinct texts, self-BLEU,
distances between sets). They get the jackknife, which only leaves rows out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Interval = tuple[float, float]
Statistic = Callable[[np.ndarray], float]
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: `num_bootstrap` resamples (0: no intervals at all) and a seed. `statistic(indices)` is
    the figure of the rows `indices`, an int array. Fewer than two rows have no interval."""

    num_bootstrap: int = 1000
    seed: int = 0

    def bootstrap(self, statistic: Statistic, num_rows: int) -> Interval | None:
        """The 95 % percentile interval, by drawing rows with replacement. (Efron and Tibshirani 1993, chapter 13.)"""
        if num_rows < 2 or self.num_bootstrap < 1:
            return None
        generator = np.random.default_rng(self.seed)
        values = [statistic(generator.integers(num_rows, size=num_rows)) for _ in range(self.num_bootstrap)]
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    def jackknife(self, statistic: Statistic, num_rows: int) -> Interval | None:
        """The 95 % interval by leaving out one of twenty random groups at a time: the value on all rows plus and minus
        1.96 standard errors. (Shao and Tu 1995, section 2.3.)"""
        if num_rows < 2 or not self.num_bootstrap:
            return None
        order = np.random.default_rng(self.seed).permutation(num_rows)
        groups = np.array_split(order, min(20, num_rows))
        values = np.array([statistic(np.sort(np.setdiff1d(order, group))) for group in groups])
        count = len(groups)
        error = float(np.sqrt((count - 1) / count * np.sum((values - values.mean()) ** 2)))
        value = statistic(np.arange(num_rows))
        return value - _NORMAL_95 * error, value + _NORMAL_95 * error


DEFAULT = Resampling()


def sum_by_group(values: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray:
    """values [N, K] -> sums over each group [G, K], in the order in which the groups first occur. A bootstrap draws
    from these sums if the rows of a group (the draws of one input) belong together. None: every row is a group."""
    if groups is None:
        return values
    place = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    summed = np.zeros((len(place), values.shape[1]), dtype=values.dtype)
    np.add.at(summed, [place[name] for name in groups], values)
    return summed


def ratio_of_sums(parts: np.ndarray, nothing: float = 0.0) -> Statistic:
    """parts [N, 2] -> rows -> the sum of the first column over that of the second; `nothing` where that is 0."""

    def ratio(rows: np.ndarray) -> float:
        top, bottom = parts[rows].sum(axis=0)
        return float(top / bottom) if bottom else nothing

    return ratio


def wilson_interval(hits: int, num_rows: int) -> Interval | None:
    """The 95 % interval of a share of independent rows (Wilson 1927). None for no rows."""
    if num_rows < 1:
        return None
    share, z2 = hits / num_rows, _NORMAL_95**2
    centre = (share + z2 / (2 * num_rows)) / (1 + z2 / num_rows)
    half = _NORMAL_95 / (1 + z2 / num_rows) * np.sqrt(share * (1 - share) / num_rows + z2 / (4 * num_rows**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))
