"""Label and source: what the denoiser reads of them, and what it reads when they are absent."""

from typing import Any

import pytest
import torch

from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.encoder import Condition, ConditionEncoder, RawCondition
from ladle.diffusion.transformer import CompactConfig, DenoisingTransformer
from ladle.errors import UserError

WIDTH, DIM = 32, 8


def build(**source: Any) -> ConditionEncoder:
    """Both conditions, two layers above the source, no parameter at its special start."""
    torch.manual_seed(0)
    values = {"labels": ["bad", "good"], "source": {"num_layers": 2, "max_tokens": 6} | source}
    encoder = ConditionEncoder(ConditionConfig.parse(values), WIDTH, DIM, 4).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def raw(rows: int = 4, size: int = 5) -> RawCondition:
    """Labels and sources of `rows` rows; row i has i + 1 vectors."""
    torch.manual_seed(1)
    mask = torch.arange(size)[None] <= torch.arange(rows)[:, None]
    return RawCondition(torch.arange(rows) % 2, torch.randn(rows, size, DIM), mask)


def seen(condition: Condition) -> torch.Tensor:
    """What a denoiser makes of a condition, [B, ...]: the vector, and the memory as its mask lets it be read."""
    torch.manual_seed(2)
    network = DenoisingTransformer(CompactConfig(width=WIDTH, num_layers=2, num_skips=0), 3, 4, True)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    rows = len(condition.vector)
    zt = torch.randn(1, 4, 3).expand(rows, -1, -1)
    with torch.no_grad():
        return network(zt, torch.tensor(0.0), mask=torch.ones(rows, 4, dtype=torch.bool), condition=condition)


# ------------------------------------------------------------------------------------------------ labels


def test_labels_are_known_by_name() -> None:
    """-1 stands for no label."""
    assert ConditionConfig(labels=("bad", "good")).label_ids(["good", None, "bad"]).tolist() == [1, -1, 0]


def test_an_unknown_label_is_refused_with_the_nearest() -> None:
    """A label that the model has not is bad input, not a random class."""
    with pytest.raises(UserError, match=r"unknown label 'god': did you mean 'good'\?"):
        ConditionConfig(labels=("bad", "good")).label_ids(["god"])
    with pytest.raises(UserError, match="unknown label 'good': this model has no labels"):
        ConditionConfig().label_ids(["good"])


# ------------------------------------------------------------------------------------------------ what is read


def test_label_and_source_are_both_read() -> None:
    """A change of either changes what the denoiser sees, in its own row only."""
    encoder, given = build(), raw()
    before = seen(encoder.encode(given, 4))
    label = RawCondition(torch.tensor([1, 1, 0, 1]), given.source, given.source_mask)
    source = given.source.clone()
    source[0, 0] = torch.randn(DIM)
    for other in (label, RawCondition(given.label_ids, source, given.source_mask)):
        difference = (seen(encoder.encode(other, 4)) - before).abs().amax((1, 2))
        assert difference[0] > 1e-3
        assert difference[1:].max() < 1e-5


def test_padding_of_a_source_is_not_read() -> None:
    """A source is read alike in any batch: neither what padding holds nor how much of it there is."""
    encoder, given = build(), raw()
    before = seen(encoder.encode(given, 4))
    garbage = given.source.masked_fill(~given.source_mask[..., None], 50.0)
    torch.testing.assert_close(
        seen(encoder.encode(RawCondition(given.label_ids, garbage, given.source_mask), 4)), before
    )
    alone = RawCondition(given.label_ids[1:2], given.source[1:2, :2], given.source_mask[1:2, :2])
    torch.testing.assert_close(seen(encoder.encode(alone, 1)), before[1:2], atol=1e-5, rtol=1e-4)


def test_a_source_longer_than_the_model_reads_is_cut() -> None:
    """Its position codes end there; the rest must not be an error in the middle of a run."""
    encoder, given = build(), raw(4, 9)
    given = RawCondition(given.label_ids, given.source, torch.ones(4, 9, dtype=torch.bool))
    cut = RawCondition(given.label_ids, given.source[:, :6], given.source_mask[:, :6])
    torch.testing.assert_close(seen(encoder.encode(given, 4)), seen(encoder.encode(cut, 4)))


