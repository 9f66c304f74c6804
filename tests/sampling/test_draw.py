"""From noise to latents in one batch, and how well a text goes together."""

import pytest
import torch

import memorised
import tiny
from ladle.autoencoder.latents import Latents
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.model import LatentDiffusionModel
from ladle.diffusion.prediction import add_noise
from ladle.diffusion.samplers import SAMPLERS
from ladle.pipeline import LatentDiffusion
from ladle.sampling.draw import draw_latents, draw_lengths
from ladle.sampling.options import SamplingOptions
from ladle.sampling.soundness import likeness_to_others, noised_estimate, soundness
from ladle.seeding import SampleNoise

LABELS = torch.tensor([0, 1, -1, 1, 0, 0])
LENGTHS = torch.tensor([3, 8, 1, 5, 5, 2])


@pytest.fixture(scope="module")
def model() -> LatentDiffusionModel:
    return tiny.tiny_diffusion(tiny.tiny_autoencoder(), source=False)


def draw(model: LatentDiffusionModel, rows: list[int], **sampling: object) -> list[torch.Tensor]:
    """z0 [L, D] of some of the six samples, drawn as one batch."""
    config = SamplingOptions(num_inference_steps=3).override(**sampling)
    raw = RawCondition(LABELS[rows])
    latents = draw_latents(model, raw, SampleNoise(rows), LENGTHS[rows], config)
    assert latents.mask.sum(1).tolist() == LENGTHS[rows].tolist()
    assert not latents.values[~latents.mask].any()
    return [values[mask] for values, mask in zip(latents.values, latents.mask, strict=True)]


# ------------------------------------------------------------------------------------------------ latents


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_sample_does_not_depend_on_its_batch(model: LatentDiffusionModel, sampler: str, scale: float) -> None:
    """Its seed, label and length decide: neither neighbours nor padding nor order, with and without guidance."""
    settings = {"sampler": sampler, "guidance_scale": scale}
    together = draw(model, [0, 1, 2, 3, 4, 5], **settings)
    for rows in ([2], [5, 3], [4, 1, 0]):
        for row, values in zip(rows, draw(model, rows, **settings), strict=True):
            torch.testing.assert_close(values, together[row], atol=2e-4, rtol=1e-3)
    assert not torch.allclose(together[3], together[4])


def test_guidance_of_one_is_off_and_asks_the_network_once_a_step(model: LatentDiffusionModel) -> None:
    """It costs nothing, and 0 is unconditional: the label has no say."""
    calls: list[int] = []
    handle = model.denoiser.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    draw(model, [0, 1], guidance_scale=1.0)
    assert len(calls) == 3
    draw(model, [0, 1], guidance_scale=2.0)
    assert calls == [2, 2, 2, 4, 4, 4]  # with and without the label at once
    handle.remove()
    free = draw_latents(model, RawCondition(), SampleNoise([0, 1]), LENGTHS[:2], SamplingOptions(num_inference_steps=3))
    torch.testing.assert_close(draw(model, [0, 1], guidance_scale=0.0)[1], free.values[1], atol=1e-4, rtol=1e-3)


