"""LatentDiffusion: texts in, texts out."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import memorised
import tiny
from ladle.autoencoder.latents import Latents
from ladle.conditioning.store import ConditionStore
from ladle.errors import UserError
from ladle.evaluation.judge import fit_own
from ladle.pipeline import LatentDiffusion
from ladle.sampling.candidates import candidate_seeds
from ladle.sampling.draw import draw_latents, draw_lengths
from ladle.sampling.request import Sample
from ladle.sampling.soundness import PLAN_TIME, SOURCE_TIME, likeness_to_others, soundness
from ladle.sampling.words import decode_texts, decoding
from ladle.seeding import SampleNoise
from ladle.storage.parts import ModelParts

SOURCES = ["the old cat", None, "the red fox ran to the sea.", "the old cat"]


def build(kind: str = "aligned", **settings: Any) -> LatentDiffusion:
    return LatentDiffusion(memorised.memorised_parts(kind, **settings))


@pytest.fixture(scope="module", params=["aligned", "perceiver"])
def model(request: pytest.FixtureRequest) -> LatentDiffusion:
    return build(request.param)


@pytest.fixture(scope="module")
def aligned() -> LatentDiffusion:
    return build()


# ------------------------------------------------------------------------------------------------ seeds


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
def test_a_seed_gives_its_text_at_any_batch_size(model: LatentDiffusion, decoder: str) -> None:
    """50 seeds one by one, by sevens and all at once: the same texts, label and source mixed in."""
    options = {
        "seeds": range(50),
        "label": [(None, "bad", "good")[i % 3] for i in range(50)],
        "source": [SOURCES[i % 4] for i in range(50)],
        "decoder": decoder,
    }
    texts = model.generate(**options, batch_size=50)
    assert len(set(texts)) > 3
    for batch_size in (1, 7):
        assert model.generate(**options, batch_size=batch_size) == texts


def test_the_order_of_the_seeds_is_the_order_of_the_texts(aligned: LatentDiffusion) -> None:
    """Samples of like length share a batch inside; nobody sees it."""
    texts = aligned.generate(seeds=range(12))
    assert aligned.generate(seeds=list(range(11, -1, -1)), batch_size=5) == texts[::-1]
    assert aligned.generate(seeds=[3, 3, 9]) == [texts[3], texts[3], texts[9]]
    assert aligned.generate(12, seed=0) == texts


def test_without_a_seed_every_call_draws_other_texts(aligned: LatentDiffusion) -> None:
    """Which they were the samples say; `seed` is the first of seeds that count up."""
    first, second = (aligned.generate(30, temperature=2.0, return_samples=True) for _ in range(2))
    assert {sample.seed for sample in first}.isdisjoint(sample.seed for sample in second)
    assert [sample.text for sample in first] != [sample.text for sample in second]
    seeds = [sample.seed for sample in first]
    assert seeds == list(range(seeds[0], seeds[0] + 30))
    assert aligned.generate(30, seed=seeds[0], temperature=2.0) == [sample.text for sample in first]
    assert aligned.generate(3, seed=5) == aligned.generate(seeds=[5, 6, 7])


def test_samples_say_what_they_are_of(aligned: LatentDiffusion) -> None:
    """Their latents are what the text was decoded from; a score only where there was a choice."""
    given: dict[str, Any] = {"seeds": [5, 6], "label": ["good", None], "source": ["a dog", None]}
    samples = aligned.generate(**given, return_samples=True)
    assert all(isinstance(sample, Sample) for sample in samples)
    assert [sample.text for sample in samples] == aligned.generate(**given)
    assert [(one.seed, one.label, one.source) for one in samples] == [(5, "good", "a dog"), (6, None, None)]
    assert [sample.score for sample in samples] == [None, None]
    for sample in samples:
        assert sample.latents.shape[1] == 16 and sample.latents.dtype == torch.float32
        mask = torch.ones(1, len(sample.latents), dtype=torch.bool)
        assert aligned.decode(Latents(sample.latents[None], mask)) == [sample.text]
    chosen = aligned.generate(**given, candidates=4, temperature=1.5, return_samples=True)
    assert all(isinstance(sample.score, float) for sample in chosen)
    assert [sample.seed for sample in chosen] == [5, 6]


def test_each_half_of_the_samples_has_its_own_options(aligned: LatentDiffusion) -> None:
    """A row's text is that of a call in which all rows are of its kind."""
    labels = ["good", None] * 4
    plain = aligned.generate(label=labels, seed=0, sampler="ddpm")
    changed = aligned.generate(label=labels, seed=0, sampler="ddpm", unconditional={"noise_scale": 0.0})
    assert changed[::2] == plain[::2]
    assert changed[1::2] == aligned.generate(8, seed=0, sampler="ddpm", noise_scale=0.0)[1::2] != plain[1::2]


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_half_precision_writes_too(model: LatentDiffusion, tmp_path: Path, dtype: Any) -> None:
    """Weights are bfloat16, latents and the normaliser are not; there and back again all is as before."""
    model.save_pretrained(tmp_path / "model")
    half = LatentDiffusion.from_pretrained(tmp_path / "model", dtype=dtype)
    assert {p.dtype for p in half.diffusion.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.autoencoder.parameters()} == {torch.bfloat16}
    assert half.autoencoder.normaliser.mean.dtype == torch.float32
    latents = half.encode(memorised.EIGHT)
    assert latents.values.dtype == torch.float32
    close = (latents.values - model.encode(memorised.EIGHT).values).abs().mean()
    assert 0 < close < 0.1
    for decoder in ("autoregressive", "parallel"):
        assert half.decode(latents, decoder) == memorised.EIGHT
        texts = half.generate(
            6, seed=0, label="good", source=[*SOURCES, None, "a dog"], candidates=2, decoder=decoder, temperature=1.0
        )
        assert any(texts)
    assert half.classify("a cat.").isfinite().all()
    samples = half.generate(4, seed=0, return_samples=True)
    assert {sample.latents.dtype for sample in samples} == {torch.float32}
    assert LatentDiffusion.from_pretrained(tmp_path / "model").to("cpu", "float32").generate(4, seed=0) == (
        model.generate(4, seed=0)
    )


