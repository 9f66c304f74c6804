"""The bound of texts: its terms, what it does not depend on, and that it falls as a model learns."""

import copy
import json
import math
from functools import cache

import numpy as np
import pytest
import torch

import tiny
from knowing import EIGHT, knowing
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.baselines.exact_likelihood import exact_likelihood
from ladle.conditioning.encoder import RawCondition
from ladle.diffusion.loss import DenoisingConfig, DenoisingLoss, DiffusionBatch
from ladle.errors import UserError
from ladle.evaluation.bound import latent_nats, with_own_estimate
from ladle.evaluation.likelihood_report import LikelihoodReport
from ladle.pipeline import LatentDiffusion
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

TEXTS = tiny.SENTENCES[:9]


@cache
def model(kind: str) -> LatentDiffusion:
    return LatentDiffusion(tiny.tiny_plan_parts() if kind == "plan" else tiny.tiny_parts(kind), "cpu")


@cache
def report(kind: str) -> LikelihoodReport:
    return model(kind).likelihood(TEXTS, label="good", draws=4, seed=3)


@pytest.mark.parametrize("kind", ["plan", "aligned", "perceiver"])
def test_the_total_is_the_sum_of_its_terms(kind: str) -> None:
    """In every row, text by text and in the means; the number of latents counts where a model draws it."""
    found = report(kind)
    for nats in found.rows.values():
        assert np.allclose(nats.total, nats.wording + nats.latent + nats.length)
        assert (nats.latent > 0).all() and (nats.wording > 0).all()
        assert (nats.length > 0).all() == (kind == "aligned") and (nats.length == 0).all() == (kind != "aligned")
        own = nats.figures(found.counts)
        assert own["nats_per_text"] == pytest.approx(own["wording"] + own["latent"] + own["length"])
        tokens = len(TEXTS) * own["nats_per_text"] / own["nats_per_token"]
        assert tokens == pytest.approx(found.counts.tokens.sum())
        assert own["perplexity"]["value"] == pytest.approx(math.exp(own["nats_per_token"]))
        low, high = own["perplexity"]["interval"]
        assert low < own["perplexity"]["value"] < high
    assert found.perplexity == pytest.approx(found.nats.figures(found.counts)["perplexity"]["value"])
    json.dumps(found.as_json(), allow_nan=False)


def test_the_terms_are_those_of_the_parts() -> None:
    """By hand: the latents' bound, the decoder's loss of the noised plan, at a level that is asked for."""
    plan, text = model("plan"), TEXTS[0]
    found = plan.likelihood([text] * 40, label="good", draws=24, log_snr=2.0)
    assert [*found.rows] == ["given"]
    z0 = plan.autoencoder.encode_texts([text] * 300).values
    mask, raw = torch.ones(z0.shape[:2], dtype=torch.bool), RawCondition(torch.ones(300, dtype=torch.long))
    denoise = plan.diffusion.denoise(mask, plan.diffusion.condition.encode(raw, 300))
    noise = SampleNoise(range(1000, 1300))
    latent = latent_nats(with_own_estimate(denoise), plan.diffusion.schedule, z0, mask, 2.0, noise)
    assert found.nats.latent.mean() == pytest.approx(float(latent.nats.mean()), rel=0.05)
    level = plan.diffusion.schedule.level_from_log_snr(torch.tensor(2.0))
    memory = plan.autoencoder.condition(raw, 300, plan.autoencoder.backbone.embedding)
    tokens = plan.autoencoder.backbone.tokenize([text] * 300)
    zt = level.alpha * z0 + level.sigma * torch.randn_like(z0)
    latents = plan.autoencoder.encode_texts([text] * 300)
    latents = copy.replace(latents, values=zt) if hasattr(copy, "replace") else type(latents)(zt, latents.mask)
    with torch.no_grad():
        mean = plan.autoencoder.log_likelihood(latents, *tokens.values(), level, memory)
    wording = -float(mean.mean()) * int(tokens["attention_mask"][0].sum())
    assert found.nats.wording.mean() == pytest.approx(wording, rel=0.05)


def test_the_number_of_latents_costs_what_the_length_model_says() -> None:
    """Under the texts' own conditions."""
    parts = copy.deepcopy(model("aligned").parts)
    aligned = LatentDiffusion(parts, "cpu")
    with torch.no_grad():
        for parameter in aligned.diffusion.length.parameters():
            parameter.normal_()
        found = aligned.likelihood(TEXTS, label="good", draws=2, log_snr=-15)
        lengths = aligned.autoencoder.num_latents(torch.from_numpy(found.counts.tokens))
        raw = RawCondition(torch.ones(len(TEXTS), dtype=torch.long))
        shares = aligned.diffusion.length(raw, len(TEXTS)).log_softmax(-1)
    expected = -shares.gather(1, lengths[:, None] - 1)[:, 0]
    assert len(set(lengths.tolist())) > 1 and np.allclose(found.nats.length, expected.numpy(), atol=1e-4)


