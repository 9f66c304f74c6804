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
from ladle.errors import UserError
from ladle.evaluation.judge import fit_own
from ladle.pipeline import LatentDiffusion
from ladle.sampling.candidates import Candidates, candidate_seeds
from ladle.sampling.options import SamplingOptions
from ladle.sampling.request import Conditions, Request
from ladle.sampling.soundness import PLAN_TIME, SOURCE_TIME, likeness_to_others, soundness
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
    assert aligned.generate(12) == texts  # 0, 1, 2, ... where none are given


def test_conditions_change_the_texts(aligned: LatentDiffusion) -> None:
    """The same seeds with another label, source or guidance."""
    model = copy.deepcopy(aligned)
    torch.manual_seed(0)
    with torch.no_grad():  # untrained, modulation is zero: nothing that the vector says is heard
        torch.nn.init.normal_(model.diffusion.denoiser.shared_modulation[1].weight, std=0.5)
        torch.nn.init.normal_(model.diffusion.condition.label.weight, std=2.0)
    aligned = model
    plain = aligned.generate(20)
    for other in ({"label": "good"}, {"source": "the red fox ran to the sea."}):
        assert aligned.generate(20, **other) != plain
        assert aligned.generate(20, **other, guidance_scale=4.0) != aligned.generate(20, **other)
    assert aligned.generate(20, label="good", guidance_scale=0.0) == plain


def test_without_a_source_all_is_as_with_none_each(aligned: LatentDiffusion) -> None:
    """`source=None`, and a list of which a row is None beside rows that have one: the same unconditional text."""
    plain = aligned.generate(8)
    mixed = aligned.generate(8, source=[None, "the old cat"] * 4)
    assert mixed[::2] == plain[::2]
    assert mixed != plain


def test_settings_are_those_that_the_model_was_saved_with(aligned: LatentDiffusion) -> None:
    """And can be changed for a call."""
    texts = aligned.generate(8)
    sampling = aligned.parts.sampling
    assert texts == aligned.generate(
        8, sampler=sampling.sampler, num_inference_steps=4, guidance_scale=1.5, decoder="autoregressive"
    )
    assert aligned.generate(8, num_inference_steps=9) != texts
    assert aligned.generate(8, sampler="ddim") != texts


def test_of_candidates_with_a_source_the_best_is_near_to_the_others_and_to_the_source(aligned: LatentDiffusion) -> None:
    """By hand: every candidate drawn by its own seed, then the sum of the three scores."""
    source = ["the cat is red", "a dog"]
    options: dict[str, Any] = {"decoder_temperature": 1.5, "guidance_scale": 2.0}
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


def test_an_empty_candidate_is_kept_only_where_all_are(aligned: LatentDiffusion) -> None:
    best = among(aligned, []).best
    assert best(["", " ", "a cat."], None, None, 0) == "a cat."
    assert best(["", "a cat.", " "], None, "a dog", 0) == "a cat."
    assert best(["", " "], None, "a dog", 0) == ""


def among(model: LatentDiffusion, drawn: list[list[str]], **sampling: Any) -> Candidates:
    """The choice among texts that are given in rounds."""
    rounds = iter(drawn)
    return Candidates(model, SamplingOptions(guidance_scale=2.0, **sampling), 8, lambda *args: next(rounds))


