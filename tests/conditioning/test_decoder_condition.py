"""Label and source as the decoder of a plan reads them: a vector, and one for each token of the source."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from ladle.autoencoder.latents import Latents
from ladle.conditioning.config import ConditionConfig
from ladle.conditioning.decoder import DecoderCondition, attach, read_conditions
from ladle.conditioning.encoder import RawCondition
from ladle.conditioning.source_text import SourceReader
from ladle.conditioning.store import ConditionStore

WIDTH, VOCABULARY = 32, 20
EMBEDDING = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))


def build(labels: tuple[str, ...] = tiny.LABELS, **source: Any) -> DecoderCondition:
    """Two layers above the source, no parameter at its special start."""
    torch.manual_seed(0)
    values = {"labels": labels, "source": {"num_layers": 2, "max_tokens": 6} | source}
    condition = DecoderCondition(ConditionConfig.parse(values), WIDTH, 2).eval()
    for parameter in condition.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return condition


def raw(rows: int = 4, size: int = 5) -> RawCondition:
    """Labels and sources of `rows` rows; row i has i + 1 tokens."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(size)[None] <= torch.arange(rows)[:, None]
    ids = torch.randint(0, VOCABULARY, (rows, size), generator=generator)
    return RawCondition(torch.arange(rows) % 2, source_ids=ids, source_ids_mask=mask)


@torch.no_grad()
def seen(condition: DecoderCondition, given: RawCondition, rows: int = 4) -> Tensor:
    """What a decoder makes of it: its logits over a text, [B, S, V]."""
    text = torch.arange(1, 9)[None].expand(rows, -1)
    return tiny.tiny_decoder(VOCABULARY)(text, *condition(given, rows, EMBEDDING))


def moved(one: Tensor, other: Tensor) -> Tensor:
    """The largest difference of each row."""
    return (one - other).abs().amax((1, 2))


# ------------------------------------------------------------------------------------------------ what is read


def test_label_and_source_are_both_read_in_their_own_row_only() -> None:
    """A plan says what a text is about, but holds no names: these come from the source's tokens."""
    condition, given = build(), raw()
    before = seen(condition, given)
    ids = given.source_ids.clone()
    ids[0, 0] = (ids[0, 0] + 1) % VOCABULARY
    for other in (replace(given, label_ids=torch.tensor([1, 1, 0, 1])), replace(given, source_ids=ids)):
        difference = moved(seen(condition, other), before)
        assert difference[0] > 1e-3
        assert difference[1:].max() < 1e-5


def test_rows_without_a_label_or_a_source_are_read_as_such() -> None:
    """One model writes with and without each condition; the absence of both is still something to read."""
    condition, given = build(), raw()
    before = seen(condition, given)
    no_label = torch.tensor([-1, 1, 0, 1])
    no_source = given.source_ids_mask.clone()
    no_source[0] = False
    found = [
        seen(condition, replace(given, label_ids=no_label)),
        seen(condition, replace(given, source_ids_mask=no_source)),
        seen(condition, replace(given, label_ids=no_label, source_ids_mask=no_source)),
    ]
    for number, other in enumerate(found):
        assert other.isfinite().all()
        assert moved(other, before)[0] > 1e-2
        assert moved(other, before)[1:].max() < 1e-5
        assert all(moved(other, earlier)[0] > 1e-2 for earlier in found[:number])