def test_the_noise_scale_is_of_the_samplers_noise_and_not_of_the_start(
    model: LatentDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0 a stochastic sampler adds nothing; deterministic ones never notice."""
    monkeypatch.setitem(SAMPLERS, "start", lambda denoise, zt, levels, *, noise, callback=None: zt)
    monkeypatch.setitem(SAMPLERS, "noise", lambda denoise, zt, levels, *, noise, callback=None: noise())
    for sampler, scale in (("start", 1.0), ("noise", 0.5), ("ddim", 1.0)):
        cold, warm = (draw(model, [0, 1], sampler=sampler, noise_scale=t)[1] for t in (0.5, 1.0))
        torch.testing.assert_close(cold, scale * warm)
    cold, warm = (draw(model, [0, 1], sampler="ddpm", noise_scale=t)[1] for t in (0.0, 1.0))
    assert not torch.allclose(cold, warm)


def test_samples_without_a_condition_have_options_of_their_own(
    model: LatentDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they share a batch with others: row 2 has no label."""
    monkeypatch.setitem(SAMPLERS, "noise", lambda denoise, zt, levels, *, noise, callback=None: noise())
    plain = draw(model, [0, 2], sampler="noise")
    for half, scales in (("conditional", (0.5, 1.0)), ("unconditional", (1.0, 0.5))):
        drawn = draw(model, [0, 2], sampler="noise", **{half: {"noise_scale": 0.5}})
        for values, expected, scale in zip(drawn, plain, scales, strict=True):
            torch.testing.assert_close(values, scale * expected)
    model.length.fit_base(torch.tensor([2, 3, 3, 4, 8]))
    for half in ("conditional", "unconditional"):
        config = SamplingOptions().override(**{half: {"length_temperature": 0.0}})
        lengths = {
            label: {
                int(draw_lengths(model, RawCondition(torch.tensor([label])), SampleNoise([i]), config))
                for i in range(9)
            }
            for label in (0, -1)
        }
        assert [len(lengths[0]) == 1, len(lengths[-1]) == 1] == [half == "conditional", half == "unconditional"]


def test_an_early_stop_returns_the_estimate_made_there(model: LatentDiffusionModel) -> None:
    """Whatever the sampler: the last jump lands on z0_hat of `stop_time`, without noise."""
    for sampler in ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"):
        seen: list[torch.Tensor] = []
        handle = model.denoiser.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[1].reshape(-1)[0].clone())
        )
        draw(model, [0, 1], sampler=sampler, stop_time=0.3, num_inference_steps=4)
        handle.remove()
        assert len(seen) == 4  # one call a step, with and without a condition
        assert float(seen[-1]) == pytest.approx(float(model.schedule.log_snr(torch.tensor(0.3))), abs=1e-4)


def test_each_step_is_told(model: LatentDiffusionModel) -> None:
    """For a progress bar."""
    steps: list[None] = []
    config = SamplingOptions(num_inference_steps=5)
    draw_latents(model, RawCondition(), SampleNoise([0]), LENGTHS[:1], config, lambda: steps.append(None))
    assert len(steps) == 5


# ------------------------------------------------------------------------------------------------ lengths


def test_the_first_random_number_decides_the_length(model: LatentDiffusionModel) -> None:
    """The same at any batch size; the noise comes after it."""
    model.length.fit_base(torch.tensor([2, 3, 3, 4, 8]))
    together = draw_lengths(model, RawCondition(LABELS), SampleNoise(range(6)), SamplingOptions())
    alone = [
        int(draw_lengths(model, RawCondition(LABELS[i : i + 1]), SampleNoise([i]), SamplingOptions())) for i in range(6)
    ]
    assert together.tolist() == alone
    expected = model.length.sample(RawCondition(LABELS), SampleNoise(range(6)).uniform())
    assert together.tolist() == expected.tolist()
    assert len(set(alone)) > 1


def test_fixed_lengths_use_no_random_number() -> None:
    """A Perceiver's latents are always as many."""
    model = tiny.tiny_diffusion(tiny.tiny_autoencoder("perceiver"), source=False)
    noise = SampleNoise([0, 1])
    assert draw_lengths(model, RawCondition(), noise, SamplingOptions()).tolist() == [6, 6]
    assert torch.equal(noise.uniform(), SampleNoise([0, 1]).uniform())


# ------------------------------------------------------------------------------------------------ soundness


def test_a_text_is_sounder_than_the_same_words_in_disorder() -> None:
    """On a model that knows eight texts: words it has never seen together are unlikely from their own plan."""
    parts = memorised.memorised_parts("aligned")
    assert parts.diffusion is not None
    texts = [text for text in memorised.EIGHT if len(text.split()) > 2]
    mixed = [" ".join(reversed(text.split())) for text in texts]
    scores = []
    for written in (texts, mixed):
        tokens = parts.autoencoder.eval().backbone.tokenize(written)
        noise, raw = SampleNoise([3] * len(written)), RawCondition(torch.full((len(written),), -1))
        scores.append(soundness(parts.autoencoder, parts.diffusion.eval(), tokens, raw, noise, 1.0))
    assert (scores[0] > scores[1]).float().mean() > 0.8
    assert (scores[0] < 0).all()