def test_a_denoiser_that_self_conditions_is_shown_its_estimate() -> None:
    """At every level; each call with an estimate follows one without, of the same zt."""
    plan, calls = LatentDiffusion(copy.deepcopy(model("plan").parts), "cpu"), []
    plan.diffusion.denoiser.register_forward_hook(
        lambda module, given, named, output: calls.append((given[0], named["self_condition"])), with_kwargs=True
    )
    plan.likelihood(TEXTS[:2], draws=2, log_snr=1.0)
    assert calls and all(shown is None for _, shown in calls[::2])
    for (zt, _), (same, shown) in zip(calls[::2], calls[1::2], strict=True):
        assert torch.equal(zt, same) and shown.any()


@pytest.mark.parametrize("kind", ["plan", "aligned"])
def test_seeds_reproduce_and_the_batch_size_does_not_matter(kind: str) -> None:
    """Nor does anything that the program drew before."""
    first, same = report(kind), model(kind).likelihood(TEXTS, label="good", draws=4, seed=3, batch_size=2)
    other = model(kind).likelihood(TEXTS, label="good", draws=4, seed=40)
    for name, nats in first.rows.items():
        assert np.allclose(nats.total, same.rows[name].total, rtol=1e-4)
    assert not np.allclose(first.rows["sampler"].total, other.rows["sampler"].total, rtol=1e-4)


def test_conditions_reach_denoiser_and_decoder() -> None:
    """A model of labels says p(text | label)."""
    plan, found = model("plan"), report("plan")
    free = plan.likelihood(TEXTS, draws=4, seed=3)
    for what in ("latent", "wording"):
        assert not np.allclose(getattr(found.rows["sampler"], what), getattr(free.rows["sampler"], what), rtol=1e-4)
    mixed = plan.likelihood(TEXTS, label=["good"] + [None] * 8, draws=4, seed=3)
    assert mixed.rows["sampler"].wording[0] == pytest.approx(found.rows["sampler"].wording[0], rel=1e-4)
    assert np.allclose(mixed.rows["sampler"].wording[1:], free.rows["sampler"].wording[1:], rtol=1e-4)


def test_a_level_is_chosen_by_the_other_half_of_the_texts() -> None:
    """Else the bound would be fitted to the texts that it measures. Another second text moves the level of the first,
    and never its own."""
    pairs = [model("plan").likelihood([TEXTS[0], other], draws=2, seed=5).rows["best"] for other in TEXTS[1:7]]
    assert len({float(nats.log_snr[0]) for nats in pairs}) > 1
    assert len({float(nats.log_snr[1]) for nats in pairs}) == 1
    found = report("plan")
    levels = found.rows["best"].log_snr
    assert len({*levels[::2]}) == len({*levels[1::2]}) == 1
    assert {*levels} <= {own.log_snr for own in found.levels}


def test_a_second_row_has_the_level_at_which_the_sampler_stops() -> None:
    """That of the model's settings, clean if it does not stop early. It is all that a single text gets."""
    (alone,) = model("plan").likelihood(TEXTS[:1], label="good", draws=4).rows
    assert alone == "sampler"
    time = torch.tensor(model("plan").parts.sampling.conditional.stop_time, dtype=torch.float64)
    stop = float(model("plan").diffusion.schedule.log_snr(time))
    assert stop < 15 and np.allclose(report("plan").rows["sampler"].log_snr, stop)
    assert (report("aligned").rows["sampler"].log_snr == 15).all()


