"""Section D of the cases from the field: what a program gives to `LatentDiffusion`, and where it runs a model."""

import multiprocessing
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memorised
import tiny
from ladle import train
from ladle.autoencoder.backbone import padded_tokens
from ladle.autoencoder.latents import Latents
from ladle.errors import LadleError, UserError
from ladle.evaluation.judge import fit_own
from ladle.pipeline import LatentDiffusion
from ladle.storage.parts import ModelParts

TEXTS = memorised.EIGHT[:3]
OPTIONS: list[dict[str, Any]] = [
    {}, {"label": "good", "source": "the old cat", "sampler": "ddpm"}, {"decoder": "parallel", "temperature": 1.0},
    {"candidates": 3, "temperature": 1.0, "source": ["a dog", None]}, {"label": "bad", "candidates": 2},
    {"num_beams": 2, "temperature": 0.0},
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    """A model that has learnt eight sentences, with labels, sources and a judge of words."""
    rows = [{"text": f"a {w} {n}", "label": own} for w, own in (("cat", "good"), ("dog", "bad")) for n in range(20)]
    return LatentDiffusion(replace(memorised.memorised_parts("aligned"), judge=fit_own(rows, [])))


def everything(model: LatentDiffusion, seed: int = 0) -> list[Any]:
    """Texts and figures of all public methods."""
    latents = model.encode(TEXTS)
    drawn = [model.generate(2, seed=seed, **options) for options in OPTIONS]
    written = [model.decode(latents), model.decode(latents, "parallel"), model.reconstruct(TEXTS[::-1])]
    shares = model.classify(TEXTS, by="denoiser", seeds=[seed] * len(TEXTS))
    return [*drawn, *written, latents.values.tolist(), shares.tolist(), model.classify(TEXTS).tolist()]


def refused(call: Any, *given: Any, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*given, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Table:
    """As much of a pandas table as counts: it gives its columns' names when it is gone through."""

    def __init__(self, **columns: list[Any]):
        self.data, self.columns = columns, list(columns)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> list[Any]:
        return self.data[name]


# ------------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (Table(id=[1], review=["a cat."]), r"a Table was given; give one column of it, such as df['review']"),
        (Table(id=[1], text=["a cat."]), "such as df['text']"),
        ({"text": ["a cat."]}, "a dict was given; give one column of it, such as df['text']"),
        ([("a cat.", "a dog.")], "texts[0] is ('a cat.', 'a dog.'), not a text; each item must be one string"),
        ([["a cat."]], "texts[0] is ['a cat.'], not a text"),
        (["a", b"cat"], "texts[1] is b'cat', not a text"),
        (b"a cat.", "one bytes was given; give a text or a list of texts"),
        ({"a", "b"}, "one set was given; give a text or a list of texts"),
        (5, "one int was given; give a text or a list of texts"),
        (None, "one NoneType was given"),
        (Path("x"), "Path was given; give a text or a list of texts"),
        (np.array([["a"], ["b"]]), "one ndarray of shape (2, 1) was given"),
        (np.array("a"), "one ndarray of shape () was given"),
        ([np.zeros((2, 2))], "texts[0] is array([[0., 0.],"),
        ([{"text": "a cat."}], "texts[0] is {'text': 'a cat.'}, not a text"),
        ([], "no texts given"),
        (iter(()), "no texts given"),
        (["a", "\ud83d"], "texts[1] holds half a surrogate pair"),
    ],
)
@pytest.mark.parametrize("verb", ["encode", "reconstruct", "classify"])
def test_case_tables_dicts_and_pairs_are_no_texts(model: LatentDiffusion, verb: str, texts: Any, said: str) -> None:
    """Case D: `reconstruct(df[["text"]])`, a dict, pairs `("a", "b")`."""
    if isinstance(texts, Iterator):
        texts = iter(())  # (each verb needs its own)
    assert said in refused(getattr(model, verb), texts)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([None], "texts[0] is None, not a text; leave it out"),
        ([1, 2], "texts[0] is 1, not a text; each item must be one string"),
        (["a", float("nan")], "texts[1] is nan, not a text; leave it out"),
        (np.array(["a", None], dtype=object), "texts[1] is None"),
        (np.array([1.5, 2.5]), "texts[0] is 1.5, not a text"),
        (["a", True], "texts[1] is True, not a text"),
        (torch.tensor([1, 2]), "texts[0] is 1, not a text"),
    ],
)
def test_case_missing_values_and_numbers_are_no_texts(model: LatentDiffusion, texts: Any, said: str) -> None:
    """Case D: `encode([None])`, `[1, 2]`, NaN in a Series."""
    assert said in refused(model.encode, texts)
    assert said in refused(model.reconstruct, texts)


