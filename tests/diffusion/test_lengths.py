"""How many latents: the distribution is learnt, and drawn from by the inverse of its cumulative sum."""

import pytest
import torch

from ladle.conditioning.config import ConditionConfig, SourceConfig
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.lengths import LengthModel

NOTHING = RawCondition()


def fixed(probabilities: list[float]) -> LengthModel:
    """A model without conditions that says exactly these."""
    model = LengthModel(ConditionConfig(), 4, len(probabilities))
    with torch.no_grad():
        model.base.copy_(torch.tensor(probabilities).log())
    return model


def learn(model: LengthModel, raw: RawCondition, lengths: torch.Tensor, steps: int = 150) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(raw, lengths).backward()
        optimizer.step()


# ------------------------------------------------------------------------------------------------ drawing


def test_the_inverse_of_the_cumulative_distribution_is_exact() -> None:
    """Evenly spaced numbers give each length exactly its share."""
    model = fixed([0.1, 0.4, 0.0, 0.3, 0.2])
    uniform = (torch.arange(1000) + 0.5) / 1000
    counts = torch.bincount(model.sample(NOTHING, uniform), minlength=6)
    assert counts.tolist() == [0, 100, 400, 0, 300, 200]


@pytest.mark.parametrize(("uniform", "length"), [(0.0, 2), (0.24, 2), (0.26, 3), (0.49, 3), (0.51, 5), (1 - 2**-24, 5)])
def test_each_number_has_its_length(uniform: float, length: int) -> None:
    """By hand, with both ends of [0, 1) and lengths of no probability at both ends."""
    model = fixed([0.0, 0.25, 0.25, 0.0, 0.5, 0.0])
    assert model.sample(NOTHING, torch.tensor([uniform])).tolist() == [length]


def test_a_length_depends_on_its_own_number_alone() -> None:
    """Not on the batch: a seed decides its own length."""
    model = fixed([0.2, 0.3, 0.5])
    uniform = torch.rand(50)
    together = model.sample(NOTHING, uniform)
    assert together.tolist() == [int(model.sample(NOTHING, u[None])) for u in uniform]
    assert model.sample(NOTHING, uniform.flip(0)).tolist() == together.flip(0).tolist()


def test_lengths_too_rare_to_be_meant_are_never_drawn() -> None:
    """A network gives every length a little; what is common keeps its proportions."""
    model = fixed([0.001, 0.4985, 0.0015, 0.499])
    uniform = (torch.arange(1000) + 0.5) / 1000
    drawn = model.sample(NOTHING, uniform)
    assert sorted(drawn.unique().tolist()) == [2, 4]
    assert (drawn == 2).sum() == pytest.approx(500, abs=1)


def test_temperature_sharpens_the_distribution() -> None:
    """p^(1 / temperature), by hand: squares of 1, 2, 1 at a half; at 0 the most common length only."""
    model, uniform = fixed([0.25, 0.5, 0.25]), (torch.arange(600) + 0.5) / 600
    counts = torch.bincount(model.sample(NOTHING, uniform, temperature=0.5), minlength=4)
    assert counts.tolist() == [0, 100, 400, 100]
    assert model.sample(NOTHING, uniform, temperature=0.0).unique().tolist() == [2]


def test_when_all_lengths_are_rare_all_may_be_drawn() -> None:
    """A thousand lengths of a thousandth each: to leave out all of them would leave none."""
    model = fixed([0.001] * 1000)
    drawn = model.sample(NOTHING, (torch.arange(1000) + 0.5) / 1000)
    assert drawn.unique().numel() > 990


# ------------------------------------------------------------------------------------------------ learning


def test_a_new_model_says_what_the_training_set_says() -> None:
    """`fit_base`: the counts, before any step, whatever the condition is."""
    lengths = torch.tensor([1] * 100 + [3] * 300 + [4] * 600)
    model = LengthModel(ConditionConfig(labels=("a", "b"), source=SourceConfig()), 4, 5)
    model.fit_base(lengths)
    raw = RawCondition(torch.tensor([0, -1]), torch.randn(2, 3, 4), torch.tensor([[True] * 3, [False] * 3]))
    for row in model(raw, 2).softmax(-1):
        torch.testing.assert_close(row, torch.tensor([0.1, 0.0, 0.3, 0.6, 0.0]), atol=2e-3, rtol=0)


def test_it_learns_the_lengths_of_each_label_and_their_mixture_without_one() -> None:
    """Known distributions, a third of the rows without a label, are recovered."""
    torch.manual_seed(0)
    truth = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.0, 0.1, 0.3, 0.6]])
    ids = torch.arange(3000) % 2
    lengths = torch.multinomial(truth[ids], 1)[:, 0] + 1
    seen = torch.where(torch.arange(3000) % 3 == 0, -1, ids)
    model = LengthModel(ConditionConfig(labels=("a", "b")), 4, 4)
    model.fit_base(lengths)
    learn(model, RawCondition(seen), lengths)
    found = model(RawCondition(torch.tensor([0, 1, -1])), 3).softmax(-1)
    torch.testing.assert_close(found, torch.cat([truth, truth.mean(0, keepdim=True)]), atol=0.05, rtol=0)
    torch.testing.assert_close(model(NOTHING, 1).softmax(-1), found[2:])  # nothing given is no label


def test_it_learns_how_long_a_text_is_from_its_source() -> None:
    """Here twice as long as the source: the number of its vectors counts, not what padding holds."""
    torch.manual_seed(0)
    counts = torch.arange(300) % 3 + 1
    mask = torch.arange(5)[None] < counts[:, None]
    source = torch.randn(300, 5, 4)
    model = LengthModel(ConditionConfig(source=SourceConfig()), 4, 6)
    model.fit_base(2 * counts)
    learn(model, RawCondition(None, source, mask), 2 * counts)
    garbage = torch.where(mask[..., None], torch.randn(300, 5, 4), 1e4)
    drawn = model.sample(RawCondition(None, garbage, mask), torch.rand(300))
    assert (drawn == 2 * counts).float().mean() > 0.98


def test_a_row_without_a_source_is_one_that_was_given_none() -> None:
    """Dropped in training and absent in sampling must look alike."""
    model = LengthModel(ConditionConfig(source=SourceConfig()), 4, 6)
    torch.nn.init.normal_(model.network[2].weight)
    dropped = RawCondition(None, torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    torch.testing.assert_close(model(dropped, 2), model(NOTHING, 2))