def test_masked_source_tokens_change_nothing() -> None:
    """Neither what padding holds nor how much of it there is."""
    condition, given = build(), raw()
    before = seen(condition, given)
    ids = given.source_ids.masked_fill(~given.source_ids_mask, 7)
    torch.testing.assert_close(seen(condition, replace(given, source_ids=ids)), before, atol=1e-4, rtol=1e-4)
    ids = torch.nn.functional.pad(given.source_ids, (0, 1), value=3)
    mask = torch.nn.functional.pad(given.source_ids_mask, (0, 1), value=False)
    wider = replace(given, source_ids=ids, source_ids_mask=mask)
    torch.testing.assert_close(seen(condition, wider), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("row", range(4))
def test_a_row_alone_is_read_as_in_a_batch_with_longer_sources(row: int) -> None:
    """A text must not depend on its company."""
    condition, given = build(), raw()
    together = seen(condition, given)
    alone = given[row : row + 1]
    alone = replace(
        alone, source_ids=alone.source_ids[:, : row + 1], source_ids_mask=alone.source_ids_mask[:, : row + 1]
    )
    torch.testing.assert_close(seen(condition, alone, 1)[0], together[row], atol=1e-4, rtol=1e-4)


def test_a_row_without_a_source_is_read_as_in_a_batch_where_others_have_one() -> None:
    """When no row has a source, there are no source tokens at all; that must not be another absence."""
    condition, given = build(), raw()
    mask = given.source_ids_mask.clone()
    mask[1] = False
    together = seen(condition, replace(given, source_ids_mask=mask))[1]
    alone = seen(condition, RawCondition(given.label_ids[1:2]), 1)[0]
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


def test_a_longer_source_is_cut_and_its_order_counts() -> None:
    """`max_tokens` places are known; the first tokens are kept."""
    condition, given = build(), raw(size=5)
    longer = replace(
        given,
        source_ids=torch.randint(0, VOCABULARY, (4, 9)),
        source_ids_mask=torch.ones(4, 9, dtype=torch.bool),
    )
    cut = replace(longer, source_ids=longer.source_ids[:, :6], source_ids_mask=longer.source_ids_mask[:, :6])
    torch.testing.assert_close(seen(condition, longer), seen(condition, cut))
    turned = replace(cut, source_ids=cut.source_ids.flip(1))
    assert moved(seen(condition, turned), seen(condition, cut)).min() > 1e-3


def test_a_model_with_sources_alone_or_labels_alone_reads_them() -> None:
    """Each condition is optional."""
    given = raw()
    ids = (given.source_ids + 1) % VOCABULARY
    sources = build(labels=())
    unlabelled = replace(given, label_ids=None)
    assert moved(seen(sources, unlabelled), seen(sources, replace(unlabelled, source_ids=ids))).min() > 1e-3
    torch.manual_seed(0)
    labels = DecoderCondition(ConditionConfig(labels=tiny.LABELS), WIDTH, 2).eval()
    assert moved(seen(labels, given), seen(labels, replace(given, label_ids=1 - given.label_ids))).min() > 1e-3
    torch.testing.assert_close(seen(labels, given), seen(labels, replace(given, source_ids=ids)))


def test_every_parameter_learns() -> None:
    """Nothing is dead, the vector of "no label" included."""
    condition = build()
    given = replace(raw(), label_ids=torch.tensor([0, 1, -1, -1]))
    embedding = EMBEDDING.clone().requires_grad_()
    logits = tiny.tiny_decoder(VOCABULARY)(torch.arange(1, 9).expand(4, -1), *condition(given, 4, embedding))
    logits.square().mean().backward()
    assert [name for name, p in condition.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert condition.label.weight.grad.abs().amax(1).min() > 0
    assert embedding.grad.any()


# ------------------------------------------------------------------------------------------------ in an autoencoder


def test_only_a_plan_with_conditions_gets_a_reader_of_them() -> None:
    """Other decoders know nothing of labels, and get no memory of them."""
    config = ConditionConfig(labels=tiny.LABELS)
    for autoencoder, condition in (
        (tiny.tiny_autoencoder(), config), (tiny.tiny_plan_autoencoder(), ConditionConfig())
    ):  # fmt: skip
        attach(autoencoder, condition)
        assert autoencoder.condition is None
        assert read_conditions(autoencoder, raw(), 4) is None
    autoencoder = tiny.tiny_plan_autoencoder()
    attach(autoencoder, config)
    memory, mask = read_conditions(autoencoder, None, 3)
    assert memory.shape == (3, 1, WIDTH) and mask.tolist() == [[True]] * 3


def test_conditions_of_rows_reach_the_decoder_beside_the_plan() -> None:
    """From names and texts to logits: the store's tokens are the source's, and the plan is still read."""
    parts = tiny.tiny_plan_parts()
    autoencoder, config = parts.autoencoder, parts.diffusion.condition.config
    sources = ["the old cat", None, "the red fox ran to the sea.", "the old cat"]
    store = ConditionStore(SourceReader(autoencoder, config), ["good", None, "bad", "good"], sources)
    rows = torch.tensor([0, 1, 2, 3])
    given = store.gather(rows)
    assert given.source_ids_mask.any(1).tolist() == [True, False, True, True]
    decoded = autoencoder.backbone.tokenizer.batch_decode(given.source_ids[2:3], skip_special_tokens=True)
    assert decoded[0].strip() == sources[2]
    z0 = tiny.latents(autoencoder, ["the shy owl sat on a mat."] * 4)
    text = tiny.tokens(autoencoder, ["the big dog"] * 4)

    def likelihood(latents: Latents, condition: RawCondition) -> Tensor:
        with torch.no_grad():
            read = read_conditions(autoencoder, condition, 4)
            return autoencoder.log_likelihood(latents, *text.values(), read=read)

    found = likelihood(z0, given)
    torch.testing.assert_close(found[0], found[3])
    assert len({round(float(value), 3) for value in found}) == 3
    assert (likelihood(replace(z0, values=-z0.values), given) - found).abs().min() > 1e-3


def test_a_dropped_source_is_dropped_for_denoiser_and_decoder_alike() -> None:
    """Else one of the two would learn that there is a source when the other has none."""
    given = replace(raw(200), source=torch.randn(200, 5, 3), source_mask=raw(200).source_ids_mask)
    dropped = given.dropped(0.5)
    both = dropped.source_mask.any(1), dropped.source_ids_mask.any(1)
    assert torch.equal(*both)
    assert 60 < int(both[0].sum()) < 140