def test_whatever_holds_texts_in_order_is_taken(model: LatentDiffusion) -> None:
    """A generator, a tuple, arrays of strings, NumPy's own strings."""
    expected = model.reconstruct(TEXTS)
    for texts in (tuple(TEXTS), (text for text in TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object)):
        assert model.reconstruct(texts) == expected
    assert model.reconstruct([np.str_(text) for text in TEXTS]) == expected
    assert model.reconstruct(TEXTS[0]) == expected[:1]
    assert model.generate(2, seed=0, source=np.array(["a dog", "a cat"])) == (
        model.generate(2, seed=0, source=["a dog", "a cat"])
    )


def test_case_pandas_and_arrow_hold_texts(model: LatentDiffusion) -> None:
    """Case D: `reconstruct(df[["text"]])` and NaN in a Series, with the libraries themselves."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    arrow = pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
    table = pandas.DataFrame({"id": [1, 2, 3], "text": TEXTS, "label": ["good", "bad", "good"]}, index=[7, 8, 9])
    assert "a DataFrame was given; give one column of it, such as df['text']" in refused(model.reconstruct, table)
    assert "such as df['text']" in refused(model.reconstruct, table[["text"]])
    expected = model.reconstruct(TEXTS)
    assert model.reconstruct(table["text"]) == expected == model.reconstruct(arrow.array(TEXTS))
    assert model.generate(label=table["label"], seed=0) == model.generate(label=["good", "bad", "good"], seed=0)
    assert "texts[1] is nan, not a text; leave it out" in refused(model.encode, pandas.Series(["a", None]))
    missing = pandas.Series(["a", pandas.NA], dtype="string")
    assert "texts[1] is <NA>, not a text; leave it out" in refused(model.encode, missing)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("size", [-1, 0, 2.5, 2.0, True, "8", None, float("nan")])
def test_case_a_batch_size_is_a_whole_number(model: LatentDiffusion, size: Any) -> None:
    """Case D: `encode(texts, batch_size=-1)`."""
    latents = model.encode(TEXTS)
    for call in (
        lambda: model.encode(TEXTS, batch_size=size),
        lambda: model.decode(latents, batch_size=size),
        lambda: model.reconstruct(TEXTS, batch_size=size),
        lambda: model.classify(TEXTS, by="denoiser", batch_size=size),
        lambda: model.generate(2, batch_size=size),
    ):
        assert refused(call).startswith(f"batch_size is {size!r}; it must be ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"seed": "5"}, "seed is '5'; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 4294967295"),
        ({"seed": 2**32 - 1, "num_samples": 2}, "seed is 4294967295; it must be from 0 to 4294967294"),
        ({"seeds": 5}, "seeds: one int was given; give a list of whole numbers"),
        ({"seeds": "012"}, "seeds: one str was given; give a list of whole numbers"),
        ({"seeds": [1.5]}, "seed is 1.5"),
        ({"seeds": [2**32]}, "seed is 4294967296; it must be from 0 to 4294967295"),
        ({"seeds": np.array([0.5])}, "seed is 0.5"),
        ({"num_samples": True}, "num_samples is True; it must be a whole number"),
        ({"num_samples": 2.0}, "num_samples is 2.0; it must be a whole number"),
        ({"label": b"good"}, "label: one bytes was given; give a label, or a list with one for each text"),
        ({"label": [("good",)]}, "('good',) is not a label; give a string or a number for each text, or None"),
        ({"label": Table(label=["good"])}, "label: a Table was given; give one column of it, such as df['label']"),
        ({"label": ["good", "bad"], "num_samples": 3}, "these lengths disagree: num_samples 3, label 2"),
        ({"source": 5}, "source: one int was given; give a text or a list of texts"),
        ({"source": ["a", 5.0]}, "source[1] is 5.0, not a text"),
        ({"source": []}, "no source given; give at least one"),
    ],
)
def test_seeds_counts_labels_and_sources_are_checked(
    model: LatentDiffusion, arguments: dict[str, Any], said: str
) -> None:
    """What would be cut to another number, read letter by letter or end in the middle of the work."""
    assert said in refused(model.generate, **arguments)


def test_numbers_of_numpy_are_numbers(model: LatentDiffusion) -> None:
    """A seed, a count and a label may come out of an array."""
    expected = model.generate(3, seed=4)
    assert model.generate(np.int64(3), seed=np.uint32(4)) == expected
    assert model.generate(seeds=np.arange(4, 7)) == expected == model.generate(seeds=range(4, 7), batch_size=np.int8(2))
    assert torch.equal(model.classify(TEXTS, seeds=np.zeros(3, dtype=int)), model.classify(TEXTS))
    numbered = LatentDiffusion(memorised.memorised_parts("aligned", labels=("0", "1")))
    for label in (0, np.int64(0), [0, 0], np.zeros(2, dtype=int), ["0", 0]):
        assert numbered.generate(2, seed=0, label=label) == numbered.generate(2, seed=0, label="0")


# ------------------------------------------------------------------------------------------------ latents


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z: z.values, "latents are a Tensor; give what `encode` returns"),
        (lambda z: Latents(z.values.numpy(), z.mask), "latents are a Latents; give what `encode` returns"),
        (lambda z: Latents(z.values, z.mask.long()), "the mask torch.int64; give floats"),
        (lambda z: Latents(z.values.long(), z.mask), "latents are torch.int64"),
        (lambda z: Latents(z.values[..., :3], z.mask), "latents have the shape (3, 8, 3)"),
        (lambda z: Latents(z.values[0], z.mask[0]), "for this model give [B, L, 16] and [B, L]"),
        (lambda z: Latents(z.values, z.mask[:1]), "the mask (1, 8)"),
        (lambda z: Latents(z.values, torch.zeros_like(z.mask)), "each row of the mask must be True at its"),
        (lambda z: Latents(z.values, z.mask.flip(1)), "each row of the mask must be True at its first places"),
        (lambda z: Latents(z.values.repeat(1, 2, 1), torch.ones(3, 16, dtype=torch.bool)), "1 to 8, and False"),
        (lambda z: Latents(z.values * float("nan"), z.mask), "latents hold NaN or infinite values"),
        (lambda z: Latents(z.values / 0, z.mask), "latents hold NaN or infinite values"),
    ],
)  # fmt: skip
def test_latents_that_cannot_be_decoded_are_refused(model: LatentDiffusion, change: Any, said: str) -> None:
    """Type, dtype, shape, mask, finite numbers; an integer mask would pick other places without a word."""
    latents = model.encode([*TEXTS[:2], "the old cat " * 9])
    assert latents.mask.shape == (3, 8)
    assert said in refused(model.decode, change(latents))


def test_latents_of_another_model_are_refused(model: LatentDiffusion, tmp_path: Path) -> None:
    """They know who made them, in parts, moved and changed; made by hand they do not, and are taken."""
    other = LatentDiffusion(tiny.tiny_parts(seed=3))
    latents = model.encode(TEXTS)
    for own in (latents, latents[1:], latents.to(torch.float64), replace(latents, values=latents.values * 0.9)):
        assert "these latents are of another model" in refused(other.decode, own)
        assert len(model.decode(own)) == len(own)
    by_hand = Latents((latents.values + latents.values.flip(0)) / 2, latents.mask)
    assert len(other.decode(by_hand)) == len(model.decode(by_hand)) == 3
    model.save_pretrained(tmp_path / "model")
    half = LatentDiffusion.from_pretrained(tmp_path / "model", dtype="bfloat16")
    assert half.decode(latents) == model.decode(latents)  # another dtype is the same model
    assert model.decode(half.encode(TEXTS)) == TEXTS
    assert model.decode(pickle.loads(pickle.dumps(latents))) == TEXTS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decoder": "paralel"}, "there is no decoder 'paralel': did you mean 'parallel'?"),
        ({"decoder": 1}, "there is no decoder 1"),
        ({"num_beam": 3}, "decode: unknown key 'num_beam': did you mean 'num_beams'?"),
        ({"num_beams": 0}, "decode: num_beams: must be greater than or equal to 1"),
        ({"num_beams": 2, "decoder": "parallel"}, "num_beams needs the autoregressive decoder"),
        ({"temperature": 0.5}, "decode: temperature and top_p need do_sample=True"),
        ({"do_sample": True, "temperature": 0.0}, "decode: temperature: must be greater than 0"),
        ({"do_sample": True, "top_p": 1.5}, "decode: top_p: must be less than or equal to 1"),
    ],
)
def test_options_of_decoding_are_checked(model: LatentDiffusion, options: dict[str, Any], said: str) -> None:
    """Names and ranges; what would have no effect is said."""
    assert said in refused(model.decode, model.encode(TEXTS), **options)


def test_where_a_model_is_loaded_from_and_to(model: LatentDiffusion) -> None:
    """A name, a folder, a device; the class itself takes parts."""
    assert refused(LatentDiffusion, "e2e") == "parts are a str; to load a model use LatentDiffusion.from_pretrained"
    for name in (None, 5, ["e2e"]):
        assert "give a folder or a name as a string or a path" in refused(LatentDiffusion.from_pretrained, name)
        assert "give a folder or a name as a string or a path" in refused(model.save_pretrained, name)
    for device in ("gpu", "cuda:99", 3.5):
        assert refused(model.to, device).startswith("this machine has no device ")
        assert "no device" in refused(LatentDiffusion.from_pretrained, "base-en", device=device)
    assert "num_levels is 1.5; it must be a whole number" in refused(model.classify, TEXTS, num_levels=1.5)


# ------------------------------------------------------------------------------------------------ other processes


def generated(model: LatentDiffusion, seed: int) -> list[str]:
    """What a worker does. (A function of this module, so that a new process finds it.)"""
    return model.generate(2, seed=seed, candidates=2, temperature=1.0) + model.reconstruct(TEXTS)


def test_case_a_model_can_be_pickled(model: LatentDiffusion) -> None:
    """Case D: `pickle.dumps(model)`, a spawn pool, Ray. Here: pickle, for every kind of schedule and latents."""
    expected = everything(model)
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        assert everything(pickle.loads(pickle.dumps(model, protocol))) == expected
    perceiver = LatentDiffusion(memorised.memorised_parts("perceiver"))
    assert pickle.loads(pickle.dumps(perceiver)).generate(2, seed=0) == perceiver.generate(2, seed=0)
    assert pickle.loads(pickle.dumps(model.generate(1, seed=0, return_samples=True)))[0].text
    with pytest.raises(UserError, match="no texts given"):
        raise pickle.loads(pickle.dumps(UserError("no texts given")))


def test_case_a_new_process_writes_the_same(model: LatentDiffusion) -> None:
    """Case D: `pickle.dumps(model)`, a spawn pool, Ray. Here: a spawn pool."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(partial(generated, model), range(3)) == [generated(model, seed) for seed in range(3)]