def test_where_and_how_it_is_loaded_is_said_or_refused(model: LatentDiffusion, tmp_path: Path) -> None:
    """The device is that of the weights; a dtype or a revision that cannot be is one line."""
    model.save_pretrained(tmp_path / "model")
    loaded = LatentDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.device == torch.device("cpu")
    assert loaded.to("meta").device.type == "meta"
    with pytest.raises(UserError, match=r"weights cannot have the dtype 'bfloat61': did you mean 'bfloat16'\?"):
        LatentDiffusion.from_pretrained(tmp_path / "model", dtype="bfloat61")
    with pytest.raises(UserError, match="weights cannot have the dtype 'int8'"):
        loaded.to("cpu", torch.int8)
    with pytest.raises(UserError, match="revision 'v1' is given for .*, but only models on the hub have revisions"):
        LatentDiffusion.from_pretrained(tmp_path / "model", revision="v1")


def test_conditions_change_the_texts(aligned: LatentDiffusion) -> None:
    """The same seeds with another label, source or guidance."""
    model = copy.deepcopy(aligned)
    torch.manual_seed(0)
    with torch.no_grad():  # untrained, modulation is zero: nothing that the vector says is heard
        torch.nn.init.normal_(model.diffusion.denoiser.shared_modulation[1].weight, std=0.5)
        torch.nn.init.normal_(model.diffusion.condition.label.weight, std=2.0)
    aligned = model
    plain = aligned.generate(20, seed=0)
    for other in ({"label": "good"}, {"source": "the red fox ran to the sea."}):
        assert aligned.generate(20, seed=0, **other) != plain
        assert aligned.generate(20, seed=0, **other, guidance_scale=4.0) != aligned.generate(20, seed=0, **other)
    assert aligned.generate(20, seed=0, label="good", guidance_scale=0.0) == plain


