"""The same seeds must give the same texts at any batch size: that begins with the noise."""

import math

import numpy as np
import pytest
import torch

from ladle.errors import UserError
from ladle.seeding import SampleNoise


def stream(seeds, shapes):
    """Three draws in a row, because a sampler draws at every step."""
    noise = SampleNoise(seeds)
    return [noise.normal(shapes), noise.uniform(), noise.normal(shapes)]


def test_a_sample_depends_on_its_own_seed_only():
    """Alone, in a batch, in another order, in another split: the same numbers, bit for bit."""
    together = stream([3, 1, 4, 15], [(5, 7)] * 4)
    reordered = stream([15, 4, 1, 3], [(5, 7)] * 4)
    for draw, back in zip(together, reordered, strict=True):
        assert torch.equal(draw, back.flip(0))
    for row, seed in enumerate([3, 1, 4, 15]):
        for draw, alone in zip(together, stream([seed], [(5, 7)]), strict=True):
            assert torch.equal(draw[row], alone[0])
    assert not torch.equal(together[0][0], together[0][1])
    assert not torch.equal(together[0], together[2])


def test_padding_costs_no_random_numbers():
    """A short text must not change when it shares a batch with a long one, at the first draw or any later one."""
    lengths = {7: (3, 5), 8: (11, 5), 9: (1, 5)}
    padded = stream(list(lengths), list(lengths.values()))
    assert padded[0].shape == (3, 11, 5)
    for row, (seed, shape) in enumerate(lengths.items()):
        alone = stream([seed], [shape])
        assert torch.equal(padded[1][row], alone[1][0])
        for draw in (0, 2):
            assert torch.equal(padded[draw][row, : shape[0]], alone[draw][0])
            assert not padded[draw][row, shape[0] :].any()


def test_equal_seeds_give_equal_rows_and_global_state_plays_no_part():
    """Nor may drawing disturb the program's own generator."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = stream([5, 5], [(4,)] * 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = stream(np.array([5, 5]), [(4,)] * 2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[0][0], first[0][1])


def test_neighbouring_seeds_are_standard_normal_and_unrelated():
    """`--seed 0 -n 1000` uses seeds 0 to 999: across them, the first numbers must look like independent draws."""
    count = 4000
    noise = SampleNoise(range(count))
    first, uniform = noise.normal([(16,)] * count).double(), noise.uniform().double()
    bound = 5 / math.sqrt(count)
    assert first.mean(0).abs().max() < bound
    assert (first.var(0) - 1).abs().max() < bound * math.sqrt(2)
    assert (first[1:] * first[:-1]).mean(0).abs().max() < bound
    assert abs(uniform.mean() - 0.5) < bound * math.sqrt(1 / 12)
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.shape == (count,)


def test_scalars():
    """One number a sample is a shape too."""
    noise = SampleNoise([1, 2])
    assert noise.normal([()] * 2).shape == (2,) and len(noise) == 2


def test_wrong_seeds_and_shapes_are_refused():
    """torch would take seed 2^32 and silently give it the stream of seed 0."""
    aliased = [torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 2**32)]
    assert torch.equal(*aliased), "torch reads more of a seed now: the limit can go"
    for seeds, message in (([], "no seeds"), ([2**32], "must be from 0 to 4294967295"), ([0, -1], "seed is -1")):
        with pytest.raises(UserError, match=message):
            SampleNoise(seeds)
    for shapes in ([(2, 3)], [(2, 3), (2,)]):
        with pytest.raises(ValueError, match="2 shapes"):
            SampleNoise([0, 1]).normal(shapes)