@pytest.mark.slow
def test_case_workers_of_joblib_write_the_same(model: LatentDiffusion) -> None:
    """Case D: `pickle.dumps(model)`, a spawn pool, Ray. Here: joblib's processes."""
    expected = [generated(model, seed) for seed in range(3)]
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    assert joblib.Parallel(2)(joblib.delayed(generated)(model, seed) for seed in range(3)) == expected


@pytest.mark.slow
def test_case_ray_workers_write_what_one_process_writes() -> None:
    """Case D: `pickle.dumps(model)`, a spawn pool, Ray. Here: the example on two workers of Ray."""
    ray = pytest.importorskip("ray", reason="needs the extra [ray]")
    data = pytest.importorskip("ray.data", reason="needs the extra [ray]")
    import runpy

    worker = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "ray_map.py"))["Ladle"]
    rows = [{"seed": i, "text": f"The boats came home after {i} days at sea."} for i in range(100)]
    alone = worker()({name: np.array([row[name] for row in rows]) for name in ("seed", "text")})
    ray.init(num_cpus=2, include_dashboard=False)
    workers = data.ActorPoolStrategy(size=2)
    found = data.from_items(rows).map_batches(worker, batch_size=10, compute=workers).take_all()
    ray.shutdown()
    found.sort(key=lambda row: row["seed"])
    assert [row["sample"] for row in found] == alone["sample"]
    np.testing.assert_allclose([row["mean_latent"] for row in found], alone["mean_latent"], atol=1e-5)