def test_without_a_source_all_is_as_with_none_each(aligned: LatentDiffusion) -> None:
    """`source=None`, and a list of which a row is None beside rows that have one: the same unconditional text."""
    plain = aligned.generate(8, seed=0)
    mixed = aligned.generate(8, seed=0, source=[None, "the old cat"] * 4)
    assert mixed[::2] == plain[::2]
    assert mixed != plain


def test_settings_are_those_that_the_model_was_saved_with(aligned: LatentDiffusion) -> None:
    """And can be changed for a call."""
    texts = aligned.generate(8, seed=0)
    sampling = aligned.parts.sampling
    assert texts == aligned.generate(
        8, seed=0, sampler=sampling.sampler, num_inference_steps=4, guidance_scale=1.5, decoder="autoregressive"
    )
    assert aligned.generate(8, seed=0, num_inference_steps=9) != texts
    assert aligned.generate(8, seed=0, sampler="ddim") != texts


def test_of_candidates_with_a_source_the_best_is_near_to_the_others_and_to_the_source(aligned: LatentDiffusion) -> None:
    """By hand: every candidate drawn by its own seed, then the sum of the three scores."""
    source = ["the cat is red", "a dog"]
    options: dict[str, Any] = {"temperature": 1.5, "guidance_scale": 2.0}
    kept = aligned.generate(seeds=[5, 6], source=source, candidates=4, batch_size=3, **options)
    chosen = []
    for text, seed, given in zip(kept, (5, 6), source, strict=True):
        drawn = aligned.generate(seeds=candidate_seeds(seed, 4), source=given, **options)
        likeness = likeness_to_others(drawn)
        scores = [
            near
            + sound(aligned, other, None, seed, given) / 2
            + sound(aligned, other, None, seed, given, 1.0, SOURCE_TIME) / 2
            for other, near in zip(drawn, likeness, strict=True)
        ]
        chosen.append(scores.index(max(scores)))
        assert text == drawn[chosen[-1]]
    assert set(chosen) != {0}


@pytest.fixture
def judged(aligned: LatentDiffusion) -> LatentDiffusion:
    """A model that tells its labels by words: 'cat' is good, 'dog' is bad."""
    judge = fit_own([{"text": f"a {w} {n}", "label": own} for w, own in (("cat", "good"), ("dog", "bad"))
                     for n in ["one", "two", "three", "four", "five"] * 4], [])  # fmt: skip
    return LatentDiffusion(replace(aligned.parts, judge=judge))


def test_labels_are_told_by_words_where_the_model_knows_them(judged: LatentDiffusion) -> None:
    """In the order of the model's labels; the denoiser's own word is there for the asking."""
    shares = judged.classify(["a cat", "a dog", "two"])
    assert shares.argmax(1).tolist()[:2] == [judged.labels.index("good"), judged.labels.index("bad")]
    torch.testing.assert_close(shares, judged.classify(["a cat", "a dog", "two"], by="words"))
    assert not torch.allclose(shares, judged.classify(["a cat", "a dog", "two"], by="denoiser"))
    with pytest.raises(UserError, match="by is 'ear'"):
        judged.classify("a", by="ear")  # type: ignore[arg-type]


def test_a_judge_travels_with_the_model(judged: LatentDiffusion, tmp_path: Path) -> None:
    """Saved, loaded, the same; damaged, one line."""
    judged.save_pretrained(tmp_path / "model")
    again = LatentDiffusion.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again.classify(["a cat", "a dog"]), judged.classify(["a cat", "a dog"]))
    (tmp_path / "model" / "judge" / "judge.json").write_text("{")
    with pytest.raises(UserError, match="copy"):
        LatentDiffusion.from_pretrained(tmp_path / "model")


