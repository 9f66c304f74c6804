"""Token batches: nothing lost, nothing over the budget, little padding, the same again by (seed, epoch)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.data.batching import epoch_batches, fitting_max_tokens, token_batches
from ladle.errors import UserError
from ladle.training.optimiser import TrainingConfig

LENGTHS = st.lists(st.integers(0, 80), max_size=200)
BUDGET = st.integers(1, 300)
ROWS = st.none() | st.integers(1, 9)


@settings(deadline=None)  # a busy machine is no defect
@given(LENGTHS, BUDGET, ROWS, st.integers(-3, 2**40), st.integers(0, 5))
def test_every_row_once_within_the_budget(lengths, max_tokens, max_rows, seed, epoch):
    """An over-full batch is an out-of-memory crash hours into a run; a lost row is silent."""
    batches = token_batches(lengths, max_tokens, seed=seed, epoch=epoch, max_rows=max_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) * longest <= max_tokens or len(batch) == 1
        assert len(batch) <= min(max_rows or len(batch), max_tokens)


@settings(deadline=None)  # a busy machine is no defect
@given(LENGTHS, BUDGET, ROWS)
def test_seed_and_epoch_decide_everything(lengths, max_tokens, max_rows):
    """Resuming in the middle of an epoch relies on it."""
    first = token_batches(lengths, max_tokens, seed=3, epoch=1, max_rows=max_rows)
    assert token_batches(np.array(lengths), max_tokens, seed=3, epoch=1, max_rows=max_rows) == first


def test_epochs_and_seeds_differ_in_order_and_company():
    lengths = np.random.default_rng(0).integers(5, 60, size=2000)
    kinds = [(0, 0), (0, 1), (1, 0)]
    runs = [token_batches(lengths, 512, seed=seed, epoch=epoch) for seed, epoch in kinds]
    companies = [{frozenset(batch) for batch in run} for run in runs]
    for other in companies[1:]:
        assert len(companies[0] & other) < 0.05 * len(companies[0])


def test_batches_come_in_random_order_of_length():
    """Within a pool they are cut by rising length; left so, lengths would come in waves, each a curriculum."""
    lengths = np.random.default_rng(0).integers(5, 60, size=20_000)
    means = [np.mean(lengths[batch]) for batch in token_batches(lengths, 512, seed=0, epoch=0)]
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.1


def test_little_padding_and_full_batches():
    """What sorting is for: the positions that are computed are mostly tokens, and the budget is used."""
    lengths = np.minimum(np.random.default_rng(0).geometric(0.04, size=20_000) + 3, 128)
    batches = token_batches(lengths, 2048, seed=0, epoch=0)
    computed = sum(len(batch) * max(lengths[batch]) for batch in batches)
    assert lengths.sum() / computed > 0.93
    assert computed / (len(batches) * 2048) > 0.93


def test_a_row_longer_than_the_budget_is_alone():
    batches = token_batches([500, 3, 3, 3], 10, seed=0, epoch=0)
    assert [0] in batches and sorted(map(len, batches)) == [1, 3]
    assert token_batches([], 10, seed=0, epoch=0) == []


@pytest.mark.parametrize("limits", [{"max_tokens": 0}, {"max_tokens": 8, "max_rows": 0}])
def test_limits_below_one_are_refused(limits):
    with pytest.raises(UserError, match="must be at least 1"):
        token_batches([1, 2], seed=0, epoch=0, **limits)


def test_small_data_get_smaller_batches() -> None:
    assert fitting_max_tokens([30] * 100_000, 8192) == 8192
    assert fitting_max_tokens([12] * 5_000, 8192) == 6000
    assert fitting_max_tokens([12] * 50, 8192) == 1024
    assert fitting_max_tokens([12] * 50, 256) == 256


def test_a_stage_may_bound_the_texts_of_its_batches() -> None:
    config = TrainingConfig(steps=1, max_tokens=1000, max_rows=8)
    assert sorted(map(len, epoch_batches([3] * 100, config, 0))) == [4] + [8] * 12