def test_at_the_end_nothing_of_a_text_is_left_to_judge_it_by() -> None:
    """By hand: the decoder's likelihood from what the prior makes of noise; earlier the text's own plan counts."""
    parts = memorised.memorised_parts("aligned")
    assert parts.diffusion is not None
    autoencoder, model = parts.autoencoder.eval(), parts.diffusion.eval()
    tokens = autoencoder.backbone.tokenize(memorised.EIGHT[1:3])
    raw = RawCondition(torch.full((2,), -1))

    def judged(time: float) -> torch.Tensor:
        return soundness(autoencoder, model, tokens, raw, SampleNoise([3, 3]), 1.0, time=time)

    mask = autoencoder.encode(**tokens).mask
    drawn = SampleNoise([3, 3]).normal([(int(length), model.latent_dim) for length in mask.sum(1)])
    level = model.schedule.level(torch.ones(2))
    with torch.no_grad():
        estimate = noised_estimate(model, torch.zeros_like(drawn), mask, raw, level, drawn, 1.0)
        alone = autoencoder.log_likelihood(Latents(estimate * mask[..., None], mask), **tokens)
    torch.testing.assert_close(judged(1.0), alone, atol=1e-2, rtol=1e-2)
    assert (judged(0.1) > alone + 0.1).all()


def test_an_estimate_is_what_the_sampler_would_decode() -> None:
    """By hand: a first call without, a second with the first's estimate to go by, guided by both."""
    autoencoder = tiny.tiny_autoencoder()
    model = tiny.tiny_diffusion(autoencoder, source=False).eval()
    torch.manual_seed(0)
    z0, mask, raw = torch.randn(2, 4, model.latent_dim), torch.ones(2, 4, dtype=torch.bool), RawCondition(LABELS[:2])
    level, noise = model.schedule.level(torch.tensor([0.3, 0.7])), torch.randn(2, 4, model.latent_dim)
    zt = add_noise(z0, noise, level)
    given, free = (model.denoise(mask, model.condition.encode(c, 2)) for c in (raw, RawCondition()))
    before = given(zt, level)
    one, other = given(zt, level, before), free(zt, level, before)
    with torch.no_grad():
        found = noised_estimate(model, z0, mask, raw, level, noise, 2.0)
        torch.testing.assert_close(noised_estimate(model, z0, mask, raw, level, noise, 1.0), one)
    torch.testing.assert_close(found, other + 2.0 * (one - other), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        (["the cat sat on the mat", "the cat sat on a mat", "a dog", "the cat sat on the mat"], 0),
        (["zebras fly", "the cat sat on the mat today", "the cat sat on the mat", "the cat sat on the mat now"], 2),
        (["", "a b c d", "a b c e", ""], 1),
        (["", "", ""], 0),
        (["one"], 0),
        (["a b c d", "a b c d"], 0),
    ],
)
def test_the_candidate_nearest_to_the_others_is_of_least_risk(candidates: list[str], chosen: int) -> None:
    """Minimum Bayes risk: what the model says most often in nearly these words; an empty text is like nothing."""
    likeness = likeness_to_others(candidates)
    assert likeness.index(max(likeness)) == chosen
    assert all(0 <= value <= 1 for value in likeness)


def test_repeated_candidates_count_as_often_as_they_come() -> None:
    """A text drawn by many seeds is the mode, though single ones may be likelier neighbours."""
    candidates = ["red fish swim", "a b c d e", "a b c d f", "red fish swim", "red fish swim"]
    likeness = likeness_to_others(candidates)
    assert max(likeness) == likeness[0] == likeness[3] == likeness[4] == pytest.approx(0.5)  # two of four are the same


def test_no_text_is_empty() -> None:
    """Nobody asks for a text of nothing. With these weights one first token in 320 would be the end."""
    parts = tiny.tiny_plan_parts()
    torch.nn.init.normal_(parts.autoencoder.backbone.model.get_decoder().embedding.weight, std=0.001)
    texts = LatentDiffusion(parts).generate(600, temperature=2.0, top_p=1.0, num_inference_steps=1)
    assert all(text.strip() for text in texts)