def test_of_candidates_without_a_source_the_soundest_is_kept(aligned: LatentDiffusion) -> None:
    """By hand: the highest soundness under its own label; beside a row with a source too."""
    labels = ["bad", "good", None, "bad"]
    options: dict[str, Any] = {"temperature": 2.0, "guidance_scale": 2.0}
    kept = aligned.generate(
        seeds=[5, 6, 7, 8], label=labels, source=[None, None, None, "a dog"], candidates=4, batch_size=3, **options
    )
    chosen = []
    for seed, label in zip((5, 6, 7), labels, strict=False):
        drawn = drawn_candidates(aligned, seed, label, 4, options)
        assert drawn[0] == aligned.generate(seeds=[seed], label=label, **options)[0]
        scores = [float("-inf") if not text.strip() else sound(aligned, text, label, seed) for text in drawn]
        chosen.append(scores.index(max(scores)))
        assert kept[seed - 5] == drawn[chosen[-1]]
    assert set(chosen) != {0}
    own = aligned.parts.sampling.override(**options, candidates=4)
    saved = LatentDiffusion(replace(aligned.parts, sampling=own))
    assert saved.generate(seeds=[5, 6, 7], label=labels[:3]) == kept[:3]  # the model's own number


def drawn_candidates(
    model: LatentDiffusion, seed: int, label: str | None, count: int, options: dict[str, Any]
) -> list[str]:
    """By hand: candidates of a sample without a source, each by its own stream, all as long as the first."""
    sampling = model.parts.sampling.override(**options)
    noise = [SampleNoise([own]) for own in candidate_seeds(seed, count)]
    raw = ConditionStore(model.parts.reader(), [label], [None]).gather(torch.tensor([0]))
    lengths = [draw_lengths(model.diffusion, raw, own, sampling) for own in noise]
    latents = [draw_latents(model.diffusion, raw, own, lengths[0], sampling).values[0] for own in noise]
    return decode_texts(model.autoencoder, latents, sampling.decoder, 8, noise=noise, **decoding(sampling))


@pytest.fixture(scope="module")
def telling(aligned: LatentDiffusion) -> LatentDiffusion:
    """A model whose labels make a difference: a new one's modulation is zero."""
    model = LatentDiffusion(copy.deepcopy(aligned.parts))
    generator = torch.Generator().manual_seed(0)
    model.diffusion.condition.label.weight.data *= 100
    for parameter in model.diffusion.denoiser.parameters():
        if not parameter.any():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def test_of_candidates_the_first_is_kept_that_the_model_takes_for_its_label(telling: LatentDiffusion) -> None:
    """By hand; without a label the first, with a source as ever."""
    labels = ["bad", "good"] * 4 + [None]
    seeds = list(range(5, 14))
    kept = telling.generate(seeds=seeds, label=labels, candidates=4, choose="label", batch_size=3)
    chosen = []
    for text, seed, label in zip(kept, seeds, labels, strict=True):
        drawn = [text for text in telling.generate(seeds=candidate_seeds(seed, 4), label=label) if text.strip()]
        if label is None:
            assert text == drawn[0]
            continue
        number = telling.labels.index(label)
        shares = [float(telling.classify([other], seeds=[seed])[0, number]) for other in drawn]
        chosen.append(next((i for i, share in enumerate(shares) if share >= 0.5), shares.index(max(shares))))
        assert text == drawn[chosen[-1]]
    assert set(chosen) != {0}
    options: dict[str, Any] = {"candidates": 4, "temperature": 1.5}
    mixed = telling.generate(seeds=[5, 6], label="bad", source=["a dog", None], choose="label", **options)
    assert mixed[:1] == telling.generate(seeds=[5], label="bad", source="a dog", choose="sound", **options)
    assert mixed[1:] == telling.generate(seeds=[6], label="bad", choose="label", **options)


def test_a_model_saved_with_choose_label_samples_without_a_label(telling: LatentDiffusion) -> None:
    """It is an error only where the caller asks for it."""
    parts = copy.copy(telling.parts)
    parts.sampling = parts.sampling.override(choose="label", candidates=2)
    assert len(LatentDiffusion(parts).generate(2, num_inference_steps=2)) == 2


