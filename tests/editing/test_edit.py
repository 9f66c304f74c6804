"""One attribute of a text changed: to another label, or along a direction."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import memorised
import tiny
from knowing import EIGHT, knowing
from ladle.conditioning.store import ConditionStore
from ladle.editing.change import sentence_bleu
from ladle.editing.directions import Direction
from ladle.editing.edit import MANNERS
from ladle.editing.rewriting import rewrite_each
from ladle.editing.wordings import READS_WELL, UNLIKE, closeness, fluency, unlike
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling.words import encode_texts

CAT, DOG = EIGHT[1], EIGHT[4]  # "good" and "bad" for the judge of `knowing`


@cache
def plan() -> LatentDiffusion:
    return LatentDiffusion(knowing(judged=True))


@cache
def aligned() -> LatentDiffusion:
    return LatentDiffusion(replace(memorised.memorised_parts(), judge=knowing(judged=True).judge))


MODELS = pytest.mark.parametrize("model", [plan, aligned], ids=["plan", "aligned"])


def way(model: LatentDiffusion, first: str = CAT, second: str = DOG) -> Direction:
    """The direction that leads from one text to another."""
    one, other = encode_texts(model.autoencoder, [first, second], 2).values
    weight = (other - one) / (other - one).square().sum()
    bias = -float((weight * (one + other) / 2).sum())
    space = model.autoencoder.normaliser.fingerprint()
    return Direction("dog", "cat", "mean", other - one, 9 * weight, 9 * bias, space, {"value": 1.0, "n": 9})


# ------------------------------------------------------------------------------------------------ by a label


def leads_to_the_dog(monkeypatch: pytest.MonkeyPatch) -> None:
    """(The tiny denoiser has learnt nothing, so it cannot say where a label lies.)"""
    z0 = encode_texts(plan().autoencoder, [DOG], 1).rows()
    monkeypatch.setattr("ladle.editing.edit.led", lambda diffusion, points, *rest: z0 * len(points))


def test_a_text_gets_the_label_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the model's judge, with figures from before and after."""
    leads_to_the_dog(monkeypatch)
    (change,) = plan().edit(CAT, label="bad", strength=0.9, candidates=48, confidence=0.7, seed=0)
    before, after = plan().classify([CAT, change.text], by="words")[:, plan().labels.index("bad")].tolist()
    assert change.attribute_before == pytest.approx(before) and change.attribute_after == pytest.approx(after)
    assert before < 0.3 and after > 0.7
    assert "dog" in change.text and (change.source, change.amount, change.seed) == (CAT, 0.9, 0)


@MODELS
def test_a_text_that_has_the_label_stays_as_it_is(model) -> None:
    """Nothing is nearer, however sure a changed text must be."""
    for strength in (0.0, 0.4):
        (change,) = model().edit(CAT, label="good", strength=strength, candidates=4, confidence=1.0, seed=0)
        assert change.text == CAT
        assert change.moved == pytest.approx(0, abs=1e-4)  # (decoded from its own latents)


def test_rewritten_texts_are_among_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritten for the changed plan and the other label, beside those drawn anew."""
    parts = plan().parts
    z0 = encode_texts(parts.autoencoder, [CAT], 1).rows()
    old, new = (ConditionStore(parts.reader(), [name], [None]) for name in ("good", "bad"))
    conditions = {"old_conditions": old, "new_conditions": new}
    leads_to_the_dog(monkeypatch)
    dog = encode_texts(parts.autoencoder, [DOG], 1).rows()
    ((expected,),) = rewrite_each(parts, [CAT], z0, dog, [0], 1, parts.sampling, MANNERS, **conditions)
    seen: list[str] = []
    judge = parts.judge
    probabilities = type(judge).probabilities

    def noted(self, texts, names=None):
        seen.extend(texts)
        return probabilities(self, texts, names)

    monkeypatch.setattr(type(judge), "probabilities", noted)
    plan().edit(CAT, label="bad", strength=0.3, candidates=2, seed=0)
    assert list(plan().labels) == ["bad", "good"] and expected in seen
    assert len(seen) >= 1 + 2 + 2  # the text; two that were rewritten; two that were drawn


def test_of_those_that_have_the_label_the_nearest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is asked of a text: at confidence 0 the nearest of all, else one that is surer to have the label."""
    options = {"label": "bad", "strength": 0.9, "candidates": 24, "seed": 0, "temperature": 1.0}
    leads_to_the_dog(monkeypatch)
    (near,), (likely,) = (plan().edit(CAT, confidence=value, **options) for value in (0.0, 0.7))
    z0 = encode_texts(plan().autoencoder, [CAT], 1).values[0]

    def alike(text: str) -> float:
        parts = plan().parts
        return (
            closeness(parts, [text], [z0])[0] + sentence_bleu(text, CAT) / 100 + READS_WELL * fluency(parts, [text])[0]
        )

    assert alike(near.text) > alike(likely.text)
    assert near.attribute_after < likely.attribute_after