# ------------------------------------------------------------------------------------------------ absence


@pytest.mark.parametrize("num_layers", [0, 2])
def test_the_null_condition_is_what_is_learnt_when_all_is_dropped(num_layers: int) -> None:
    """Unconditional sampling and guidance use `null`; training knows only what `drop` leaves."""
    encoder = build(num_layers=num_layers)
    dropped = encoder.encode(raw().dropped(1.0), 4)
    null = encoder.encode(RawCondition(), 4)
    torch.testing.assert_close(dropped.vector, null.vector)
    torch.testing.assert_close(seen(dropped), seen(null), atol=1e-5, rtol=1e-4)


def test_what_is_not_given_is_as_what_is_dropped() -> None:
    """A label without a source, and a source without a label, beside rows that have both."""
    encoder, given = build(), raw()
    nothing = torch.zeros_like(given.source_mask)
    for absent, same in (
        (RawCondition(given.label_ids), RawCondition(given.label_ids, given.source, nothing)),
        (
            RawCondition(None, given.source, given.source_mask),
            RawCondition(torch.full((4,), -1), given.source, given.source_mask),
        ),
    ):
        torch.testing.assert_close(seen(encoder.encode(absent, 4)), seen(encoder.encode(same, 4)), atol=1e-5, rtol=1e-4)
    half = given.source_mask.clone()
    half[2:] = False
    mixed = seen(encoder.encode(RawCondition(given.label_ids, given.source, half), 4))
    torch.testing.assert_close(mixed[:2], seen(encoder.encode(given, 4))[:2], atol=1e-5, rtol=1e-4)
    without = seen(encoder.encode(RawCondition(given.label_ids), 4))
    torch.testing.assert_close(mixed[2:], without[2:], atol=1e-5, rtol=1e-4)


def test_rows_with_their_condition_and_once_more_without() -> None:
    """What guidance in one call needs: the conditional rows, then the null condition; of whatever was given."""
    encoder, whole = build(), raw()
    for given in (whole, RawCondition(whole.label_ids), RawCondition(None, whole.source, whole.source_mask)):
        both = encoder.encode(given.and_without(), 8)
        for part, same in ((both[:4], encoder.encode(given, 4)), (both[4:], encoder.encode(RawCondition(), 4))):
            torch.testing.assert_close(part.vector, same.vector, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(seen(part), seen(same), atol=1e-5, rtol=1e-4)


def test_each_sample_loses_each_condition_by_itself() -> None:
    """Not the whole batch at once, and the label apart from the source: all four cases are met in training."""
    torch.manual_seed(0)
    rows = 4000
    full = RawCondition(torch.zeros(rows).long(), torch.randn(rows, 2, DIM), torch.ones(rows, 2, dtype=torch.bool))
    dropped = full.dropped(0.3)
    no_label, no_source = dropped.label_ids == -1, ~dropped.source_mask.any(1)
    assert torch.equal(no_source, ~dropped.source_mask.all(1))  # the whole source or nothing of it
    for share, expected in ((no_label, 0.3), (no_source, 0.3), (no_label & no_source, 0.09)):
        assert share.float().mean() == pytest.approx(expected, abs=0.03)
    assert full.source_mask.all()  # what the caller holds is left as it was


def test_nothing_is_dropped_at_probability_zero() -> None:
    """drop_prob = 0: a model that is always conditional."""
    given = raw()
    kept = given.dropped(0.0)
    assert torch.equal(kept.label_ids, given.label_ids)
    assert torch.equal(kept.source_mask, given.source_mask)


def test_a_model_without_conditions_has_none() -> None:
    """No vector, no memory: nothing for the denoiser to read."""
    condition = ConditionEncoder(ConditionConfig(), WIDTH, DIM, 4).encode(RawCondition(), 3)
    assert condition == Condition()


def test_rows_are_taken_from_all_tensors_alike() -> None:
    """Some rows of a batch with their conditions."""
    given = raw()
    part = given[torch.tensor([2, 0])]
    assert part.label_ids.tolist() == [0, 0]
    assert torch.equal(part.source, given.source[[2, 0]])
    assert torch.equal(part.source_mask, given.source_mask[[2, 0]])
    assert RawCondition(given.label_ids)[:2].source is None