def test_classes_are_told_apart_by_the_model_itself(telling: LatentDiffusion) -> None:
    """Probabilities, the same whatever the batch; another seed is other noise; the label's embedding is what tells."""
    texts = ["a cat.", "the big dog ate at noon, a lot.", "no."]
    shares = telling.classify(texts, seeds=[3, 4, 5])
    assert shares.shape == (3, len(telling.labels))
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    for i, text in enumerate(texts):
        torch.testing.assert_close(telling.classify(text, seeds=[3 + i])[0], shares[i], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(telling.classify(texts, seeds=[6, 4, 5])[0], shares[0])
    alike = LatentDiffusion(copy.deepcopy(telling.parts))
    weight = alike.diffusion.condition.label.weight
    weight.data[:] = weight[:1]
    torch.testing.assert_close(alike.classify(texts), torch.full((3, 2), 0.5))


def sound(
    model: LatentDiffusion,
    text: str,
    label: str | None,
    seed: int,
    source: str | None = None,
    guidance_scale: float = 2.0,
    time: float = PLAN_TIME,
) -> float:
    raw = ConditionStore(model.parts.reader(), [label], [source]).gather(torch.tensor([0]))
    tokens = model.autoencoder.backbone.tokenize([text])
    noise = SampleNoise([seed])
    return float(soundness(model.autoencoder, model.diffusion, tokens, raw, noise, guidance_scale, time))


def test_beams_search_where_nothing_is_drawn(aligned: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The width gets to the decoder; with drawn words or all at once there is nothing to search for."""
    given: list[dict[str, Any]] = []
    decode = aligned.autoencoder.decode

    def seen(latents: Latents, decoder: Any = None, **options: Any) -> torch.Tensor:
        given.append({name: value for name, value in options.items() if name not in ("noise", "read")})
        return decode(latents, decoder, **options)

    monkeypatch.setattr(aligned.autoencoder, "decode", seen)
    assert len(aligned.generate(4, label="bad", num_beams=3, temperature=0.0)) == 4
    assert given and all(options == {"num_beams": 3} for options in given)
    for wrong in ({"temperature": 0.5}, {"decoder": "parallel"}):
        with pytest.raises(UserError, match="num_beams needs temperature = 0"):
            aligned.generate(1, num_beams=3, **wrong)


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
def test_words_drawn_follow_from_the_seed_and_not_from_the_batch(aligned: LatentDiffusion, decoder: str) -> None:
    """temperature: the same texts at every batch size; another seed draws other words from the same latents."""
    # (top_p: tokens that the decoder has never seen are equally unlikely to the last digit, in an order of chance)
    options = {"label": ["bad", "good"] * 4, "decoder": decoder, "temperature": 2.0, "top_p": 0.8}
    texts = aligned.generate(seeds=range(8), **options)
    assert texts != aligned.generate(seeds=range(8), label=["bad", "good"] * 4, decoder=decoder)
    for batch_size in (1, 3):
        assert aligned.generate(seeds=range(8), batch_size=batch_size, **options) == texts
    greedy = aligned.generate(seeds=range(8), **options | {"top_p": 1e-6})
    assert greedy == aligned.generate(seeds=range(8), label=["bad", "good"] * 4, decoder=decoder)
    latents = list(aligned.encode(["the old cat sat"] * 6).values)
    noise = [SampleNoise([seed]) for seed in range(6)]
    drawn = decode_texts(aligned.autoencoder, latents, decoder, 6, noise=noise, do_sample=True, temperature=4.0)
    assert len(set(drawn)) > 1


def test_every_step_of_every_batch_is_told(aligned: LatentDiffusion) -> None:
    """Steps done and steps in all, for a progress bar."""
    seen: list[tuple[int, int]] = []
    aligned.generate(5, num_inference_steps=3, batch_size=2, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 9) for i in range(9)]


def test_steps_of_another_round_are_added(judged: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that begins anew each round says nothing."""
    monkeypatch.setattr(judged, "classify", lambda texts, **options: torch.zeros(len(texts), 2))
    seen: list[tuple[int, int]] = []
    judged.generate(
        seeds=[3], label="good", candidates=2, choose="label", num_inference_steps=2,
        on_step=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 2), (2, 2), (3, 4), (4, 4)]


# ------------------------------------------------------------------------------------------- the autoencoder


def test_texts_are_encoded_in_their_order_and_come_back(model: LatentDiffusion) -> None:
    """Batches are sorted by length inside; rows are the texts' own."""
    latents = model.encode(memorised.EIGHT, batch_size=3)
    for row, text in enumerate(memorised.EIGHT):
        alone = model.encode(text)
        torch.testing.assert_close(latents.values[row][latents.mask[row]], alone.values[0], atol=1e-5, rtol=1e-4)
    for decoder in (None, "autoregressive", "parallel"):
        assert model.decode(latents, decoder, batch_size=3) == memorised.EIGHT
        assert model.reconstruct(memorised.EIGHT, decoder, batch_size=5) == memorised.EIGHT


def test_latents_are_normalised(model: LatentDiffusion) -> None:
    """Mean 0 and variance 1 in each channel over the texts that they were fitted on."""
    latents = model.encode(memorised.EIGHT)
    z0 = latents.values[latents.mask]
    torch.testing.assert_close(z0.mean(0), torch.zeros(16), atol=0.02, rtol=0)
    torch.testing.assert_close(z0.std(0, unbiased=False), torch.ones(16), atol=0.02, rtol=0)


def test_options_of_decoding_reach_the_decoder(aligned: LatentDiffusion) -> None:
    """Beams and sampling, named as in transformers."""
    latents = aligned.encode(memorised.EIGHT)
    noisy = Latents(3 * torch.randn(latents.values.shape, generator=torch.Generator().manual_seed(0)), latents.mask)
    assert aligned.decode(latents, num_beams=3) == memorised.EIGHT
    assert aligned.decode(noisy, do_sample=True, temperature=3.0) != aligned.decode(noisy)


def test_a_text_too_long_is_cut_and_an_empty_one_is_a_text(aligned: LatentDiffusion) -> None:
    """Neither is an error; there is one latent for nothing."""
    latents = aligned.encode(["the old cat " * 50, ""])
    assert latents.mask.sum(1).tolist() == [aligned.autoencoder.max_latents, 1]
    assert len(aligned.decode(latents)) == 2


# ------------------------------------------------------------------------------------------------ wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0; it must be at least 1"),
        ({"num_samples": -3}, "num_samples is -3"),
        ({"num_samples": "2"}, "num_samples is '2'; it must be a whole number"),
        ({"seeds": []}, "num_samples is 0"),
        ({"num_samples": 3, "seeds": [1, 2]}, "these lengths disagree: num_samples 3, seeds 2"),
        ({"label": ["bad"], "source": ["a", "b"]}, "these lengths disagree: label 1, source 2"),
        ({"seed": 5, "seeds": [5]}, "both seed and seeds are given"),
        ({"guidance_scal": 2.0}, r"there is no sampling option 'guidance_scal': did you mean 'guidance_scale'\?"),
        ({"noise_scale": 3.0}, "sampling: noise_scale: must be less than or equal to 2"),
        ({"conditional": 0.5}, "conditional is 0.5; give a dict"),
        ({"label": "god"}, r"unknown label 'god': did you mean 'good'\?"),
        ({"seeds": [-1]}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seeds": [2**32]}, "seed is 4294967296"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"sampler": "dimm"}, "ddim"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"candidates": 0}, "candidates"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"decoder": "sequential"}, "decoder"),
        ({"candidates": 2, "choose": "best"}, "choose"),
        ({"candidates": 2, "choose": "label"}, "choose='label' needs a label"),
        ({"label": 5}, "unknown label '5'"),
        ({"label": [5, None]}, "unknown label '5'"),
    ],
)
def test_wrong_use_is_one_clear_line(aligned: LatentDiffusion, arguments: dict[str, Any], message: str) -> None:
    """What was given, what is allowed."""
    with pytest.raises(UserError, match=message) as error:
        aligned.generate(**arguments)
    assert "\n" not in str(error.value)


