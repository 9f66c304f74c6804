"""Texts between texts: their ends, their order, their weights."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch

import memorised
import tiny
from gaussian import MEAN, SPREAD, gaussian
from knowing import EIGHT, knowing
from ladle.editing.interpolate import PATHS, blend, interpolate, mixed
from ladle.editing.paths import lerp, slerp
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling.words import encode_texts

ANY = ["Zoë paid $5: Ω!", "no."]  # words and signs that the model never met


@cache
def plan() -> LatentDiffusion:
    return LatentDiffusion(knowing())


@cache
def aligned() -> LatentDiffusion:
    return LatentDiffusion(memorised.memorised_parts())


@pytest.mark.parametrize("path", list(PATHS))
def test_the_ends_are_the_texts_to_the_letter(path: str) -> None:
    """On plan models any text whatever: a way that begins elsewhere than at its text is of no use."""
    (way,) = plan().interpolate(ANY[:1], ANY[1:], 3, path=path, seed=0)
    assert [way[0].text, way[-1].text] == ANY
    assert [change.amount for change in way] == [0, 0.5, 1]
    assert {(change.source, change.target, change.seed) for change in way} == {(*ANY, 0)}
    assert way[0].similarity == pytest.approx(1, abs=1e-4) and way[-1].target_similarity == pytest.approx(1, abs=1e-4)


def test_without_a_wording_the_ends_are_what_the_model_makes_of_the_texts() -> None:
    """With position-aligned latents."""
    way = aligned().interpolate(EIGHT[1], EIGHT[3], 3, path="slerp", seed=0)
    assert [way[0].text, way[-1].text] == aligned().reconstruct([EIGHT[1], EIGHT[3]])


@pytest.mark.parametrize("path", ["slerp", "linear"])
@pytest.mark.parametrize("model", [plan, aligned], ids=["plan", "aligned"])
def test_on_the_way_texts_leave_the_one_end_and_come_to_the_other(model, path: str) -> None:
    """A memorised model says the first sentence near the first end, and the second near the other."""
    way = model().interpolate(EIGHT[1], EIGHT[3], 9, path=path, seed=0, temperature=0.0)
    texts = [change.text for change in way]
    assert texts[1] == EIGHT[1] and texts[-2] == EIGHT[3]
    assert texts.index(EIGHT[3]) > len(texts) - 1 - texts[::-1].index(EIGHT[1])  # (it does not come back)
    nearer = [change.target_similarity - change.similarity for change in way]
    assert all(later >= earlier - 0.3 for earlier, later in pairwise(nearer))
    moved = [change.moved for change in way]
    assert moved == sorted(moved)


def test_latents_on_the_paths_are_their_geometry() -> None:
    """Each change says what it was decoded from."""
    latents = encode_texts(plan().autoencoder, EIGHT[1:3], 2).values
    for path, mix in (("slerp", slerp), ("linear", lerp)):
        way = plan().interpolate(EIGHT[1], EIGHT[2], 5, path=path, seed=0)
        torch.testing.assert_close(way[1].latents, mix(*latents, 0.25))
    prior = plan().interpolate(EIGHT[1], EIGHT[2], 5, path="prior", seed=0)[1].latents
    assert prior.isfinite().all() and not torch.allclose(prior, slerp(*latents, 0.25), atol=0.1)


def test_the_way_through_an_exact_prior_is_the_arc_between_the_noises() -> None:
    """Closed form: the noise of Gaussian latents is how many deviations they are from their mean."""
    parts = replace(plan().parts, diffusion=gaussian(plan=True))
    z0 = encode_texts(parts.autoencoder, EIGHT[1:3], 2).values
    way = interpolate(parts, EIGHT[1:2], EIGHT[2:3], [0, 0.01, 0.25, 1])[0]
    expected = MEAN + SPREAD * slerp(*((z0 - MEAN) / SPREAD), 0.25)
    assert float((way[2].latents - expected).abs().mean()) < 0.1
    whole = float((z0[0] - z0[1]).norm())
    assert float((way[1].latents - z0[0]).norm()) < 0.15 * whole  # (no jump at the end)


def test_the_number_of_aligned_latents_changes_evenly() -> None:
    """A short text grows to a long one."""
    first, second = torch.zeros(2, 3), torch.ones(8, 3)
    assert [len(mixed(first, second, share, lerp)) for share in (0, 0.25, 0.5, 1)] == [2, 4, 5, 8]


@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("model", [plan, aligned], ids=["plan", "aligned"])
def test_a_way_does_not_depend_on_others_or_on_the_batch_size(model, path: str) -> None:
    """The i-th pair has the seed of the first plus i, wherever it stands."""
    firsts, seconds = EIGHT[1:4], EIGHT[4:7]
    options = {"path": path, "temperature": 1.0, "candidates": 2}
    whole = model().interpolate(firsts, seconds, 4, seed=5, **options)
    alone = model().interpolate(firsts[1], seconds[1], 4, seed=6, batch_size=1, **options)
    assert [change.text for change in whole[1]] == [change.text for change in alone]
    assert [change.seed for change in alone] == [6] * 4


def test_one_pair_gives_a_list_and_several_give_one_each() -> None:
    """As many texts as were asked for."""
    assert len(plan().interpolate(EIGHT[1], EIGHT[2], 5, path="slerp", seed=0)) == 5
    assert [len(way) for way in plan().interpolate(EIGHT[1:3], EIGHT[2:4], 4, path="slerp", seed=0)] == [4, 4]


@pytest.mark.parametrize("path", list(PATHS))
def test_a_blend_obeys_its_weights(path: str) -> None:
    """With all the weight on one text it says that text, on every path; even weights stand between."""
    texts = EIGHT[1:3]

    def moved(weights: list[float]) -> float:
        latents = encode_texts(plan().autoencoder, texts, 2).values
        point = plan().blend(texts, weights, path=path, seed=0).latents
        away, near = ((point - own).norm() for own in latents)
        return float(away / (away + near))

    first, even, second = (moved(weights) for weights in ([1.0, 0.01], [1.0, 1.0], [0.01, 1.0]))
    assert first < even < second


def test_a_blend_is_the_weighted_mean_by_hand() -> None:
    """`linear` leaves its length as it is, `slerp` mends it; weights are divided by their sum."""
    z0 = encode_texts(plan().autoencoder, EIGHT[1:3], 2).values
    mean = (z0[0] + 3 * z0[1]) / 4
    torch.testing.assert_close(plan().blend(EIGHT[1:3], [2, 6], path="linear", seed=0).latents, mean)
    length = (z0[0].norm() + 3 * z0[1].norm()) / 4
    torch.testing.assert_close(plan().blend(EIGHT[1:3], [2, 6], seed=0).latents, mean * length / mean.norm())


def test_a_blend_of_aligned_texts_has_their_mean_length() -> None:
    """Weighed too."""
    lengths = encode_texts(aligned().autoencoder, [EIGHT[0], EIGHT[6]], 2).mask.sum(1).tolist()
    found = aligned().blend([EIGHT[0], EIGHT[6]], [1, 3], seed=0)
    assert len(found.latents) == round((lengths[0] + 3 * lengths[1]) / 4)
    assert found.text


def test_options_of_the_sampler_reach_the_path_that_renoises() -> None:
    """They must not be taken from the model alone."""
    one, other = (
        plan().interpolate(EIGHT[1], EIGHT[2], 3, path="renoise", seed=0, num_inference_steps=steps)[1].latents
        for steps in (2, 30)
    )
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.interpolate("a", "b", path="prio"), "there is no path 'prio': did you mean 'prior'"),
        (lambda m: m.interpolate("a", "b", 1), "steps is 1; give at least 2"),
        (lambda m: m.interpolate(["a", "b"], ["c"]), "2 first texts and 1 second ones"),
        (lambda m: m.interpolate("a", " "), "is empty and cannot be changed"),
        (lambda m: m.interpolate("a", "the cat sat. " * 30), "longer than the 24 tokens"),
        (lambda m: m.interpolate("a", "b", candidates=0), "candidates is 0"),
        (lambda m: m.interpolate("a", "b", temprature=1), "there is no sampling option 'temprature'"),
        (lambda m: m.blend(["a"]), "a blend needs at least two"),
        (lambda m: m.blend(["a", "b"], [1]), "1 weights for 2 texts"),
        (lambda m: m.blend(["a", "b"], [1, -1]), "sum to 0"),
        (lambda m: m.blend(["a", "b"], [1, float("nan")]), "must be a finite number"),
        (lambda m: m.blend(["a", "b"], path="arc"), "there is no path 'arc'"),
    ],
)
def test_bad_input_is_one_line(call, says: str) -> None:
    with pytest.raises(UserError) as caught:
        call(plan())
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_a_prior_says_which_path_it_has() -> None:
    """An autoencoder alone still follows the arc."""
    parts = tiny.tiny_plan_parts()
    parts.diffusion = None
    model = LatentDiffusion(parts)
    for path in ("prior", "renoise"):
        with pytest.raises(UserError, match="choose the path slerp"):
            model.interpolate("a", "b", path=path)
    assert len(model.interpolate("a", "b", 3, path="slerp")) == 3
    assert blend(parts, ["a", "b"]).latents.isfinite().all()
