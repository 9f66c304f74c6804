"""Attributes beside label and source: what denoiser, length model and decoder read of them, and what is left out."""

from typing import Any

import pytest
import torch

import tiny
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.decoder import DecoderCondition, attach, read_conditions
from ladle.conditioning.encoder import ConditionEncoder, RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore
from ladle.diffusion.lengths import LengthModel
from ladle.errors import UserError
from ladle.storage.record import ModelRecord

WIDTH = 32
CONFIG = ConditionConfig.parse(
    {"labels": ["bad", "good"], "attributes": {"food": ["French", "Italian"], "area": ["city", "river", "sea"]}}
)
GIVEN = RawCondition(torch.tensor([0, 1, -1, 1]), attribute_ids=torch.tensor([[0, 1], [2, 0], [-1, 1], [1, -1]]))


def encoder(config: ConditionConfig = CONFIG) -> ConditionEncoder:
    torch.manual_seed(0)
    return ConditionEncoder(config, WIDTH, 8, 4).eval()


# ------------------------------------------------------------------------------------------------ names and values


def test_attributes_are_known_by_name_in_one_order() -> None:
    """Tables are numbered, so that the order in which a recipe names attributes must not count."""
    assert list(CONFIG.attributes) == ["area", "food"] and CONFIG.names == ("label", "area", "food")
    turned = ConditionConfig.parse({"labels": ["bad", "good"], "attributes": dict(reversed(CONFIG.attributes.items()))})
    assert turned == CONFIG and list(turned.attributes) == ["area", "food"]
    ids = CONFIG.attribute_ids([{"food": "Italian", "area": "sea"}, {}, {"area": "city"}])
    assert ids.tolist() == [[2, 1], [-1, -1], [0, -1]]
    assert ConditionConfig().attribute_ids([{}, {}]).shape == (2, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"fod": "Italian"}, r"^unknown attribute 'fod': did you mean 'food'\?$"),
        ({"food": "Italien"}, r"^unknown food 'Italien': did you mean 'Italian'\?$"),
        ({"food": "sea"}, "^unknown food 'sea': allowed: French, Italian$"),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest(row: dict[str, str], message: str) -> None:
    """A value of another attribute is no value of this one."""
    with pytest.raises(UserError, match=message):
        CONFIG.attribute_ids([{}, row])
    with pytest.raises(UserError, match="unknown attribute 'food': this model has no attributes"):
        ConditionConfig().attribute_ids([{"food": "Italian"}])


def test_a_model_without_attributes_is_described_as_before_there_were_any() -> None:
    """Its digest stands in samples that were written long ago, and an older Ladle reads it."""
    assert "attributes" not in ConditionConfig(labels=("a",)).model_dump(mode="json")
    kept = ModelRecord.model_fields["condition"].annotation
    assert kept is ConditionConfig and ConditionConfig.parse(CONFIG.model_dump(mode="json")) == CONFIG


# ------------------------------------------------------------------------------------------------ what is read


def vector(raw: RawCondition, rows: int = 4) -> torch.Tensor:
    found = encoder().encode(raw, rows).vector
    assert found is not None
    return found


def test_each_attribute_adds_its_own_vector_in_its_own_row() -> None:
    """The denoiser reads the sum: of several at once it hears all."""
    before = vector(GIVEN)
    ids = GIVEN.attribute_ids.clone()
    ids[0, 0], ids[1, 1] = 2, 1
    moved = (vector(RawCondition(GIVEN.label_ids, attribute_ids=ids)) - before).abs().amax(1)
    assert moved[:2].min() > 1e-2 and moved[2:].max() == 0
    tables = encoder().attributes
    expected = encoder().label.weight[0] + tables[0].weight[0] + tables[1].weight[1]
    torch.testing.assert_close(before[0], expected)


def test_an_absent_value_is_the_last_vector_whatever_is_absent_beside_it() -> None:
    """No attribute at all, all of them dropped, and a row that lacks one: one absence each."""
    everything = RawCondition(torch.full((4,), -1), attribute_ids=torch.full((4, 2), -1))
    torch.testing.assert_close(vector(RawCondition()), vector(everything))
    torch.testing.assert_close(vector(GIVEN.dropped(1.0)), vector(everything))
    alone = ConditionConfig(attributes={"food": ("French", "Italian")})
    assert encoder(alone).encode(RawCondition(), 2).vector.shape == (2, WIDTH)