def test_what_the_model_was_not_trained_for_is_refused() -> None:
    """A label or a source for a model without; a parallel decoder that was left out; no texts."""
    model = build(labels=(), source=False)
    assert (model.labels, model.takes_source) == ((), False)
    with pytest.raises(UserError, match="no labels"):
        model.generate(label="good")
    with pytest.raises(UserError, match="without labels, so it cannot classify"):
        model.classify("a cat.")
    with pytest.raises(UserError, match="not trained with source texts"):
        model.generate(source="a")
    with pytest.raises(UserError, match="no texts given"):
        model.encode([])
    with pytest.raises(UserError, match="no texts given"):
        build().classify([])
    with pytest.raises(UserError, match="these lengths disagree: texts 2, seeds 1"):
        build().classify(["a cat.", "no."], seeds=[0])
    with pytest.raises(UserError, match="has no judge of words"):
        build().classify("a cat.", by="words")
    with pytest.raises(UserError, match="num_levels is 0; it must be at least 1"):
        build().classify("a cat.", num_levels=0)
    autoencoder = tiny.tiny_autoencoder(parallel=False)
    lone = LatentDiffusion(ModelParts("lone", autoencoder, tiny.tiny_diffusion(autoencoder)))
    for call in (lambda: lone.generate(decoder="parallel"), lambda: lone.reconstruct(["a"], "parallel")):
        with pytest.raises(UserError, match="this model has no parallel decoder"):
            call()


