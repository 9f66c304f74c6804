"""Points between latents, against geometry."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ladle.editing.paths import lerp, slerp, stretched, weighted

RIGHT, UP = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 6.0]])  # of lengths 2 and 6


def latents(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.floats(0, 1))
def test_length_and_angle_change_evenly_on_the_arc(seed: int, share: float) -> None:
    """A decoder has met only latents of usual lengths: the straight line would leave them."""
    first, second = latents(seed), 3 * latents(seed + 1000)
    point = slerp(first, second, share)
    length = (1 - share) * float(first.norm()) + share * float(second.norm())
    assert float(point.norm()) == pytest.approx(length, rel=1e-4)

    def angle(one: torch.Tensor, other: torch.Tensor) -> float:
        return math.acos(max(-1.0, min(1.0, float((one * other).sum() / one.norm() / other.norm()))))

    assert angle(first, point) == pytest.approx(share * angle(first, second), abs=2e-3)


@pytest.mark.parametrize("mix", [lerp, slerp])
def test_the_ends_are_the_latents_themselves(mix) -> None:
    """To the last bit: the ends of a way must give their texts back."""
    first, second = latents(1), latents(2)
    assert torch.equal(mix(first, second, 0), first)
    torch.testing.assert_close(mix(first, second, 1), second)
    assert torch.equal(slerp(first, second, 1), second)


def test_the_middle_of_an_arc_by_hand() -> None:
    """Half-way between right and up at right angles: both parts alike, of the mean length 4."""
    part = 4 / math.sqrt(2)
    torch.testing.assert_close(slerp(RIGHT, UP, 0.5), torch.tensor([[part, 0.0], [0.0, part]]))
    torch.testing.assert_close(lerp(RIGHT, UP, 0.5), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))


def test_between_parallel_latents_the_arc_is_the_line() -> None:
    """There is no angle to divide by; opposite ones have no arc of their own, and nothing must be NaN."""
    torch.testing.assert_close(slerp(RIGHT, 2 * RIGHT, 0.5), 1.5 * RIGHT)
    torch.testing.assert_close(slerp(RIGHT, -3 * RIGHT, 0.25), torch.zeros(2, 2))
    torch.testing.assert_close(slerp(RIGHT, torch.zeros(2, 2), 0.5), 0.5 * RIGHT)


def test_a_weighted_mean_has_the_mean_length() -> None:
    """By hand: a quarter of right and three quarters of up, stretched to 0.25 * 2 + 0.75 * 6 = 5."""
    both, weights = torch.stack([RIGHT, UP]), torch.tensor([0.25, 0.75])
    plain = torch.tensor([[0.5, 0.0], [0.0, 4.5]])
    torch.testing.assert_close(weighted(both, weights, mend=False), plain)
    torch.testing.assert_close(weighted(both, weights), plain * 5 / plain.norm())


def test_a_negative_weight_goes_away_from_a_text() -> None:
    """Twice one less the other is further from the other than the one is."""
    one, other = latents(1), latents(2)
    away = weighted(torch.stack([one, other]), torch.tensor([2.0, -1.0]))
    alike = [float(torch.cosine_similarity(x.flatten(), other.flatten(), dim=0)) for x in (away, one)]
    assert alike[0] < alike[1]


def test_stretching_keeps_both_ends_and_lies_between_neighbours() -> None:
    """Position-aligned latents of texts of other lengths meet half-way in length too."""
    values = torch.tensor([[0.0], [10.0], [30.0]])
    torch.testing.assert_close(stretched(values, 5), torch.tensor([[0.0], [5.0], [10.0], [20.0], [30.0]]))
    assert stretched(values, 3) is values
    torch.testing.assert_close(stretched(values, 2), torch.tensor([[0.0], [30.0]]))
    torch.testing.assert_close(stretched(values[:1], 3), torch.zeros(3, 1))