def test_each_row_loses_each_attribute_by_itself() -> None:
    """Training must meet every subset of conditions, for each may be asked for alone."""
    rows = 4000
    full = RawCondition(torch.zeros(rows).long(), attribute_ids=torch.zeros(rows, 2).long())
    dropped = full.dropped(0.3)
    lost = [dropped.label_ids == -1, *(dropped.attribute_ids == -1).unbind(1)]
    for i, one in enumerate(lost):
        assert one.float().mean() == pytest.approx(0.3, abs=0.03)
        for other in lost[:i]:
            assert (one & other).float().mean() == pytest.approx(0.09, abs=0.02)
    assert (full.attribute_ids == 0).all()


def test_some_conditions_are_kept_by_name() -> None:
    """What guidance of single conditions needs."""
    names = tuple(CONFIG.attributes)
    food = GIVEN.only(["food"], names)
    assert (food.label_ids == -1).all() and food.attribute_ids[:, 0].eq(-1).all()
    assert torch.equal(food.attribute_ids[:, 1], GIVEN.attribute_ids[:, 1])
    kept = GIVEN.only(["label", "area", "food"], names)
    assert torch.equal(kept.label_ids, GIVEN.label_ids) and torch.equal(kept.attribute_ids, GIVEN.attribute_ids)
    assert GIVEN.given_rows(4).tolist() == [True] * 4
    assert food.given_rows(4).tolist() == [True, True, True, False]
    assert not GIVEN.only((), names).given_rows(4).any()
    joined = RawCondition.joined([GIVEN.only(()), food])
    torch.testing.assert_close(vector(joined, 8), torch.cat([vector(RawCondition()), vector(food)]))


def test_the_number_of_latents_depends_on_attributes() -> None:
    """Texts of one value may be longer than those of another."""
    model = LengthModel(CONFIG, 8, 5)
    torch.nn.init.normal_(model.network[-1].weight)
    logits = model(GIVEN, 4)
    ids = GIVEN.attribute_ids.clone()
    ids[2, 1] = -1
    moved = (model(RawCondition(GIVEN.label_ids, attribute_ids=ids), 4) - logits).abs().amax(1)
    assert moved[2] > 1e-3 and moved[[0, 1, 3]].max() == 0
    assert model(RawCondition(), 4).shape == (4, 5)


# ------------------------------------------------------------------------------------------------ the decoder of a plan


def test_the_decoder_of_a_plan_reads_a_vector_for_each_attribute() -> None:
    """Beside the label's; a model with attributes alone has such a decoder too."""
    condition = DecoderCondition(CONFIG, WIDTH, 2).eval()
    memory, mask = condition(GIVEN, 4, torch.zeros(5, WIDTH))
    assert memory.shape == (4, 3, WIDTH) and mask.all()
    torch.testing.assert_close(memory[1, 1], condition.attributes[0].weight[2])
    torch.testing.assert_close(memory[2, 1], condition.attributes[0].weight[-1])
    autoencoder = tiny.tiny_plan_autoencoder()
    attach(autoencoder, ConditionConfig(attributes=CONFIG.attributes))
    unlabelled = RawCondition(attribute_ids=GIVEN.attribute_ids)
    assert read_conditions(autoencoder, unlabelled, 4)[0].shape == (4, 3, WIDTH)


def test_rows_become_ids_and_can_be_read_without_a_condition() -> None:
    """What is to be avoided must not be told to a decoder that would write it."""
    autoencoder = tiny.tiny_plan_autoencoder()
    rows: list[Any] = [
        {"text": "a", "label": "good", "attributes": {"food": "French"}},
        {"text": "b", "attributes": {"area": "sea", "food": "Italian"}},
        {"text": "c"},
    ]
    store = ConditionStore.of(SourceReader(autoencoder, CONFIG), rows)
    order = torch.tensor([1, 2, 0])
    assert store.gather(order).attribute_ids.tolist() == [[2, 1], [-1, -1], [-1, 0]]
    assert store.of_rows(order).gather(torch.tensor([0])).attribute_ids.tolist() == [[2, 1]]
    less = store.without(["food", "label"]).gather(order)
    assert less.attribute_ids.tolist() == [[2, -1], [-1, -1], [-1, -1]] and (less.label_ids == -1).all()
    assert store.gather(order).attribute_ids[0].tolist() == [2, 1]
    plain = ConditionStore.of(SourceReader(autoencoder, ConditionConfig()), rows)
    assert plain.gather(order).attribute_ids is None
