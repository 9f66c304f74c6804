"""The guidance that a batch gets: which conditions guide together, which by themselves, and at which times."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.schedule import sampling_levels
from ladle.layers import lengths_to_mask
from ladle.sampling.draw import draw_latents, draw_lengths, followed, guided_denoiser
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise

NAMES = ("area", "food")
LENGTHS = torch.tensor([4, 3, 4])
MASK = lengths_to_mask(LENGTHS, 4)
RAW = RawCondition(torch.tensor([1, 0, -1]), attribute_ids=torch.tensor([[0, 1], [-1, 0], [1, -1]]))


@pytest.fixture
def model() -> LatentDiffusionModel:
    """Labels and two attributes that make a difference."""
    attributes = {"food": ("French", "Italian"), "area": ("city", "river")}
    model = tiny.tiny_diffusion(tiny.tiny_autoencoder(), source=False, attributes=attributes)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
        model.condition.label.weight *= 5
        for table in model.condition.attributes:
            table.weight *= 5
    return model


def options(**given: Any) -> SamplingOptions:
    return SamplingOptions.parse({"num_inference_steps": 6, "sampler": "ddim"} | given)


def estimate(model: LatentDiffusionModel, raw: RawCondition, zt: Tensor, time: float) -> Tensor:
    """Of the denoiser alone under these conditions."""
    with torch.no_grad():
        level = model.schedule.level(torch.tensor(time))
        return model.denoise(MASK, model.condition.encode(raw, 3))(zt, level)


def guided(model: LatentDiffusionModel, zt: Tensor, time: float, **given: Any) -> Tensor:
    with torch.no_grad():
        level = model.schedule.level(torch.tensor(time))
        return guided_denoiser(model, RAW, MASK, options(**given))(zt, level)


def test_conditions_with_a_weight_guide_alone_and_the_others_together(model: LatentDiffusionModel) -> None:
    """z0_hat = free + sum w_i (alone_i - free) + scale (rest - free), in each row with what it has."""
    zt, time = torch.randn(3, 4, model.latent_dim), 0.6
    free, food = estimate(model, RawCondition(), zt, time), estimate(model, RAW.only(["food"], NAMES), zt, time)
    rest = estimate(model, RAW.only(["label", "area"], NAMES), zt, time)
    for weight, scale in ((2.0, 1.5), (-1.0, 1.0), (0.0, 3.0)):
        found = guided(model, zt, time, guidance_scale=scale, guidance_scales={"food": weight})
        torch.testing.assert_close(found, free + weight * (food - free) + scale * (rest - free), atol=1e-5, rtol=1e-4)
    every = {"food": 2.0, "area": -1.0, "label": 0.5}
    parts = {name: estimate(model, RAW.only([name], NAMES), zt, time) for name in every}
    expected = free + sum(weight * (parts[name] - free) for name, weight in every.items())
    torch.testing.assert_close(guided(model, zt, time, guidance_scales=every), expected, atol=1e-5, rtol=1e-4)


def test_without_a_weight_of_its_own_no_condition_changes_its_guidance(model: LatentDiffusionModel) -> None:
    """Neither names that no row has, nor none at all: the estimates are those of before."""
    zt = torch.randn(3, 4, model.latent_dim)
    plain = guided(model, zt, 0.5, guidance_scale=2.0)
    free = estimate(model, RawCondition(), zt, 0.5)
    torch.testing.assert_close(plain, free + 2 * (estimate(model, RAW, zt, 0.5) - free), atol=1e-5, rtol=1e-4)
    bare = RawCondition(RAW.label_ids, attribute_ids=torch.full((3, 2), -1))
    with torch.no_grad():
        level = model.schedule.level(torch.tensor(0.5))
        one, other = (
            guided_denoiser(model, bare, MASK, options(guidance_scale=2.0, guidance_scales=scales))(zt, level)
            for scales in ({}, {"food": 5.0})
        )
    assert torch.equal(one, other)


def test_the_network_is_called_once_a_step(model: LatentDiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all copies of the batch together: free, rest, and one for each weight."""
    sizes = []
    forward = model.denoiser.forward

    def noting(zt: Tensor, *rest: Any, **more: Any) -> Tensor:
        sizes.append(len(zt))
        return forward(zt, *rest, **more)

    monkeypatch.setattr(model.denoiser, "forward", noting)
    for scales, copies in (({}, 2), ({"food": 2.0}, 3), ({"food": 2.0, "label": -1.0}, 4)):
        draw_latents(model, RAW, SampleNoise(range(3)), LENGTHS, options(guidance_scale=2.0, guidance_scales=scales))
        assert sizes == [3 * copies] * 6
        sizes.clear()


@pytest.mark.parametrize("scales", [{}, {"food": -1.0, "area": 2.0}])
def test_guidance_keeps_to_its_interval_of_times(model: LatentDiffusionModel, scales: dict[str, float]) -> None:
    """Outside it the conditions to obey are simply given; both ends count as inside."""
    obeyed = RAW if not scales else RAW.only(["label", "area"], NAMES)
    zt = torch.randn(3, 4, model.latent_dim)
    how = {"guidance_scale": 3.0, "guidance_scales": scales}
    times = {"guidance_from": 0.75, "guidance_to": 0.25}
    for level, time in zip(sampling_levels(model.schedule, 8), torch.linspace(1, 0, 9).tolist(), strict=True):
        with torch.no_grad():
            found, always = (guided_denoiser(model, RAW, MASK, options(**how, **own))(zt, level) for own in (times, {}))
            plain = model.denoise(MASK, model.condition.encode(obeyed, 3))(zt, level)
        expected, other = (always, plain) if 0.25 <= time <= 0.75 else (plain, always)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found, other, atol=1e-3) or time == 0.0


def test_the_whole_interval_is_guidance_at_all_times(model: LatentDiffusionModel) -> None:
    """The defaults change nothing, to the last bit; an interval does."""
    noise = [SampleNoise(range(3)) for _ in range(3)]
    whole, same, less = (
        draw_latents(model, RAW, own, LENGTHS, options(guidance_scale=3.0, **given)).values
        for own, given in zip(
            noise, ({}, {"guidance_from": 1.0, "guidance_to": 0.0}, {"guidance_to": 0.4}), strict=True
        )
    )
    assert torch.equal(whole, same) and not torch.allclose(whole, less)


def test_what_is_to_be_avoided_counts_for_nothing_else(model: LatentDiffusionModel) -> None:
    """Lengths are drawn, and stop times chosen, by what is to be obeyed."""
    scales = {"food": -1.0, "area": 0.0}
    assert followed(model, options(guidance_scales=scales)) == {"label"}
    avoiding = options(guidance_scales=scales, unconditional={"noise_scale": 0.0, "length_temperature": 0.0})
    only = RawCondition(attribute_ids=RAW.attribute_ids)
    lengths = draw_lengths(model, only, SampleNoise(range(3)), avoiding)
    free = draw_lengths(model, RawCondition(), SampleNoise(range(3)), avoiding)
    assert torch.equal(lengths, free)
    bound = draw_lengths(model, only, SampleNoise(range(3)), options(unconditional={"length_temperature": 0.0}))
    assert not torch.equal(bound, free)