# ------------------------------------------------------------------------------------------------ threads, failures


def test_threads_share_a_model(model: LatentDiffusion) -> None:
    """Eight threads at once, texts and sources of different lengths, short and long: what one after another gives."""
    jobs = [partial(model.generate, 2, seed=i, **OPTIONS[i % len(OPTIONS)]) for i in range(18)]
    jobs += [partial(model.reconstruct, ["the old cat " * (1 + i % 9), "a cat."], "parallel") for i in range(18)]
    expected = [job() for job in jobs]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda job: job(), jobs * 2)) == expected * 2


def test_threads_cut_texts_at_their_own_length(model: LatentDiffusion) -> None:
    """A tokenizer keeps the length of its last call; sources are cut at another length than texts."""
    tokenizer, long = model.autoencoder.backbone.tokenizer, ["the old cat sat on a mat. " * 9] * 8

    def cut(limit: int) -> int:
        return int(padded_tokens(tokenizer, long, limit)["input_ids"].shape[1])

    limits = [10 + i % 5 for i in range(400)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(cut, limits)) == limits


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), MemoryError()])
def test_a_call_that_fails_leaves_the_model_whole(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """In a callback, in the denoiser, in the decoder: the next call writes what it would have written."""
    expected, noise = everything(model), torch.get_rng_state()

    def fail(*given: Any, **named: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        model.generate(2, seed=0, on_step=fail)
    for module in (model.diffusion.denoiser, model.autoencoder.backbone.model.get_decoder()):
        with monkeypatch.context() as patch:
            patch.setattr(module, "forward", fail)
            with pytest.raises(type(error)):
                model.generate(2, seed=0, label="good", candidates=2, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), noise) and not model.autoencoder.training
    assert everything(model) == expected


def test_a_move_that_fails_leaves_the_model_where_it_was(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory on the other device for all parts: those that have moved go back."""
    calls: list[torch.device] = []
    monkeypatch.setattr(model.autoencoder, "to", calls.append)

    def fail(place: torch.device) -> None:
        monkeypatch.undo()
        raise torch.OutOfMemoryError("too little")

    monkeypatch.setattr(model.diffusion, "to", fail)
    with pytest.raises(torch.OutOfMemoryError):
        model.to("meta")
    assert calls == [torch.device("meta")] and model.device.type == "cpu"
    assert model.reconstruct(TEXTS) == TEXTS


def test_an_upload_that_fails_is_one_line(model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub library's own errors are many, and none is ours."""
    import huggingface_hub

    def fail(*given: Any, **named: Any) -> Any:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(LadleError, match="^cannot upload the model to 'me/mine': no route$"):
        model.push_to_hub("me/mine")


# ------------------------------------------------------------------------------------------------ torch's defaults


@pytest.fixture
def saved(model: LatentDiffusion, tmp_path: Path) -> Path:
    """The model on disk."""
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_case_another_default_dtype_changes_nothing(model: LatentDiffusion, saved: Path, dtype: torch.dtype) -> None:
    """Case D: `torch.set_default_dtype(torch.float64)` first."""
    expected = everything(model)
    torch.set_default_dtype(dtype)
    try:
        loaded = LatentDiffusion.from_pretrained(saved)
        assert {parameter.dtype for parameter in loaded.autoencoder.parameters()} == {torch.float32}
        assert everything(loaded) == everything(model) == expected
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_default_device_changes_nothing(model: LatentDiffusion, saved: Path) -> None:
    """Programs that make their tensors on a GPU by default do so; here the device without any numbers stands for it."""
    expected = everything(model)
    torch.set_default_device("meta")
    try:
        assert everything(LatentDiffusion.from_pretrained(saved, device="cpu")) == expected
        assert torch.empty(1).device.type == "meta"
    finally:
        torch.set_default_device(None)


def test_case_a_training_ignores_the_default_dtype(tmp_path: Path) -> None:
    """Case D: `torch.set_default_dtype(torch.float64)` first. Here: then `ladle.train`, with the same weights."""
    sizes = tiny.tiny_autoencoder_config().model_dump()
    recipe = {
        "start": "nothing", "autoencoder": {**sizes, "max_tokens": 24}, "training": {"steps": 4},
        "diffusion": {"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}},
    }  # fmt: skip
    plain = train(recipe, tmp_path / "plain", data=tiny.SENTENCES, log=lambda line: None)
    torch.set_default_dtype(torch.float64)
    try:
        double = train(recipe, tmp_path / "double", data=tiny.SENTENCES, log=lambda line: None)
        texts = LatentDiffusion.from_pretrained(double).generate(3, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert texts == LatentDiffusion.from_pretrained(plain).generate(3, seed=0)
    weights = [LatentDiffusion.from_pretrained(folder).parts.autoencoder.state_dict() for folder in (plain, double)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_parts_that_are_no_model_are_refused() -> None:
    """An autoencoder in the place of the parts that hold it."""
    assert "parts are a TextAutoencoder" in refused(LatentDiffusion, tiny.tiny_autoencoder())
    assert LatentDiffusion(ModelParts("lone", tiny.tiny_autoencoder())).max_tokens == tiny.MAX_TOKENS
