"""The distance is the closed form's, and scipy's matrix root agrees."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ladle.evaluation.mauve import frechet_distance


def samples(seed: int, count: int = 400, channels: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, channels)) @ generator.normal(size=(channels, channels)) + seed


def test_agrees_with_the_formula_by_scipy() -> None:
    one, other = samples(1), samples(2)
    c, d = np.cov(one.T), np.cov(other.T)
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_diagonal_gaussians_have_a_closed_form() -> None:
    """Sets with exactly the wanted moments: |m - m'|^2 plus the squared differences of the deviations."""
    points = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)  # covariance one, with n - 1
    other = points * [2.0, 3.0] + [1.0, 0.0]
    assert frechet_distance(points, other) == pytest.approx(1 + 1**2 + 2**2)


def test_a_set_is_no_distance_from_itself_and_order_does_not_count() -> None:
    one = samples(1)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, samples(2)) == pytest.approx(frechet_distance(samples(2), one))


def test_few_and_no_texts() -> None:
    assert frechet_distance(np.ones((1, 3)), np.zeros((1, 3))) == 3
    assert frechet_distance(np.zeros((0, 3)), np.ones((4, 3))) == float("inf")