def learnt(parts: ModelParts, texts: list[str], steps: int) -> LatentDiffusion:
    """The parts with a denoiser that has learnt the latents of these texts."""
    parts = copy.deepcopy(parts)
    assert parts.diffusion is not None
    batch = tiny.tokens(parts.autoencoder, texts)
    with torch.no_grad():
        latents = parts.autoencoder.encode(**batch)
    lengths = latents.mask.sum(1)
    given = DiffusionBatch(latents.values, latents.mask, RawCondition(), lengths, RawCondition())
    loss = DenoisingLoss(parts.diffusion, DenoisingConfig(times="uniform")).train()
    optimizer = torch.optim.Adam(parts.diffusion.parameters(), lr=3e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(given)[0].backward()
            optimizer.step()
    return LatentDiffusion(parts, "cpu")


@pytest.mark.parametrize("kind", ["plan", "aligned"])
def test_the_bound_falls_as_a_model_learns(kind: str) -> None:
    """At the sampler's own level, and in the latents' term."""
    parts = tiny.tiny_plan_parts(source=False) if kind == "plan" else tiny.tiny_parts(kind)
    bounds = [learnt(parts, EIGHT, steps).likelihood(EIGHT, draws=8) for steps in (0, 20, 80)]
    totals = [found.rows["sampler"].total.mean() for found in bounds]
    assert totals[0] > 1.2 * totals[1] > 1.2 * totals[2]
    assert bounds[0].rows["sampler"].latent.mean() > bounds[2].rows["sampler"].latent.mean()


def test_a_trained_decoder_needs_fewer_nats_for_words() -> None:
    """What has learnt eight sentences by heart, beside what has learnt nothing."""
    trained = LatentDiffusion(knowing(), "cpu").likelihood(EIGHT, draws=4)
    new = LatentDiffusion(tiny.tiny_plan_parts(source=False), "cpu").likelihood(EIGHT, draws=4)
    for row in ("best", "sampler"):
        assert trained.rows[row].wording.mean() < 0.5 * new.rows[row].wording.mean()
    assert trained.rows["best"].total.mean() < 0.5 * new.rows["best"].total.mean()


def test_the_best_row_says_where_it_is_the_decoder_alone() -> None:
    """Its figure is then none of the diffusion's."""
    poor = model("plan").likelihood(TEXTS, draws=2)
    low = min(own.log_snr for own in poor.levels)
    assert (poor.rows["best"].log_snr <= low + 8).all()  # (a random decoder gains nothing from the plan)
    assert "decoder alone" in poor.notes[0] and poor.notes[0] in poor.to_table()
    assert not model("plan").likelihood(TEXTS, draws=2, log_snr=2.0).notes


def test_levels_say_where_the_nats_go() -> None:
    """From the noise up the latents only cost more; their sum at the sampler's level is the measured one."""
    found = report("plan")
    latents = [own.latent for own in found.levels]
    assert latents == sorted(latents)
    stop = found.rows["sampler"].log_snr[0]
    own = next(level for level in found.levels if level.log_snr == stop)
    assert own.latent == pytest.approx(found.rows["sampler"].latent.mean(), rel=0.3)
    assert own.wording == pytest.approx(found.rows["sampler"].wording.mean(), rel=0.3)


def test_the_parallel_decoder_is_normalised_over_texts() -> None:
    """Over all texts of one token and of two, from the same latents, no more than probability 1 is given away."""
    aligned = model("aligned")
    found = aligned.likelihood(TEXTS, label="good", draws=2, decoder="parallel", log_snr=15.0, seed=3)
    other = aligned.likelihood(TEXTS, label="good", draws=2, log_snr=15.0, seed=3)
    assert np.allclose(found.nats.latent, other.nats.latent, rtol=1e-4)
    assert not np.allclose(found.nats.wording, other.nats.wording, rtol=0.01)
    latents = aligned.encode(TEXTS[:1])
    with torch.no_grad():
        memory, mask = aligned.autoencoder.expand(latents)
        decoder = aligned.autoencoder.parallel_decoder
        shares = decoder(memory, mask, aligned.autoencoder.backbone.embedding)[0].log_softmax(-1)
    ids = aligned.autoencoder.backbone.tokenize(TEXTS[:1])["input_ids"][0]
    by_hand = -float(shares[torch.arange(len(ids)), ids].sum())
    assert found.nats.wording[0] == pytest.approx(by_hand, rel=0.02)


def test_texts_that_are_cut_or_changed_are_counted_and_named() -> None:
    """Their figures are those of another text."""
    plan = model("plan")
    long = " ".join(["the old cat sat on a mat."] * 9)
    found = plan.likelihood([TEXTS[0], long, "a  b\u0007c"], draws=2)
    assert found.counts.cut == 1 and found.counts.tokens[1] == plan.max_tokens
    assert found.counts.changed == ("a  b\u0007c",)
    assert found.counts.words[1] < len(long.split())
    table = found.to_table()
    assert "1 of 3 texts were cut" in table and "1 of 3 texts do not come back from their tokens: 'a  b\\x07c'" in table


def test_an_exact_likelihood_has_the_same_report() -> None:
    """Of an autoregressive model: one term, no level, the value itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rival = AutoregressiveModel(
            AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=24, labels=tiny.LABELS),
            tiny.tiny_tokenizer(),
        ).eval()
    found = exact_likelihood(rival, TEXTS, label=["good"] * len(TEXTS))
    nats, tokens = rival.score(TEXTS, label=["good"] * len(TEXTS))
    assert np.allclose(found.nats.total, nats.numpy()) and (found.counts.tokens == tokens.numpy()).all()
    assert found.perplexity == pytest.approx(math.exp(float(nats.sum() / tokens.sum())))
    assert (found.counts.tokens == report("plan").counts.tokens).all()  # (the same tokenizer)
    shown = found.as_json()
    assert shown["kind"] == "exact" and shown["rows"].keys() == {"exact"} and not shown["levels"]
    assert "upper bound" not in found.to_table() and "upper bound" in report("plan").to_table()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"draws": 1}, "draws is 1; it must be at least 2"),
        ({"log_snr": 99.0}, "log_snr is 99; this model's schedule allows -15 to 15"),
        ({"log_snr": math.nan}, "log_snr is nan; it must be a finite number"),
        ({"label": "ugly"}, "unknown label 'ugly'"),
        ({"label": ["good"]}, "these lengths disagree: texts 9, label 1"),
        ({"decoder": "parallel"}, "this model has no parallel decoder"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_use_is_one_line(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        model("plan").likelihood(TEXTS, **options)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_source_for_a_model_that_takes_none_is_an_error() -> None:
    """It would be left out silently."""
    parts = tiny.tiny_plan_parts(source=False)
    with pytest.raises(UserError, match="not trained with source texts"):
        LatentDiffusion(parts, "cpu").likelihood(TEXTS, source="a cat.")