def test_an_empty_text_has_no_label(aligned: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a label or without, the first that says something is kept; nothing only where all say nothing."""
    monkeypatch.setattr(aligned, "classify", lambda texts, **options: torch.tensor([[0.1, 0.9]] * len(texts)))
    drawn = [["", " ", "a cat."], ["", "a dog."], [""]]
    label = aligned.labels[1]
    request = Request([0, 1, 2], [label, None, label], [None] * 3)
    assert among(aligned, drawn, candidates=3).first_with_label(request) == ["", "a dog.", "a cat."]


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


def test_the_soundest_is_looked_for_among_those_that_are_what_the_label_says(judged: LatentDiffusion) -> None:
    """Where none is, the nearest; without a label among all."""
    drawn = ["a dog one", "a cat two two", "a dog", "a cat one"]
    label = ["good", "bad", None]
    request = Request([5, 6, 7], label, [None] * 3)
    kept = among(judged, [drawn * 3], candidates=4).soundest(request)
    for text, own, seed, part in zip(kept, label, (5, 6, 7), (drawn[1::2], drawn[::2], drawn), strict=True):
        assert text == max(part, key=lambda other: sound(judged, other, own, seed))
    few = ["a dog", "one two", "", "a dog dog"]
    assert among(judged, [few], candidates=4).soundest(Request([5], ["good"], [None])) == ["one two"]


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
    options: dict[str, Any] = {"decoder_temperature": 2.0, "guidance_scale": 2.0}
    kept = aligned.generate(
        seeds=[5, 6, 7, 8], label=labels, source=[None, None, None, "a dog"], candidates=4, batch_size=3, **options
    )
    chosen = []
    for seed, label in zip((5, 6, 7), labels, strict=False):
        noise = [SampleNoise([own]) for own in candidate_seeds(seed, 4)]
        request = Request([seed] * 4, [label] * 4, [None] * 4)
        latents = aligned._draw(noise, request, aligned._sampling(options), 8, None, candidates=4)
        assert len({len(own) for own in latents}) == 1  # or the choice would be for brevity
        drawn = aligned._decode_many(latents, "autoregressive", 8, noise=noise, do_sample=True, temperature=2.0)
        assert drawn[0] == aligned.generate(seeds=[seed], label=label, **options)[0]
        scores = [float("-inf") if not text.strip() else sound(aligned, text, label, seed) for text in drawn]
        chosen.append(scores.index(max(scores)))
        assert kept[seed - 5] == drawn[chosen[-1]]
    assert set(chosen) != {0}
    model = aligned._sampling({**options, "candidates": 4})
    saved = LatentDiffusion(replace(aligned.parts, sampling=model))
    assert saved.generate(seeds=[5, 6, 7], label=labels[:3]) == kept[:3]  # the model's own number


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
    options: dict[str, Any] = {"candidates": 4, "decoder_temperature": 1.5}
    mixed = telling.generate(seeds=[5, 6], label="bad", source=["a dog", None], choose="label", **options)
    assert mixed[:1] == telling.generate(seeds=[5], label="bad", source="a dog", choose="sound", **options)
    assert mixed[1:] == telling.generate(seeds=[6], label="bad", choose="label", **options)


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
    raw = Conditions(model.parts, Request([seed], [label], [source])).batch(torch.arange(1))
    tokens = model.autoencoder.backbone.tokenize([text])
    noise = SampleNoise([seed])
    return float(soundness(model.autoencoder, model.diffusion, tokens, raw, noise, guidance_scale, time))


def test_beams_search_where_nothing_is_drawn(aligned: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The width gets to the decoder; with drawn words or all at once there is nothing to search for."""
    given: list[dict[str, Any]] = []
    decode = aligned.autoencoder.decode

    def seen(latents: Latents, decoder: Any = None, **options: Any) -> torch.Tensor:
        given.append({name: value for name, value in options.items() if name != "noise"})
        return decode(latents, decoder, **options)

    monkeypatch.setattr(aligned.autoencoder, "decode", seen)
    assert len(aligned.generate(4, label="bad", num_beams=3, decoder_temperature=0.0)) == 4
    assert given and all(options == {"num_beams": 3} for options in given)
    for wrong in ({"decoder_temperature": 0.5}, {"decoder": "parallel"}):
        with pytest.raises(UserError, match="num_beams needs decoder_temperature = 0"):
            aligned.generate(1, num_beams=3, **wrong)


@pytest.mark.parametrize("decoder", ["autoregressive", "parallel"])
def test_words_drawn_follow_from_the_seed_and_not_from_the_batch(aligned: LatentDiffusion, decoder: str) -> None:
    """decoder_temperature: the same texts at every batch size; another seed draws other words from the same latents."""
    options = {"label": ["bad", "good"] * 4, "decoder": decoder, "decoder_temperature": 2.0, "decoder_top_p": 0.99}
    texts = aligned.generate(seeds=range(8), **options)
    assert texts != aligned.generate(seeds=range(8), label=["bad", "good"] * 4, decoder=decoder)
    for batch_size in (1, 3):
        assert aligned.generate(seeds=range(8), batch_size=batch_size, **options) == texts
    greedy = aligned.generate(seeds=range(8), **options | {"decoder_top_p": 1e-6})
    assert greedy == aligned.generate(seeds=range(8), label=["bad", "good"] * 4, decoder=decoder)
    latents = list(aligned.encode(["the old cat sat"] * 6).values)
    noise = [SampleNoise([seed]) for seed in range(6)]
    drawn = aligned._decode_many(latents, decoder, 6, noise=noise, do_sample=True, temperature=4.0)
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
        ({"num_samples": 0}, "num_samples is 0: it must be at least 1"),
        ({"num_samples": -3}, "num_samples is -3"),
        ({"seeds": []}, "num_samples is 0"),
        ({"num_samples": 3, "seeds": [1, 2]}, "these disagree: num_samples 3, seeds 2"),
        ({"label": ["bad"], "source": ["a", "b"]}, "these disagree: label 1, source 2"),
        ({"label": "god"}, r"unknown label 'god': did you mean 'good'\?"),
        ({"seeds": [-1]}, "seed -1 given: allowed are 0 to 4294967295"),
        ({"seeds": [2**32]}, "seed 4294967296 given"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"sampler": "dimm"}, "ddim"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"candidates": 0}, "candidates"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"decoder": "sequential"}, "decoder"),
        ({"candidates": 2, "choose": "best"}, "choose"),
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
    with pytest.raises(UserError, match="without labels: it cannot tell classes apart"):
        model.classify("a cat.")
    with pytest.raises(UserError, match="not trained with source texts"):
        model.generate(source="a")
    with pytest.raises(UserError, match="no texts given"):
        model.encode([])
    with pytest.raises(UserError, match="no texts given"):
        build().classify([])
    with pytest.raises(UserError, match="these disagree: texts 2, seeds 1"):
        build().classify(["a cat.", "no."], seeds=[0])
    with pytest.raises(UserError, match="does not tell labels by words"):
        build().classify("a cat.", by="words")
    with pytest.raises(UserError, match="num_levels is 0: it must be at least 1"):
        build().classify("a cat.", num_levels=0)
    autoencoder = tiny.tiny_autoencoder(parallel=False)
    lone = LatentDiffusion(ModelParts("lone", autoencoder, tiny.tiny_diffusion(autoencoder)))
    for call in (lambda: lone.generate(decoder="parallel"), lambda: lone.reconstruct(["a"], "parallel")):
        with pytest.raises(UserError, match="'lone' has no parallel decoder"):
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
    options = {"label": "good", "source": "the old cat", "num_samples": 6}
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
    assert LatentDiffusion.from_pretrained(tmp_path / "me" / "mine").generate(3) == aligned.generate(3)