def test_an_autoencoder_alone_cannot_sample() -> None:
    """`base-en` encodes and decodes; asked for samples it says what to do instead."""
    model = LatentDiffusion(ModelParts("base", memorised.memorised()))
    assert model.reconstruct(memorised.EIGHT[:2]) == memorised.EIGHT[:2]
    assert (model.labels, model.takes_source, model.max_tokens) == ((), False, tiny.MAX_TOKENS)
    with pytest.raises(UserError, match="'base' is an autoencoder without a diffusion model"):
        model.generate(2)


# ------------------------------------------------------------------------------------------------ on disk


def test_a_saved_model_says_the_same(model: LatentDiffusion, tmp_path: Path) -> None:
    """Weights, settings, labels and normaliser: equal texts for equal seeds, equal latents."""
    model.save_pretrained(tmp_path / "mine")
    loaded = LatentDiffusion.from_pretrained(tmp_path / "mine")
    assert loaded.digest is not None
    options = {"label": "good", "source": "the old cat", "num_samples": 6, "seed": 0}
    assert loaded.generate(**options) == model.generate(**options)
    torch.testing.assert_close(loaded.encode(["a cat."]).values, model.encode(["a cat."]).values)
    assert loaded.labels == tiny.LABELS
    assert loaded.takes_source


def test_a_saved_model_is_evaluated_not_trained(aligned: LatentDiffusion) -> None:
    """No dropout, no running figures, when texts are asked for."""
    assert not aligned.autoencoder.training
    assert not aligned.diffusion.training


def test_the_hub_gets_the_model_folder(
    aligned: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The repository is made if need be, then the whole folder is uploaded: here into a local one."""
    import shutil

    import huggingface_hub

    class LocalHub:
        """The two calls of HfApi that are used, on a folder."""

        def create_repo(self, repo_id: str, *, exist_ok: bool = False, private: bool = False) -> None:
            (tmp_path / repo_id).mkdir(parents=True, exist_ok=exist_ok)
            (tmp_path / repo_id / "private").write_text(str(private))

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", LocalHub)
    assert aligned.push_to_hub("me/mine", private=True) == "https://hub/me/mine"
    assert (tmp_path / "me" / "mine" / "private").read_text() == "True"
    assert LatentDiffusion.from_pretrained(tmp_path / "me" / "mine").generate(3, seed=0) == aligned.generate(3, seed=0)