def test_where_none_has_the_label_nearness_and_probability_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a text that is surer wins over one that is nearer, if it is not much further away."""
    leads_to_the_dog(monkeypatch)
    found = {}
    for worth in (0.0, 100.0):
        monkeypatch.setattr("ladle.editing.edit.CHANGED", worth)
        (found[worth],) = plan().edit(CAT, label="bad", strength=0.9, candidates=8, confidence=1.0, seed=0)
    assert found[0.0].attribute_after < found[100.0].attribute_after
    assert found[0.0].bleu > found[100.0].bleu


@MODELS
def test_an_edit_does_not_depend_on_its_batch(model) -> None:
    """Each of `n` texts has its own seed."""
    options = {"label": "bad", "candidates": 3, "temperature": 1.0}
    whole = model().edit(EIGHT[1:4], n=2, seed=3, **options)
    alone = model().edit(EIGHT[2], n=2, seed=5, batch_size=1, **options)
    assert [change.text for change in alone] == [change.text for change in whole[2:4]]
    assert [change.seed for change in whole] == [3, 4, 5, 6, 7, 8]


def test_a_label_may_be_spelt_otherwise() -> None:
    """As in `generate`: the report must find it too."""
    parts = knowing(judged=True)
    parts.judge = replace(parts.judge, labels=("1", "2"))
    condition = parts.diffusion.condition
    condition.config = condition.config.model_copy(update={"labels": ("1", "2")})
    model = LatentDiffusion(parts)
    first, other = (
        model.edit(CAT, label=label, strength=0.3, candidates=2, seed=0)[0].attribute_before for label in ("1.0", 1)
    )
    assert first == other > 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.edit("a"), "give a label or a direction, one of them"),
        (lambda m: m.edit("a", label="bad", direction=way(m)), "give a label or a direction, one of them"),
        (lambda m: m.edit("a", label="badd"), "unknown label 'badd': did you mean 'bad'?"),
        (lambda m: m.edit("a", label="bad", strength=1.1), "strength is 1.1; it must be from 0 to 1"),
        (lambda m: m.edit("a", label="bad", strength=-0.1), "strength is -0.1; it must be from 0 to 1"),
        (lambda m: m.edit("a", direction=way(m), strength=-11), "strength is -11; it must be from -10 to 10"),
        (lambda m: m.edit("a", direction=way(m), strength="a"), "strength is 'a'; it must be a finite number"),
        (lambda m: m.edit("a", label="bad", confidence=2), "confidence is 2; it must be from 0 to 1"),
        (lambda m: m.edit("a", label="bad", confidence="a"), "confidence is 'a'"),
        (lambda m: m.edit("", label="bad"), "is empty and cannot be changed"),
        (lambda m: m.edit("a", direction="none"), "cannot load the direction in none"),
        (lambda m: m.analogy("a", "b", ["c"]), "third is a list; give one text"),
        (lambda m: m.analogy("a", "", "c"), "is empty and cannot be changed"),
    ],
)
def test_bad_input_is_one_line(call, says: str) -> None:
    with pytest.raises(UserError) as caught:
        call(plan())
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_labels_or_without_a_judge_says_so() -> None:
    """What is missing, and what helps."""
    with pytest.raises(UserError, match="has no judge of its labels"):
        LatentDiffusion(tiny.tiny_plan_parts()).edit("the old cat.", label="bad")
    with pytest.raises(UserError, match="was trained without labels; give a direction"):
        LatentDiffusion(tiny.tiny_plan_parts(labels=())).edit("the old cat.", label="bad")
    with pytest.raises(UserError, match="was trained without labels"):
        LatentDiffusion(replace(tiny.tiny_plan_parts(), diffusion=None)).edit("the old cat.", label="bad")


# ------------------------------------------------------------------------------------------------ by a direction


def test_along_a_direction_one_text_becomes_the_other() -> None:
    """By 1 as far as both sides are apart; by 0 the text stays to the letter; back by -1."""
    direction = way(plan())
    there, back, stays = (
        plan().edit(text, direction=direction, strength=strength, seed=0, temperature=0.0)[0]
        for text, strength in ((CAT, 1), (DOG, -1), (CAT, 0))
    )
    assert (there.text, back.text, stays.text) == (DOG, CAT, CAT)
    assert there.attribute_before < 0.1 and there.attribute_after > 0.9 and there.amount == 1
    assert back.attribute_after < 0.1


@MODELS
def test_a_moved_text_keeps_the_length_of_its_latents(model) -> None:
    """A decoder has not met others."""
    direction = way(model())
    if model is aligned:
        direction = replace(direction, values=direction.values[:1], weight=direction.weight[:1])
    (change,) = model().edit(CAT, direction=direction, strength=3, candidates=2, seed=0)
    own = encode_texts(model().autoencoder, [CAT], 1)
    assert float(change.latents.norm()) == pytest.approx(float(own.values.norm()), rel=1e-4)


def test_a_direction_of_other_latents_is_refused() -> None:
    """It would mean nothing there."""
    direction = replace(way(plan()), space="0" * 16)
    with pytest.raises(UserError, match="of other latents than those of"):
        plan().edit(CAT, direction=direction)


# ------------------------------------------------------------------------------------------------ analogies


def test_an_analogy_adds_and_subtracts_latents() -> None:
    """By hand, at the length of the third; what is to a text as it is to itself is the text."""
    z = encode_texts(plan().autoencoder, [EIGHT[1], EIGHT[2], EIGHT[3]], 3).values
    found = plan().analogy(EIGHT[1], EIGHT[2], EIGHT[3], candidates=2, seed=0)
    point = z[2] + z[1] - z[0]
    torch.testing.assert_close(found.latents, point * z[2].norm() / point.norm())
    assert plan().analogy(EIGHT[1], EIGHT[1], EIGHT[3], candidates=2, seed=0, temperature=0.0).text == EIGHT[3]
    assert found.source == EIGHT[3]
    with pytest.raises(UserError, match="texts cannot be added; use a model with plans"):
        aligned().analogy(EIGHT[1], EIGHT[2], EIGHT[3])


def test_a_text_written_in_another_way_than_its_source_loses_by_it() -> None:
    """A plan hardly says how a text is written, so the choice does: capitals, and spaces before punctuation."""
    source = "The king was old."
    assert unlike("The queen was young.", source) == 0
    assert unlike("the queen was young.", source) == unlike("The queen was young .", source) == UNLIKE
    assert unlike("the queen was young .", source) == 2 * UNLIKE
    assert unlike("the food was good .", "the staff was nice .") == 0
