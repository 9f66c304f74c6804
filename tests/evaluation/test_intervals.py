"""Intervals: they must cover what they claim to cover, and be the same for the same seed."""

import numpy as np
import pytest

from ladle.evaluation.intervals import Resampling, wilson_interval


def test_bootstrap_of_a_mean_is_the_textbook_interval():
    """For many rows it must agree with mean +- 1.96 standard errors."""
    data = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    low, high = Resampling(2000).bootstrap(lambda rows: data[rows].mean(), len(data))
    error = data.std() / np.sqrt(len(data))
    assert low == pytest.approx(data.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(data.mean() + 1.96 * error, abs=0.15 * error)


@pytest.mark.parametrize("interval", [Resampling.bootstrap, Resampling.jackknife])
def test_intervals_cover_the_truth_about_as_often_as_they_say(interval):
    """95 % intervals of 60 means: far fewer than 57 hits would be a wrong formula."""
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(60):
        data = generator.exponential(1.0, size=200)
        low, high = interval(Resampling(200, trial), lambda rows, data=data: data[rows].mean(), len(data))
        hits += low <= 1.0 <= high
    assert 51 <= hits <= 60


def test_jackknife_is_not_fooled_by_repetition():
    """The share of different values of rows that all differ is 1; the bootstrap would say .63."""
    values = np.arange(500)
    statistic = lambda rows: len(set(values[rows])) / len(rows)  # noqa: E731
    assert Resampling().jackknife(statistic, 500) == pytest.approx((1.0, 1.0))
    assert Resampling(50).bootstrap(statistic, 500)[1] < 0.7


def test_the_seed_decides():
    """A report must come out the same twice."""
    data = np.random.default_rng(0).normal(size=50)
    mean = lambda rows: float(data[rows].mean())  # noqa: E731
    assert Resampling(seed=3).bootstrap(mean, 50) == Resampling(seed=3).bootstrap(mean, 50)
    assert Resampling(seed=3).bootstrap(mean, 50) != Resampling(seed=4).bootstrap(mean, 50)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_no_interval_from_less_than_two_rows(num_rows):
    """One row says nothing about spread: no interval is better than [x, x]."""
    assert Resampling().bootstrap(lambda rows: 0.0, num_rows) is None
    assert Resampling().jackknife(lambda rows: 0.0, num_rows) is None
    assert wilson_interval(0, 0) is None


def test_wilson_on_known_figures():
    """15 of 50 is [.191, .438] in the tables; 0 of 300 is not certainty."""
    assert wilson_interval(15, 50) == pytest.approx((0.1910, 0.4375), abs=5e-4)
    low, high = wilson_interval(0, 300)
    assert low == pytest.approx(0, abs=1e-12)
    assert 0.01 < high < 0.02
